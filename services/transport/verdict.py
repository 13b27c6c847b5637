"""What became of an attempt, from an answer or an error and how far it came. Pure: the table of docs/failover.md.

Reads types, statuses, headers and the codes of an error's body; never the text of a message.
"""

from __future__ import annotations

import errno
import ssl
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import httpcore2
import msgspec

from ..errors import InvalidReply
from ..routing.outcome import Blame, Outcome
from .call import UNREADABLE, Call
from .deadline import Phase, Watch
from .identity import NoToken
from .references import WrongSpace
from .reply import WebPage, WrongDimensions
from .retry_after import retry_after_s

KEY_S: Final = 300.0  #: a key that is refused is tried again after five minutes, then ever later
MODEL_S: Final = 300.0  #: so is a model that a server does not know
SPACE_S: Final = 300.0  #: and a server whose vectors are of another model
CERTIFICATE_S: Final = 60.0  #: a certificate is often mended soon after it is refused
LOADING_S: Final = 1.0  #: a server that is loading a model is asked again soon,
LOADING_CAP_S: Final = 10.0  #: and at least so often, whatever it estimates
CONFLICT_S: Final = 0.5  #: what is locked is mostly free again after that

_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_POLICY: Final = frozenset({"content_policy_violation", "content_filter", "policy_violation"})
#: what servers call a request that is longer than their model takes: OpenAI and Azure, llama.cpp, LiteLLM. vLLM names
#: the parameter `input_tokens` in its place.
_TOO_LONG: Final = frozenset({"context_length_exceeded", "exceed_context_size_error", "contextwindowexceedederror"})
_BUSY: Final = frozenset({503, 529})
_CALLERS: Final = frozenset(range(400, 500)) - {401, 402, 403, 404, 405, 408, 409, 425, 429}


def of_status(call: Call, status: int, headers: Mapping[str, str], content: bytes, result: Any) -> Outcome | None:
    """What an answer's status says; None where it is a success, whose body decides.

    Args:
        headers: by their names in lower case.
        content: the body, decompressed.
    """
    if status < 300:
        return None
    error = _error_in(content)
    label = str(status)
    if status < 400:
        return _wrong_url(status, result)
    if status in (404, 405):
        return _not_found(call, status, error, result)
    if status in _CALLERS:
        is_too_long = error is not None and (bool(_TOO_LONG & error.words) or error.param == "input_tokens")
        return Outcome(blame=Blame.CALLER, label=label, status=status, result=result, is_too_long=is_too_long)
    if status in (401, 402, 403):
        if status == 403 and error is not None and _POLICY & error.words:
            return Outcome(blame=Blame.CALLER, label=label, status=status, result=result)
        return _bad_key(status, result)
    if status == 409:
        return Outcome(blame=Blame.ENDPOINT, label=label, status=status, result=result, again_s=CONFLICT_S)
    wait_s = retry_after_s(headers, now_s=time.time())
    if status == 429:
        if error is not None and "insufficient_quota" in error.words:
            return _bad_key(status, result)
        pause_s = wait_s or 0.0
        return Outcome(blame=Blame.LOAD, label=label, status=status, result=result, pause_s=pause_s, is_refusal=True)
    if status in _BUSY:
        return _busy(status, wait_s, error, result)
    return Outcome(
        blame=Blame.ENDPOINT,
        label=label,
        status=status,
        result=result,
        is_failure=True,
        may_be_poison=status == HTTPStatus.INTERNAL_SERVER_ERROR,
    )


def of_error(error: BaseException, watch: Watch, *, is_callers_time: bool) -> Outcome | None:
    """What an exception says; None where it is none of the network's, and so nobody's outcome.

    Args:
        is_callers_time: what the time of the call was cut to by its caller is over.
    """
    label = type(error).__name__
    was_sent = watch.phase >= Phase.SENT
    if isinstance(error, InvalidReply):
        is_foreign = isinstance(error, WrongSpace)
        disable_s = SPACE_S if is_foreign or isinstance(error, WrongDimensions) else None
        label = "WrongSpace" if is_foreign else "InvalidReply"
        return _failed(label, error, disable_s=disable_s, is_wrong_url=isinstance(error, WebPage))
    if isinstance(error, NoToken):
        return Outcome(blame=Blame.KEY, label=label, result=error, is_failure=True, was_sent=False)
    if watch.is_queued:
        full = httpcore2.PoolTimeout("all connections to the server are in use")
        return Outcome(blame=Blame.LOCAL, label="PoolTimeout", result=full)
    if _is_local(error):
        return Outcome(blame=Blame.LOCAL, label=label, result=error)
    if _is_certificate(error):
        return _never_sent("certificate", error, disable_s=CERTIFICATE_S, is_failure=False)
    if isinstance(error, httpcore2.TimeoutException):
        if is_callers_time:
            return Outcome(blame=Blame.CANCELLED, label="timeout", result=error, is_timeout=True, was_sent=was_sent)
        if not was_sent:
            return _never_sent("ConnectTimeout", error, is_timeout=True)
        return _failed(label, error, is_timeout=True, may_be_poison=True)
    if isinstance(error, httpcore2.NetworkError | httpcore2.ProtocolError | OSError):
        if not was_sent:
            return _never_sent(label, error)
        if not watch.is_fresh and watch.phase == Phase.SENT:
            return _failed(label, error, is_stale=True, may_be_poison=True)
        # Lost in the middle of it; but an answer that is no HTTP is the server's own doing.
        is_garbage = isinstance(error, httpcore2.ProtocolError) and watch.phase == Phase.HEADERS
        return _failed(label, error, may_be_poison=not is_garbage)
    return None


