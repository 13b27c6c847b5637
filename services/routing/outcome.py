"""What became of one attempt, and whose fault it was. Knows consequences; knows nothing of statuses or exceptions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class Blame(StrEnum):
    """Whose fault it was that an attempt did not serve."""

    CALLER = "caller"  #: the request itself: no other server would take it
    LOAD = "load"  #: the server is busy, and well
    ENDPOINT = "endpoint"  #: the server, or the way to it
    KEY = "key"  #: the credential, or the account behind it
    LOCAL = "local"  #: this process
    CANCELLED = "cancelled"  #: the caller no longer waits


@dataclass(slots=True, kw_only=True)  # not frozen, though nobody changes one: that would double the cost of each call
class Outcome:
    """How an attempt ended. Without a blame it served.

    Attributes:
        label: what happened in one word, as in `503`, `ConnectError`, `InvalidReply`; never text of the server's.
        result: what the attempt brought: an answer or an exception. Nobody in this room looks into it.
        status: of the HTTP answer, where there was one.
        is_failure: counts against the endpoint's breaker.
        was_sent: the server may have begun to work on it.
        is_refusal: the server said that it did not work on it, so that another may.
        may_be_poison: the request itself may have brought the server down.
        is_wrong_url: the answer is not of this API at all.
        is_timeout: no answer in time.
        is_stale: a connection that was kept alive had died unnoticed: nobody's fault.
        pause_s: how long to leave the endpoint alone; 0 where the server did not say.
        disable_s: for how long it is certain that this endpoint cannot answer.
        is_model_unknown: `disable_s` holds for the requested model only.
        is_too_long: the request has more tokens than the model takes: one with a larger context may take it.
        again_s: the same endpoint may be asked once more after so long.
        is_open: the answer goes on, as a stream whose first content is there; its lease is settled at its end.
    """

    blame: Blame | None = None
    label: str = "served"
    result: Any = field(default=None, repr=False)
    status: int | None = None
    is_failure: bool = False
    was_sent: bool = True
    is_refusal: bool = False
    may_be_poison: bool = False
    is_wrong_url: bool = False
    is_timeout: bool = False
    is_stale: bool = False
    pause_s: float | None = None
    disable_s: float | None = None
    is_model_unknown: bool = False
    is_too_long: bool = False
    again_s: float | None = None
    is_open: bool = False

    @property
    def has_served(self) -> bool:
        """Whether the attempt brought what was asked for."""
        return self.blame is None

    @property
    def is_lasting(self) -> bool:
        """Whether the same endpoint would say the same again: a setting is wrong, and not the moment."""
        return self.disable_s is not None or self.is_wrong_url

    def without_penalty(self) -> Outcome:
        """The same, but neutral for the endpoint."""
        return replace(self, is_failure=False, is_wrong_url=False, pause_s=None, disable_s=None)


CANCELLED = Outcome(blame=Blame.CANCELLED, label="cancelled")
