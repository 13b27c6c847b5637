"""What both transports share: how a request of the SDK becomes a story, and what an answer means.

Knows one request, one attempt, one answer; sends nothing.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import httpcore2
import httpx2

from ..errors import NoRoute, public_name
from ..events import ConfigWarned
from ..routing.endpoint import Endpoint, expires
from ..routing.failover import AfterSend, CallSpec, Ending, Send, Story, Wish
from ..routing.hedging import Hedge
from ..routing.outcome import Blame, Outcome
from ..routing.pool import Pool, Selection
from ..routing.router import Decision
from ..secrets import MASK, Secret
from ..wanted import Wanted, wanted
from . import network
from .blocking import SyncAnswer
from .body import decompressed, encoding_of, without_encoding
from .call import Call, Kind
from .conclusion import Received, concluded
from .course import BROKEN
from .deadline import Cut, Phase, Watch
from .dialect import headers_for, operation_of, url_for
from .identity import NoToken
from .nonblocking import AsyncAnswer
from .reply import checked, most_bytes
from .router import Question, asks_of
from .telling import Teller, Wire
from .telling_usage import NAMED_S, REFUSED, UNNAMED_S
from .traffic import Traffic
from .verdict import may_mean_any_field, names_the_field, of_error, of_status, without_frames
from .written import Written

FAILED = (*BROKEN, NoToken, httpcore2.UnsupportedProtocol)  #: what may go wrong in an attempt

STALE_S = 1.0  #: far more than a round trip
ROUTING_S = 5.0  #: of an embedding that decides where a text goes: one that comes late serves the next request
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_KNOWN_PATHS = 1000  #: a caller who makes up paths fills no memory

Answer = SyncAnswer | AsyncAnswer


class Asked:
    """One request of the SDK, before it is sent anywhere.

    Attributes:
        wanted: what its caller asks for beside it.
        only: the name of the one endpoint that it is for.
        question: on the way to its pool; None where every endpoint may have it.
        among: that one endpoint, where its trust is demanded.
        teller: tells what becomes of it.
    """

    __slots__ = ("among", "began_at_s", "call", "only", "patience_s", "question", "seen", "teller", "wanted")

    def __init__(self, call: Call, wire: Wire, function: str, patience_s: float | None) -> None:
        self.began_at_s = time.monotonic()
        self.patience_s = patience_s
        self.call = call
        self.only = next((value for name, value in call.asks if name == "only"), None) if call.asks else None
        block = wanted()
        self.wanted = block.and_also(*asks_of(call)) if call.asks else block
        if self.wanted.is_for_routing:  # whoever asked waits no longer; a server that hangs must not hold its thread
            self.patience_s = min(self.patience_s or ROUTING_S, ROUTING_S)
        self.question: Question | None = None
        self.seen: tuple[Endpoint, ...] = ()
        self.among: Selection | None = None
        self.teller = Teller(
            wire,
            function,
            call.operation,
            call.model,
            began_at_s=self.began_at_s,
            tags=self.wanted.tags,
            is_for_routing=self.wanted.is_for_routing,
        )

    def renewed(self, traffic: Traffic) -> Selection | None:
        """Of a call that every endpoint might have: which may have it now, where they were swapped since; None: all."""
        if (endpoints := traffic.pool.endpoints) is self.seen:
            return None
        self.seen = endpoints
        try:
            question = traffic.router.question(self.call, self.wanted)
        except NoRoute:
            return None
        return None if question is None or question.open is not None else question.decision.choice.among

    @property
    def decision(self) -> Decision | None:
        """Where it goes; None where every endpoint may have it."""
        return None if self.question is None else self.question.decision

    def routing_s(self, limit_s: float) -> float:
        """How long the decision may take: half of what the caller gives is for the answer."""
        return limit_s if self.patience_s is None else min(limit_s, self.patience_s / 2)

    def ends_at_s(self, deadline_s: float) -> float:
        """When it is over, where it may take so long and its caller does not say less."""
        patience_s = self.patience_s
        return self.began_at_s + (deadline_s if patience_s is None else min(patience_s, deadline_s))


class Sending:
    """One request on its way to one endpoint.

    Attributes:
        canary: the kind of request for which it is a canary; None where it is the caller's own.
        teller: tells of the call.
        is_hedge, has_moved: as the story says.
        asks_usage: the usage of its stream is asked for, which its caller did not do.
        without_usage_s: it was refused for that question, as it seems, and for so long it is not to be asked again.
        sent_bytes, received_bytes: of the two bodies, as far as they are known.
        pid: of the process that sends it.
        cut: what may end it from another thread; None: nothing does.
    """

    __slots__ = (
        "asks_usage",
        "call",
        "canary",
        "chunk_s",
        "cut",
        "endpoint",
        "has_moved",
        "is_callers_time",
        "is_hedge",
        "lease",
        "pid",
        "received_bytes",
        "sent_by",
        "sent_bytes",
        "started_at_s",
        "teller",
        "token",
        "watch",
        "without_usage_s",
    )

    def __init__(
        self, call: Call, send: Send, teller: Teller, *, chunk_s: float | None, is_callers_time: bool, asks_usage: bool
    ) -> None:
        self.canary, self.teller, self.asks_usage = send.canary, teller, asks_usage
        self.is_hedge, self.has_moved = send.is_hedge, send.has_moved
        self.sent_bytes = self.received_bytes = 0
        self.without_usage_s: float | None = None
        self.pid = os.getpid()
        self.call, self.lease, self.endpoint = call, send.lease, send.lease.endpoint
        self.sent_by = send.ends_at_s
        self.is_callers_time = is_callers_time
        timeouts = self.endpoint.timeouts
        self.chunk_s = timeouts.chunk_s if chunk_s is None else min(timeouts.chunk_s, chunk_s)
        self.token: Secret | None = None
        self.cut: Cut | None = None
        self.begin_again()

    def begin_again(self) -> None:
        """Start the clock of the sending."""
        self.started_at_s = time.monotonic()
        self.received_bytes = 0
        self.watch = Watch(min(self.sent_by, self.started_at_s + self.endpoint.timeouts.first_byte_s))
        self.watch.chunk_s, self.watch.cut = self.chunk_s, self.cut

    def goes_on_anew(self) -> None:
        """Another request follows at once, in the same attempt: nothing of it was sent yet, and it has a first byte."""
        watch = self.watch
        watch.phase, watch.is_fresh = Phase.LOCAL, False
        watch.ends_at_s = min(self.sent_by, time.monotonic() + self.endpoint.timeouts.first_byte_s)

    @property
    def model(self) -> str | None:
        """What the endpoint is asked for."""
        return self.endpoint.model or self.call.model

    def to_be_cut_by(self, cut: Cut | None) -> Sending:
        """Itself, which may be ended from another thread."""
        self.cut = self.watch.cut = cut
        return self

    def may_go_on(self, answer: Answer) -> None:
        """The first content is there: a stream may now take its time, anything else has that of the call."""
        is_stream = self.call.kind is not Kind.OTHER or _has_type(answer, b"text/event-stream")
        self.watch.ends_at_s = None if is_stream else self.sent_by

    def may_be_repeated(self, spec: CallSpec) -> bool:
        """Whether a request that met a dead connection may be sent again: surely it was not worked on yet.

        A server that had closed the connection says so within a round trip; what is lost later may have been begun.
        """
        is_early = time.monotonic() - self.started_at_s < STALE_S
        is_allowed = not self.call.is_stateful and spec.after_send is not AfterSend.NEVER
        return is_early and is_allowed and self.call.content is not None

    @property
    def is_past_callers_time(self) -> bool:
        """Whether the time is over that the caller gave, who gave less than the settings."""
        return self.is_callers_time and time.monotonic() >= self.sent_by - 0.001


class Facade:
    """What both transports share: how a request becomes a story, and what an answer means."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._function = traffic.facade.function
        self._base = httpx2.URL(traffic.facade.base_url)
        self._operations: dict[tuple[bytes, bytes], str] = {}
        self._is_closed = False
        self._pid = os.getpid()

    @property
    def pool(self) -> Pool:
        """The endpoints that requests may go to."""
        return self._traffic.pool

    def asked(self, request: httpx2.Request) -> Asked:
        """What a request of the SDK is, and where it goes, unless its meaning is to decide.

        Raises:
            NoRoute: there is no endpoint that can and may have it.
        """
        if self._is_closed:
            raise RuntimeError("this client was closed by its container; ask the container for a new one")
        traffic = self._traffic
        traffic.ambient.leave(request)
        if traffic.wake is not None:
            traffic.wake()
        call = Call(request, self._operation(request.url))
        asked = Asked(call, traffic.wire, self._function, traffic.patience_of(request))
        try:
            traffic.check_budget(asked.wanted.tags)
            if asked.only is not None:
                asked.among = self._only(asked.only, asked.wanted)
            else:
                asked.seen = traffic.pool.endpoints
                asked.question = traffic.router.question(asked.call, asked.wanted)
        except BaseException as error:
            self.broke_off(asked, error)
            raise
        return asked

    def begin(self, asked: Asked) -> tuple[Story | Hedge, Callable[[Send], Sending]]:
        """The story of a request, or two of them; and what makes a sending of each of their steps."""
        traffic, call, decision = self._traffic, asked.call, asked.decision
        model = asked.question.model if asked.question is not None else None
        if decision is not None and decision.is_named and model is not None:
            call = call.asking_for(model)
        teller = asked.teller
        teller.decision, teller.model = decision, call.model
        choice = decision.choice if decision is not None else None
        deadline_s = traffic.limits(choice).deadline_s
        wish = Wish(
            model=call.model,
            ends_at_s=asked.ends_at_s(deadline_s),
            is_replayable=call.content is not None,
            is_stateful=call.is_stateful,
            only=asked.only,
            among=choice.among if choice is not None else asked.among,
            renewed=self._renewed(asked),
        )
        longest_s = deadline_s
        if decision is not None and decision.larger is not None:
            larger_s = traffic.limits(decision.larger).deadline_s
            longest_s = max(longest_s, larger_s)
            wish.larger, wish.larger_ends_at_s = decision.larger.among, asked.ends_at_s(larger_s)
        call.is_for_all = wish.only is None  # whoever names one endpoint, means it
        if call.is_for_all and call.space is not None and traffic.may_differ():
            wish.canary = call.space
        patience_s = asked.patience_s
        has_less = patience_s is not None and patience_s < longest_s
        callers_end_s = asked.ends_at_s(longest_s) if has_less else None

        def sending(send: Send) -> Sending:
            network.check(send.lease.endpoint.server)
            its = call if send.canary is None else self._canary(call, send.canary)
            # A canary has less time, which is ours.
            is_callers = callers_end_s is not None and send.ends_at_s >= callers_end_s
            asks_usage = traffic.usage.may_be_asked(send.lease.endpoint, its)
            return Sending(its, send, teller, chunk_s=patience_s, is_callers_time=is_callers, asks_usage=asks_usage)

        hedging = traffic.hedging  # once: it may be exchanged
        if hedging is not None and traffic.may_be_hedged(call, wish):
            size_bytes = len(call.content or b"")
            hedge = Hedge(hedging, wish, traffic.story, size_bytes=size_bytes, clock=time.monotonic)
            teller.hedge = hedge
            return hedge, sending
        return traffic.story(wish), sending

    def _renewed(self, asked: Asked) -> Callable[[], Selection | None] | None:
        """What looks who is there now, where the endpoints may be others since the call was decided on."""
        if asked.question is not None:
            return asked.question.renewed
        return partial(asked.renewed, self._traffic) if self._traffic.is_live and asked.only is None else None

    def concluded(self, asked: Asked, ending: Ending) -> httpx2.Response:
        """What the SDK gets. Raises our own errors, and httpx2's for what is local to this process."""
        decision, teller = asked.decision, asked.teller
        choice = None
        if decision is not None:
            choice = decision.larger if ending.has_moved else decision.choice
        if ending.lease is not None and ending.outcome is not None:
            if ending.is_denied:
                teller.denied(ending.lease.endpoint)
            teller.answered(ending.lease.endpoint, ending.outcome, has_moved=ending.has_moved)
        response = concluded(self._function, ending, self._traffic.limits(choice), decision=decision)
        if ending.outcome is None:  # nobody was asked: it is an answer of our own
            teller.failed(str(response.status_code))
        return response

    def broke_off(self, asked: Asked, error: BaseException) -> None:
        """A call ended with an error that is none of its answers."""
        asked.teller.failed("cancelled" if not isinstance(error, Exception) else public_name(error))

    def _canary(self, call: Call, kind: str) -> Call:
        return call.canary() if kind == call.space else call.canary(self._traffic.references.request_of(kind))

    def _only(self, name: str, wanted: Wanted) -> Selection | None:
        """The one endpoint that a caller names, as it is now, where it also demands trust."""
        known = {endpoint.name: endpoint for endpoint in self._traffic.pool.endpoints}
        if name not in known:
            raise NoRoute(f"there is no {self._function} endpoint {name!r}: there are {', '.join(known)}")
        if wanted.trust is None:
            return None
        endpoint = known[name]
        if endpoint.trust not in wanted.trust:
            demanded = " or ".join(sorted(wanted.trust))
            its = endpoint.trust or "without a label"
            raise NoRoute(f"the {self._function} endpoint {name} is {its}, not {demanded}")
        return Selection(names=frozenset([name]), places={name: (endpoint.server, endpoint.trust)})

    def _operation(self, url: httpx2.URL) -> str:
        key = (url.netloc, url.raw_path) if url.raw_scheme == self._base.raw_scheme else (b"", b"")
        operation = self._operations.get(key)
        if operation is None:
            operation = operation_of(url, self._base)
            if len(self._operations) < _KNOWN_PATHS:
                self._operations[key] = operation
        return operation

    def written(self, sending: Sending) -> Written:
        """The request as it goes to the endpoint, with its credential and no other."""
        call, endpoint = sending.call, sending.endpoint
        url = url_for(endpoint, call)  # first: where it raises, no key is among the variables
        content = call.content_for(endpoint.model, asks_usage=sending.asks_usage)
        sending.sent_bytes = len(content) if content is not None else 0
        headers = headers_for(endpoint, call, ambient=self._traffic.ambient, token=sending.token)
        if content is not None and (content or call.method in _WITH_BODY):
            headers.append((b"Content-Length", b"%d" % len(content)))
        left_s = max(sending.sent_by - time.monotonic(), 0.001)
        asked = call.request.extensions.get("timeout", {})
        timeouts = {
            "connect": _least(asked.get("connect"), min(endpoint.timeouts.connect_s, left_s)),
            "read": min(endpoint.timeouts.first_byte_s, left_s),
            "write": min(endpoint.timeouts.first_byte_s, left_s),
            "pool": min(endpoint.timeouts.first_byte_s, left_s),
        }
        return Written(call.method, url, headers, content=content, stream=call.stream, timeouts=timeouts)

    def may_renew(self, sending: Sending, answer: Answer) -> bool:
        """Whether a refused token may give way to a newer one."""
        is_refused = answer.status == 401 and expires(sending.endpoint.credential)
        return is_refused and sending.call.content is not None

    def may_ask_less(self, sending: Sending, answer: Answer, content: bytes) -> bool:
        """Whether a request may have been refused for its question for usage: it is to be sent again without."""
        if not sending.asks_usage or answer.status not in REFUSED:
            return False
        plain = decompressed(answer.headers, content, most_bytes(sending.call))
        is_named = names_the_field("stream_options", plain)
        takes = self._traffic.usage.takes(sending.endpoint, sending.call)
        if not is_named and (takes or not may_mean_any_field(plain)):
            return False
        self.tell_again(sending, answer.status)
        sending.asks_usage, sending.without_usage_s = False, NAMED_S if is_named else UNNAMED_S
        sending.goes_on_anew()
        return True

    def has_asked(self, sending: Sending, answer: Answer) -> None:
        """The answer shows whether the endpoint can be asked for the usage of a stream."""
        if answer.status >= 300:
            return
        endpoint, call, wire = sending.endpoint, sending.call, self._traffic.wire
        if sending.asks_usage:
            self._traffic.usage.taken(endpoint, call)
        elif sending.without_usage_s is not None:
            self._traffic.usage.refused(endpoint, call, sending.without_usage_s)
            if wire.spending is not None:
                message = f"{endpoint.name} does not tell the usage of streams: these are in no budget"
                key = f"{self._function}.stream_usage"
                wire.tell(ConfigWarned(function=self._function, key=key, origin=endpoint.server, message=message))

    def is_handed_on(self, sending: Sending, answer: Answer) -> bool:
        """Whether the body goes to the caller while it comes: of streams, and of what is not looked at."""
        call = sending.call
        return answer.status < 300 and (call.kind is Kind.OTHER or _is_stream(call, answer))

    def judged(self, sending: Sending, answer: Answer, content: bytes) -> Outcome:
        """What a whole answer means. Raises InvalidReply where it is none."""
        call, headers = sending.call, answer.headers
        plain = decompressed(headers, content, most_bytes(call)) if encoding_of(headers) else content
        received = Received(answer.status, headers, answer.extensions, content=content)
        sending.received_bytes = len(content)
        if answer.status >= 300:
            by_name = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
            outcome = of_status(call, answer.status, by_name, plain, received)
            assert outcome is not None  # noqa: S101  # for the type checker: it is no success
            self._hide_token(sending, received, plain)
            return outcome
        fit, received.vectors, received.usage, received.model = checked(call, plain, self._traffic.widths)
        if sending.canary is not None and received.vectors is not None:
            vector, request = received.vectors.matrix[0], call.content or b""
            self._traffic.references.check(sending.canary, vector, sending.endpoint.name, request)
        if fit is not plain:
            received.content, received.headers = fit, without_encoding(headers)
        self._hide_token(sending, received)
        return Outcome(result=received, status=answer.status)

    def opened(self, sending: Sending, answer: Answer, stream: Any) -> Outcome:
        """The outcome of an answer that is handed on while it comes."""
        headers = without_encoding(answer.headers) if encoding_of(answer.headers) else answer.headers
        received = Received(answer.status, headers, answer.extensions, stream=stream)
        self._hide_token(sending, received)
        return Outcome(result=received, status=answer.status, is_open=True)

    def failed(self, sending: Sending, error: Exception) -> Outcome:
        """What an error means. Raises it again where it is nobody's outcome."""
        if sending.cut is not None:
            sending.cut.check()  # the error is of our own making
        if self._is_closed:
            raise closed_meanwhile() from error
        outcome = of_error(error, sending.watch, is_callers_time=sending.is_past_callers_time)
        if outcome is None:
            raise error
        if sending.token is not None and sending.token.reveal() in str(error):
            error.args = (str(error).replace(sending.token.reveal(), MASK),)
        without_frames(error)
        return outcome

    def _hide_token(self, sending: Sending, received: Received, error: bytes = b"") -> None:
        """Some servers repeat the key: in what they say of an error, or in their headers, which the SDK logs."""
        secret = sending.token.reveal().encode() if sending.token is not None else b""
        if not secret:
            return
        if secret in error:
            received.content = error.replace(secret, MASK.encode())
            received.headers = without_encoding(received.headers)
        if secret in b"\n".join([value for _, value in received.headers]):
            received.headers = [(name, value.replace(secret, MASK.encode())) for name, value in received.headers]
        if secret in (reason := received.extensions.get("reason_phrase", b"")):
            masked = reason.replace(secret, MASK.encode())
            received.extensions = {**received.extensions, "reason_phrase": masked}

    def tell_again(self, sending: Sending, status: int) -> None:
        """An answer was refused that is asked for once more, at once and of the same endpoint."""
        refused = Outcome(blame=Blame.ENDPOINT, label=str(status), status=status)
        sending.teller.attempt(sending, refused, is_repeated=True)

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True) and self._pid == os.getpid():
            message = f"unclosed {self._function} client: call container.shutdown_resources() or client.close()"
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)


def _is_stream(call: Call, answer: Answer) -> bool:
    """Whether a stream was asked for and came. What is plainly none of its kind is read whole, and refused."""
    return call.is_streamed and call.kind is not Kind.JSON and not _has_type(answer, b"application/json", b"text/html")


def _has_type(answer: Answer, *types: bytes) -> bool:
    return any(name.lower() == b"content-type" and value.lower().startswith(types) for name, value in answer.headers)


def _least(timeout: float | None, limit_s: float) -> float:
    return limit_s if timeout is None else min(timeout, limit_s)


def closed_meanwhile() -> httpx2.ReadError:
    """For the calls that were under way."""
    return httpx2.ReadError("the client was closed while it waited for the answer")