def names_the_field(name: str, content: bytes) -> bool:
    """Whether a refusal names one field, which no caller wrote."""
    return name.encode() in content


def may_mean_any_field(content: bytes) -> bool:
    """Whether a refusal gives no reason that a program could read."""
    error = _error_in(content)
    return error is None or not (error.has_code or error.param is not None or (_POLICY | _TOO_LONG) & error.words)


class _Error:
    """The error object of an answer: what may be read of it."""

    def __init__(self, fields: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        self.words = {str(fields[name]).lower() for name in ("code", "type") if fields.get(name) is not None}
        self.param = fields.get("param")
        self.has_code = isinstance(fields.get("code"), str)  # some repeat the status there, as a number
        estimated = body.get("estimated_time")
        self.estimated_s: float | None = estimated if isinstance(estimated, int | float) else None


def _error_in(content: bytes) -> _Error | None:
    """The error of an API, in the form of OpenAI, of vLLM, or of those that give a text alone."""
    try:
        body = msgspec.json.decode(content)
    except UNREADABLE:
        return None
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if isinstance(error, dict):
        return _Error(error, body)
    if isinstance(error, str) or body.get("object") == "error":
        return _Error(body, body)
    return None


def _wrong_url(status: int, result: Any) -> Outcome:
    return Outcome(
        blame=Blame.ENDPOINT,
        label=str(status),
        status=status,
        result=result,
        is_failure=True,
        is_wrong_url=True,
        is_refusal=True,
    )


def _bad_key(status: int, result: Any) -> Outcome:
    return Outcome(blame=Blame.KEY, label=str(status), status=status, result=result, disable_s=KEY_S, is_refusal=True)


def _not_found(call: Call, status: int, error: _Error | None, result: Any) -> Outcome:
    if error is None:
        return _wrong_url(status, result)
    if status == 405 or call.is_stateful or call.model is None:  # the API is there; what was asked for is not
        return Outcome(blame=Blame.CALLER, label=str(status), status=status, result=result)
    return Outcome(
        blame=Blame.ENDPOINT,
        label=str(status),
        status=status,
        result=result,
        disable_s=MODEL_S,
        is_model_unknown=True,
        is_refusal=True,
    )


def _busy(status: int, wait_s: float | None, error: _Error | None, result: Any) -> Outcome:
    estimated_s = error.estimated_s if error is not None else None
    is_loading = estimated_s is not None or (error is not None and "unavailable_error" in error.words)
    if is_loading:
        wish_s = wait_s if wait_s is not None else estimated_s or LOADING_S
        pause_s: float | None = min(max(wish_s, LOADING_S), LOADING_CAP_S)
    else:
        pause_s = wait_s
    return Outcome(
        blame=Blame.ENDPOINT,
        label=str(status),
        status=status,
        result=result,
        is_failure=not is_loading,
        pause_s=pause_s,
    )


def _failed(label: str, error: BaseException, **more: Any) -> Outcome:
    return Outcome(blame=Blame.ENDPOINT, label=label, result=error, is_failure=True, **more)


def _never_sent(label: str, error: BaseException, *, is_failure: bool = True, **more: Any) -> Outcome:
    return Outcome(blame=Blame.ENDPOINT, label=label, result=error, is_failure=is_failure, was_sent=False, **more)


def _is_local(error: BaseException) -> bool:
    if isinstance(error, httpcore2.PoolTimeout | httpcore2.LocalProtocolError | httpcore2.UnsupportedProtocol):
        return True
    return any(isinstance(cause, OSError) and cause.errno in _OURS for cause in _chain(error))


def _is_certificate(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _chain(error))


def without_frames(error: BaseException) -> None:
    """Take the tracebacks from an error and its causes: with its variables, one shows all that a server said.

    It may have repeated the key; and a frame that is kept keeps its connection.
    """
    waiting, known = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in known:
            known.add(id(one))
            one.__traceback__ = None
            waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    return chain
