"""An answer that is an error, in OpenAI's shape. Knows statuses and fields; knows nothing of sockets or clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An HTTP error as a server of the OpenAI API sends it; the SDK raises its own class for the status.

    Attributes:
        status: 400 or above, as in 429.
        message: what the SDK's error says.
        headers: sent with it, as in {"retry-after": "3"}.
        type, code, param: the fields of OpenAI's error object; without a type it is told by the status.
    Raises:
        ValueError: the status is no error.
    """

    status: int
    message: str = "scripted failure"
    headers: Mapping[str, str] = field(default_factory=dict)
    type: str | None = None
    code: str | None = None
    param: str | None = None

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:
            raise ValueError(f"{self.status} is not the status of a failure: give one from 400 to 599")

    def body(self) -> dict[str, object]:
        """The JSON body of the answer."""
        kind = self.type or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Refused(Exception):  # noqa: N818  # how a reader of a request says no; never leaves this room
    """The request cannot be answered; `failure` is what to send instead."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def refuse(message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> Refused:
    """A refusal to raise, of the caller's request unless another status is given."""
    return Refused(Failure(status=status, message=message, param=param, code=code))
