"""Every exception of llmwire. The class says who acts.

LLMWireError
    ConfigError            the operator: the key, where it came from, what to do
    NotWiredError          the developer: the function, the parameter, the wire() call
    InvalidInput           the caller: an input that no server could take; also a ValueError
    InvalidReply           the server: an answer that is not what was asked for
        NoText             the answer is valid, but carries no text (tool calls, a refusal, a filter)
    BudgetExceeded         the operator: what may be spent is spent; says of what, and until when
    NoRoute                the caller: an endpoint that does not exist, or nobody may or can have the request
    AllEndpointsFailed     nobody could answer: carries the attempts and when to ask again
        DeadlineExceeded   the time was over; also a TimeoutError
    StreamInterrupted      a stream broke off after its first content; carries what had arrived
        StreamTruncated    it ended in order, but before it was complete
    WorkerLost             a worker of a cluster, or the way to it, died; also a ConnectionError
    SpaceMismatch          vectors of another embedding space were refused; says which
    DiscoveryError         the config centre is silent; the last good endpoints stay in force
    NetworkRefused         a test: a real network call where the tests forbid it

Knows messages; knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .provenance import Attempt


class LLMWireError(Exception):
    """Any error that llmwire itself decided on. Errors of the SDK pass through as they are."""

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own would call a class with keyword-only fields without them: an error crosses processes whole.
        return _rebuilt, (type(self), self.args, self.__dict__)


def public_name(error: BaseException) -> str:
    """The name by which an error is known outside: of one that is the SDK's too, that of ours."""
    names = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__)
    return next(names, type(error).__name__)


@contextmanager
def as_they_are() -> Iterator[None]:
    """Raise our own errors inside the block as they are: the SDK raises its own from them."""
    try:
        yield
    except Exception as error:
        if isinstance(cause := error.__cause__, LLMWireError):
            raise cause from cause.__cause__
        raise


def _rebuilt(cls: type[LLMWireError], args: tuple[object, ...], state: dict[str, object]) -> LLMWireError:
    error = cls.__new__(cls, *args)
    error.args = args  # an OSError, as TimeoutError is, leaves that to its __init__
    error.__dict__.update(state)
    return error


class ConfigError(LLMWireError):
    """A setting is missing, misspelt or impossible.

    Args:
        problem: what is wrong, without the value of a secret.
        key: the setting, as in `completion.base_url`.
        origin: where it was read, as in `env.COMPLETION_BASE_URL`; None if it was read nowhere.
        remedy: what to do, as a sentence that starts with a verb.
    """

    def __init__(self, problem: str, *, key: str, origin: str | None = None, remedy: str) -> None:
        self.problem, self.key, self.origin, self.remedy = problem, key, origin, remedy
        super().__init__(problem, key, origin, remedy)

    def __str__(self) -> str:
        source = f" (from {self.origin})" if self.origin else ""
        return f"{self.key}{source}: {self.problem}. {self.remedy}"


class NotWiredError(LLMWireError):
    """An injected function was called, but its container was never wired to its module."""


class InvalidInput(LLMWireError, ValueError):  # noqa: N818  # reads as what it is: `except InvalidInput`
    """The caller's input cannot be sent. `position` is its index among the inputs, 0 for the first."""

    def __init__(self, message: str, *, position: int) -> None:
        self.position = position
        super().__init__(message)


class InvalidReply(LLMWireError):  # noqa: N818
    """The server's answer is not what was asked for; nothing of it was used."""


class NoText(InvalidReply):
    """A completion without text: tool calls, a refusal or a content filter. `chat()` returns the whole answer."""


class NoRoute(LLMWireError):  # noqa: N818
    """A call asks for an endpoint that does not exist, or for something that none may or can give.

    Args:
        reasons: why each endpoint of the last pool that was looked at may not have it, by their names.
        passed: why no endpoint of its pool may have it, by the names of routes that hold.
        undecided: what was wrong with routes that could not be decided, by their names.
    """

    def __init__(
        self,
        message: str,
        *,
        reasons: Mapping[str, str] | None = None,
        passed: Mapping[str, str] | None = None,
        undecided: Mapping[str, str] | None = None,
    ) -> None:
        self.reasons, self.passed, self.undecided = dict(reasons or {}), dict(passed or {}), dict(undecided or {})
        super().__init__(message)


class BudgetExceeded(LLMWireError):  # noqa: N818
    """A call was not made, as what may be spent in this minute, hour or day is spent.

    Args:
        function: `completion` or `embedding`.
        budget: as it is written, as in `5/day` or `200000 tokens/minute`; None: of each endpoint its own.
        tag: it is that of the calls with this tag; None: of all.
        spent, limit: in the budget's own unit; None where each endpoint has its own.
        retry_after_s: until the next minute, hour or day begins.
    """

    def __init__(
        self,
        message: str,
        *,
        function: str,
        budget: str | None = None,
        tag: str | None = None,
        spent: float | None = None,
        limit: float | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.function, self.budget, self.tag = function, budget, tag
        self.spent, self.limit, self.retry_after_s = spent, limit, retry_after_s
        super().__init__(message)


class AllEndpointsFailed(LLMWireError):  # noqa: N818
    """No endpoint could answer a call.

    Args:
        function: `completion` or `embedding`.
        attempts: in their order; what each server said is not in them.
        reasons: why the endpoints that were not asked were left alone, by their names.
        retry_after_s: when it is worth asking again, where that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        function: str,
        attempts: tuple[Attempt, ...] = (),
        reasons: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.function, self.attempts, self.reasons = function, attempts, dict(reasons or {})
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DeadlineExceeded(AllEndpointsFailed, TimeoutError):  # noqa: N818
    """No endpoint answered in time."""


class StreamInterrupted(LLMWireError):  # noqa: N818
    """A stream broke off after its first content. `received` is the text that had arrived, of the first choice."""

    def __init__(self, message: str, *, received: str) -> None:
        self.received = received
        super().__init__(message)


class StreamTruncated(StreamInterrupted):
    """A stream ended in order, but before the model said that it was done. `received` is the text until then."""


class WorkerLost(LLMWireError, ConnectionError):  # noqa: N818
    """A worker, or the way to it, died with a request under way, several times over. To be sent again."""


class SpaceMismatch(LLMWireError):  # noqa: N818
    """Vectors of one embedding space were about to be put beside those of another.

    Args:
        expected: the fingerprint of what is there.
        found: the fingerprint of what came.
    """

    def __init__(self, message: str, *, expected: str, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(message)


class DiscoveryError(LLMWireError):
    """A source of endpoints cannot be asked, or would not take what was to be written.

    Args:
        source: which, as in `consul://127.0.0.1:8500/llmwire/prod`.
        remedy: what to do, as a sentence that starts with a verb; empty where there is nothing but to wait.
    """

    def __init__(self, problem: str, *, source: str, remedy: str = "") -> None:
        self.problem, self.source, self.remedy = problem, source, remedy
        super().__init__(problem, source, remedy)

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}.{self.remedy and ' '}{self.remedy}"


class NetworkRefused(LLMWireError):  # noqa: N818
    """A real network call was made where the tests forbid it."""
