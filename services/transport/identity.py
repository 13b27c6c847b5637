"""Tokens of Microsoft Entra, for Azure without a key. The one door to azure-identity, opened at the first token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..forking import renew_in_child
from ..secrets import Secret

SCOPE = "https://cognitiveservices.azure.com/.default"
REFRESH_BEFORE_S = 300.0  #: a token this near to its end is renewed: a long request must not outlive it


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
        self._lock = threading.Lock()
        renew_in_child(self)

    def token(self, *, refused: Secret | None = None) -> Secret:
        """A token that is valid for another five minutes at least. Blocks while it is fetched."""
        with self._lock:
            if refused is not None and refused == self._token:
                self._source = self._token = None
            if self._token is None or self._clock() > self._ends_at - REFRESH_BEFORE_S:
                self._fetch()
            assert self._token is not None  # noqa: S101  # for the type checker
            return self._token

    def renew_after_fork(self) -> None:
        """A child's own lock."""
        self._lock = threading.Lock()

    def _fetch(self) -> None:
        if self._source is None:
            self._source = self._credential()
        fetched = self._source.get_token(SCOPE)
        self._token, self._ends_at = Secret(fetched.token), float(fetched.expires_on)


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()
