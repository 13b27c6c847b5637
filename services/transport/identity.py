"""Tokens of Microsoft Entra, for Azure without a key. The one door to azure-identity, opened at the first token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpcore2

from ..forking import renew_in_child
from ..routing.endpoint import Endpoint
from ..secrets import Secret
from .deadline import remaining_s

SCOPE = "https://cognitiveservices.azure.com/.default"
MAX_THREADS = 8  #: that wait for identities at once
REFRESH_BEFORE_S = 300.0  #: a token this near to its end is renewed: a long request must not outlive it


class NoToken(Exception):  # noqa: N818  # never leaves this room
    """The identity that stands in for a key had no token to give: nothing was sent."""


class IdentityTokens:
    """Hands out a token and renews it before it ends, and after a server refused it. For many threads.

    Args:
        credential: builds an azure-identity credential; built again after a refusal, as its own cache would hand out
            the refused token once more. None builds DefaultAzureCredential.
        clock: seconds since the epoch.
    """

    def __init__(self, credential: Callable[[], Any] | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._credential, self._clock = credential or _default_credential, clock
        self._source: Any = None
        self._token: Secret | None = None
        self._ends_at = 0.0
        self._fetching: Future[Secret] | None = None
        self._lock = threading.Lock()
        renew_in_child(self)

    def token(self, *, refused: Secret | None = None) -> Secret:
        """A token that is valid for another five minutes, or as long as it is where no newer one is to be had.

        Blocks while one is fetched, at most until the deadline of the call.

        Raises:
            TimeoutError: the deadline has passed; the fetch goes on, for the calls to come.
        """
        with self._lock:
            if refused is not None and refused == self._token:
                self._give_up()
            if self._token is not None and self._clock() <= self._ends_at - REFRESH_BEFORE_S:
                return self._token
            fetching = self._fetching = self._fetching or self._started()
        return fetching.result(timeout=remaining_s(None))

    def renew_after_fork(self) -> None:
        """A child's own lock and credential: its parent's holds connections, and may be fetching."""
        self._lock = threading.Lock()
        self._source = self._fetching = None

    def _give_up(self) -> None:
        source, self._source, self._token = self._source, None, None
        if hasattr(source, "close"):
            source.close()

    def _started(self) -> Future[Secret]:
        fetching: Future[Secret] = Future()
        # A thread of its own: nobody can end azure-identity, but each caller can stop waiting for it.
        threading.Thread(target=self._fetch, args=(fetching,), name="llmwire identity", daemon=True).start()
        return fetching

    def _fetch(self, fetching: Future[Secret]) -> None:
        try:
            source = self._source = self._source or self._credential()
            fetched = source.get_token(SCOPE)
            token, ends_at = Secret(fetched.token), float(fetched.expires_on)
        except BaseException as error:  # whoever waits must be told of it
            with self._lock:
                self._fetching = None
                kept = self._token if self._clock() < self._ends_at else None
            if kept is None:
                fetching.set_exception(error)
            else:
                fetching.set_result(kept)
            return
        with self._lock:
            self._token, self._ends_at, self._fetching = token, ends_at, None
        fetching.set_result(token)


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


class _Threads:
    """Threads of our own for identities that block: those of the event loop also look up names, for everybody."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        renew_in_child(self)

    def __call__(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="llmwire token")
        return self._executor

    def renew_after_fork(self) -> None:
        """A child has none of its parent's threads."""
        self._executor = None


token_threads = _Threads()


def token_of(endpoint: Endpoint, *, refused: Secret | None = None) -> Secret | None:
    """The key, or a token that is valid now. May block on an identity server."""
    credential = endpoint.credential
    if credential is None or isinstance(credential, Secret):
        return credential
    try:
        return credential.token(refused=refused)
    except (TimeoutError, httpcore2.TimeoutException) as error:
        raise httpcore2.ReadTimeout("no token in time") from error
    except Exception as error:  # whatever an identity library raises
        raise NoToken(f"no token: {error}") from error
