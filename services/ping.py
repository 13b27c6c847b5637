"""Does the server behind a client answer, and if not, what is wrong and how is it mended?

Knows the SDK's errors by their class and status; knows no container. Nothing is paid for unless asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PING_TIMEOUT_S = 10.0  #: a list of models is made in much less


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """The outcome of one check.

    Attributes:
        server: the client's base URL.
        check: what was asked, as in `GET /models`.
        took_ms: until the answer was there; None where none came.
        problem: what is wrong, or None.
        remedy: what to do about it, or what else there is to know.
    """

    function: str
    server: str
    check: str
    took_ms: float | None
    problem: str | None = None
    remedy: str | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the server answered as it should."""
        return self.problem is None


def ping(client: Any, *, function: str, model: str) -> Ping:
    """Ask for the list of models, which costs nothing.

    Args:
        client: an `openai.OpenAI`.
        function: `completion` or `embedding`, for the advice.
        model: the name that the services will ask for; a server that lists others only is told of.
    """
    return _checked(client, function, "GET /models", lambda quick: _look_at_models(quick, function, model))


def paid_ping(client: Any, *, function: str, model: str) -> Ping:
    """Have one token made, or one short text embedded: what a real call would cost at least."""
    if function == "embedding":
        return _checked(client, function, "POST /embeddings", lambda quick: _embed(quick, model))
    return _checked(client, function, "POST /chat/completions", lambda quick: _complete(quick, model))


def _checked(client: Any, function: str, check: str, ask: Callable[[Any], str | None]) -> Ping:
    import openai

    quick = client.with_options(max_retries=0, timeout=PING_TIMEOUT_S)
    server = str(client.base_url).rstrip("/")
    started_at = time.perf_counter()
    try:
        remark = ask(quick)
    except (openai.OpenAIError, AttributeError, ValueError) as error:  # the latter: it stumbles over a web page
        problem, remedy = _diagnosis(error, function, server)
        return Ping(function=function, server=server, check=check, took_ms=None, problem=problem, remedy=remedy)
    took_ms = (time.perf_counter() - started_at) * 1000
    return Ping(function=function, server=server, check=check, took_ms=took_ms, remedy=remark)


def _look_at_models(client: Any, function: str, model: str) -> str | None:
    raw = client.models.with_raw_response.list()
    try:
        names = [str(listed["id"]) for listed in raw.http_response.json()["data"]]
    except (KeyError, TypeError) as error:
        raise ValueError("no list of models") from error
    if model in names:
        return None
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"it does not list {model}, but {shown or 'nothing'}: set {function.upper()}_MODEL"


def _embed(client: Any, model: str) -> None:
    client.embeddings.create(model=model, input=["ping"])


def _complete(client: Any, model: str) -> None:
    ask = client.chat.completions.create
    answer = ask(model=model, messages=[{"role": "user", "content": "ping"}], max_completion_tokens=1)
    if not getattr(answer, "choices", None):  # the SDK hands on whatever came with status 200
        raise ValueError("no completion")


def _diagnosis(error: Exception, function: str, server: str) -> tuple[str, str]:
    """What is wrong and how to mend it, from the error's class and status."""
    import openai

    name = function.upper()
    match error:
        case openai.APITimeoutError():
            return "it did not answer in time", f"Check that {server} is up and can be reached from here."
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
