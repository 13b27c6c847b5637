"""Does the server behind a client answer, and if not, what is wrong and how is it mended?

Knows the SDK's errors by their class and status; knows no container. Nothing is paid for unless asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import InvalidReply
from .routing.endpoint import Endpoint

PING_TIMEOUT_S = 10.0  #: a list of models is made in much less


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """The outcome of one check.

    Attributes:
        server: the base URL that was asked.
        check: what was asked, as in `GET /models`.
        took_ms: until the answer was there; None where none came.
        problem: what is wrong, or None.
        remedy: what to do about it, or what else there is to know.
        endpoint: its name, where a client has several.
    """

    function: str
    server: str
    check: str
    took_ms: float | None
    problem: str | None = None
    remedy: str | None = None
    endpoint: str | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the server answered as it should."""
        return self.problem is None


def ping(client: Any, *, function: str, model: str, endpoint: Endpoint | None = None) -> Ping:
    """Ask for the list of models, which costs nothing.

    Args:
        client: an `openai.OpenAI`.
        function: `completion` or `embedding`, for the advice.
        model: the name that the services will ask for; a server that lists others only is told of.
        endpoint: the one to ask, where the client has a pool of them.
    """
    wanted = (endpoint and endpoint.model) or model
    return _checked(
        client,
        function,
        endpoint,
        "GET /models",
        lambda quick: _look_at_models(quick, _prefix(function, endpoint), wanted),
    )


def paid_ping(client: Any, *, function: str, model: str, endpoint: Endpoint | None = None) -> Ping:
    """Have one token made, or one short text embedded: what a real call would cost at least."""
    if function == "embedding":
        return _checked(client, function, endpoint, "POST /embeddings", lambda quick: _embed(quick, model))
    return _checked(client, function, endpoint, "POST /chat/completions", lambda quick: _complete(quick, model))


def _checked(
    client: Any, function: str, endpoint: Endpoint | None, check: str, ask: Callable[[Any], str | None]
) -> Ping:
    import openai

    from .transport.dialect import ONLY_HEADER

    directed = {} if endpoint is None else {"default_headers": {ONLY_HEADER: endpoint.name}}
    quick = client.with_options(max_retries=0, timeout=PING_TIMEOUT_S, **directed)
    server = endpoint.base_url if endpoint else str(client.base_url).rstrip("/")
    took_ms = problem = None
    started_at = time.perf_counter()
    try:
        remark = ask(quick)
        took_ms = (time.perf_counter() - started_at) * 1000
    except (openai.OpenAIError, AttributeError, ValueError) as error:  # the latter: it stumbles over a web page
        problem, remark = _diagnosis(error, _prefix(function, endpoint), server)
    name = endpoint.name if endpoint else None
    return Ping(
        function=function, server=server, check=check, took_ms=took_ms, problem=problem, remedy=remark, endpoint=name
    )


def _prefix(function: str, endpoint: Endpoint | None) -> str:
    """How the variables begin that hold its settings."""
    if endpoint is None or endpoint.name == "default":
        return function.upper()
    return f"{function}_{endpoint.name}".upper().replace("-", "_")


def _look_at_models(client: Any, prefix: str, model: str) -> str | None:
    raw = client.models.with_raw_response.list()
    try:
        names = [str(listed["id"]) for listed in raw.http_response.json()["data"]]
    except (KeyError, TypeError) as error:
        raise ValueError("no list of models") from error
    if model in names:
        return None
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"it does not list {model}, but {shown or 'nothing'}: set {prefix}_MODEL"


def _embed(client: Any, model: str) -> None:
    client.embeddings.create(model=model, input=["ping"])


def _complete(client: Any, model: str) -> None:
    ask = client.chat.completions.create
    answer = ask(model=model, messages=[{"role": "user", "content": "ping"}], max_completion_tokens=1)
    if not getattr(answer, "choices", None):  # the SDK hands on whatever came with status 200
        raise ValueError("no completion")


def _diagnosis(error: Exception, name: str, server: str) -> tuple[str, str]:
    """What is wrong and how to mend it, from the error's class and status."""
    import openai

    match error:
        case openai.APITimeoutError():
            return "it did not answer in time", f"Check that {server} is up and can be reached from here."
        case openai.APIConnectionError() if isinstance(getattr(error.__cause__, "__cause__", None), InvalidReply):
            return "its answer is none of the OpenAI API", f"Check {name}_BASE_URL: is it a web page?"
        case openai.APIConnectionError():
            return str(error.__cause__ or error), f"Start the server, or correct {name}_BASE_URL."
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return f"it refused the key (status {error.status_code})", f"Correct {name}_API_KEY."
        case openai.NotFoundError():
            remedy = f"Check the path of {name}_BASE_URL, which often ends in /v1, and {name}_MODEL."
            return f"it does not know what was asked for (status {error.status_code})", remedy
        case openai.RateLimitError():
            return "it is busy, or the account is used up (status 429)", "Wait, or look at the account."
        case openai.APIResponseValidationError() | AttributeError() | ValueError():
            return "its answer is none of the OpenAI API", f"Check {name}_BASE_URL: is it a web page?"
        case openai.APIStatusError():
            return f"it answered with status {error.status_code}", "Look into the server's log."
        case _:
            return f"{type(error).__name__}: {error}", "Check the settings with llmwire explain."
