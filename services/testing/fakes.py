"""Fakes that are genuine clients of the openai SDK: everything above the transport is the real thing.

They touch neither the network nor the environment: keys, organisations, custom headers and proxies that are set
there have no effect and are not recorded.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
from openai import AsyncOpenAI, OpenAI

from .failures import Failure
from .reading import FUNCTIONS
from .replies import Reply
from .script import HashedEmbeddings, RecordedCall, Script, ScriptedCompletions, Stage

_BASE_URL = "http://fake.invalid/v1"  # RFC 2606: .invalid never resolves
_PLACEHOLDER = "no-key-needed"

#: what the SDK reads from the environment when it is given None
_AMBIENT = ("admin_api_key", "organization", "project", "webhook_secret")

_CREDENTIALS = frozenset({"authorization", "api-key"})


class _SyncPlayer(httpx2.BaseTransport):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return _played(self._stage, request, request.read())


class _AsyncPlayer(httpx2.AsyncBaseTransport):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return _played(self._stage, request, await request.aread())


class _SyncTheatre(httpx2.Client):
    """The HTTP client of a fake. The SDK hands it on when a client is copied, and with it the stage."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(transport=_SyncPlayer(stage), trust_env=False)
        self.stage = stage


class _AsyncTheatre(httpx2.AsyncClient):
    def __init__(self, stage: Stage) -> None:
        super().__init__(transport=_AsyncPlayer(stage), trust_env=False)
        self.stage = stage


class _Fake(OpenAI):
    def __init__(self, stage: Stage, options: dict[str, Any]) -> None:
        theatre = options.pop("http_client", None) or _SyncTheatre(stage)
        if not isinstance(theatre, _SyncTheatre):
            raise TypeError("a fake has its own http_client: it never sends anything")
        super().__init__(http_client=theatre, **_sealed(options))
        _forget_environment(self, options)
        self._stage = theatre.stage

    @property
    def calls(self) -> list[RecordedCall]:
        """Every call so far, the earliest first; those of `with_options()` and other copies among them."""
        return self._stage.calls


class _AsyncFake(AsyncOpenAI):
    def __init__(self, stage: Stage, options: dict[str, Any]) -> None:
        theatre = options.pop("http_client", None) or _AsyncTheatre(stage)
        if not isinstance(theatre, _AsyncTheatre):
            raise TypeError("a fake has its own http_client: it never sends anything")
        super().__init__(http_client=theatre, **_sealed(options))
        _forget_environment(self, options)
        self._stage = theatre.stage

    @property
    def calls(self) -> list[RecordedCall]:
        """Every call so far, the earliest first; those of `with_options()` and other copies among them."""
        return self._stage.calls


class FakeCompletions(_Fake):
    """An `openai.OpenAI` that answers chat, completions and responses by a script; plain, streamed, parsed or raw.

        FakeCompletions("hello")                                      # to every call
        FakeCompletions(["first", Failure(status=429), "third"])      # one for each call; one call more is an error
        FakeCompletions(lambda call: call.body["messages"][-1]["content"].upper())

    Args:
        script: an answer, a sequence of answers, or a function from a RecordedCall to an answer. An answer is
            - a str: the text;
            - a pydantic model: its JSON, as `parse()` and tool-calling frameworks expect it;
            - a dict: the whole JSON body, sent as it is;
            - a Failure: an HTTP error; the SDK raises its own class for the status;
            - an exception: raised; a ConnectionError or TimeoutError as the SDK's APIConnectionError, APITimeoutError.
        options: the SDK's own, as in `timeout=3`. Without `max_retries` nothing is retried.
    Raises:
        ScriptExhausted: (by a call) the list has no answer left.
    """

    def __init__(self, script: Script = "fake answer", **options: Any) -> None:
        super().__init__(Stage(ScriptedCompletions(script)), options)


class AsyncFakeCompletions(_AsyncFake):
    """An `openai.AsyncOpenAI`; otherwise as FakeCompletions."""

    def __init__(self, script: Script = "fake answer", **options: Any) -> None:
        super().__init__(Stage(ScriptedCompletions(script)), options)


class FakeEmbeddings(_Fake):
    """An `openai.OpenAI` that gives each text a vector of its own: of length 1, the same in every process.

    The vectors know nothing of meaning: of two texts, none is nearer to a third. For that there is StandIn.

    Args:
        dimensions: of a vector, where the request names none.
        failure: what every call fails with, a Failure or an exception, as in FakeCompletions.
        options: the SDK's own.
    """

    def __init__(self, dimensions: int = 8, *, failure: Failure | Exception | None = None, **options: Any) -> None:
        super().__init__(Stage(HashedEmbeddings(dimensions, failure)), options)


class AsyncFakeEmbeddings(_AsyncFake):
    """An `openai.AsyncOpenAI`; otherwise as FakeEmbeddings."""

    def __init__(self, dimensions: int = 8, *, failure: Failure | Exception | None = None, **options: Any) -> None:
        super().__init__(Stage(HashedEmbeddings(dimensions, failure)), options)


def _sealed(options: dict[str, Any]) -> dict[str, Any]:
    """The SDK's options with nothing left for it to look up."""
    given = {name: value for name, value in options.items() if value is not None}
    blank = dict.fromkeys(_AMBIENT, "")
    return {"api_key": _PLACEHOLDER, "base_url": _BASE_URL, "max_retries": 0, **blank, **given}


def _forget_environment(client: OpenAI | AsyncOpenAI, options: dict[str, Any]) -> None:
    for name in _AMBIENT:
        setattr(client, name, options.get(name))
    # No argument keeps the SDK from reading OPENAI_CUSTOM_HEADERS.
    client._custom_headers = dict(options.get("default_headers") or {})  # noqa: SLF001
    client._ambient_authorizations = frozenset()  # noqa: SLF001


def _played(stage: Stage, request: httpx2.Request, content: bytes) -> httpx2.Response:
    try:
        reply = stage.play(_recorded(request, content))
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error), request=request) from error
    except ConnectionError as error:
        raise httpx2.ConnectError(str(error), request=request) from error
    return _response(reply)


def _recorded(request: httpx2.Request, content: bytes) -> RecordedCall:
    headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in _CREDENTIALS}
    return RecordedCall(method=request.method, path=_path(request), body=_json_of(content), headers=headers)


def _path(request: httpx2.Request) -> str:
    """The path below the base URL, whatever that is: a copy of a fake may have another."""
    path = request.url.path
    known = (operation for operation in FUNCTIONS if path.endswith(f"/{operation}"))
    return next(known, path.removeprefix("/v1").strip("/"))


def _json_of(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _response(reply: Reply) -> httpx2.Response:
    if isinstance(reply.content, bytes):
        return httpx2.Response(reply.status, headers=reply.headers, content=reply.content)
    return httpx2.Response(reply.status, headers=reply.headers, stream=_Events(reply.content))


class _Events(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The events of a stream, one at a time, for either kind of client."""

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames = frames

    def __iter__(self) -> Iterator[bytes]:
        return self._frames

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for frame in self._frames:
            yield frame
