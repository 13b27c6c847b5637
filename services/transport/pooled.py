"""What stands below a genuine openai client: takes its request, has an endpoint answer it, hands back the answer.

Touches connections; which endpoint is asked, for how long and what comes after a failure is the story's.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from functools import partial

import httpx2

from ..errors import InvalidReply
from ..routing.endpoint import Endpoint
from ..routing.hedging import Hedge
from ..routing.outcome import CANCELLED, Outcome
from ..secrets import Secret
from .blocking import SyncAnswer
from .body import Whole, async_parts_of, parts_of
from .connections import AsyncConnections, Connections
from .course import Course
from .deadline import watched
from .drive import drive, drive_async
from .facade import FAILED, Asked, Facade, Sending, closed_meanwhile
from .hedged import drive_hedged, drive_hedged_async
from .identity import token_of, token_threads
from .nonblocking import GOODBYE_S, AsyncAnswer, AsyncConnectionPool
from .relay import AsyncRelay, Relay, read_timeout
from .reply import most_bytes
from .router import NO_MEANING, Question
from .servers import Servers
from .stream import StreamProgress
from .traffic import Traffic
from .written import Written


class PoolTransport(Facade, httpx2.BaseTransport):
    """The transport of `openai.OpenAI`. Safe to use from many threads and after `fork`."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__(traffic)
        self._servers = Servers(traffic.pool, Connections)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request of the SDK. Raises our own errors, and httpx2's for what is local to this process."""
        asked = self.asked(request)
        try:
            if asked.question is not None:
                self._settle(asked, asked.question)
            story, sending = self.begin(asked)
            if isinstance(story, Hedge):
                ending = drive_hedged(story, lambda send, cut: self._carried_out(sending(send).to_be_cut_by(cut)))
            else:
                ending = drive(story, lambda send: self._carried_out(sending(send)))
            return self.concluded(asked, ending)
        except BaseException as error:
            self.broke_off(asked, error)
            raise

    def _settle(self, asked: Asked, question: Question) -> None:
        """Have the meaning of its text decide, where that is to be; and see what routes in shadow mode would do."""
        meaning = question.meaning
        if question.open is not None:
            scores = NO_MEANING
            if meaning is not None:
                scores = meaning.scores(*question.open, limit_s=asked.routing_s(meaning.limit_s))
            question.settle(scores)
        if (unscored := question.shadow()) is not None and meaning is not None:
            meaning.scored_later(*unscored, question.shadow)

    def close(self) -> None:
        """Close every connection of this process."""
        self._is_closed = True
        for connections in self._servers:
            connections.close()

    def _carried_out(self, sending: Sending) -> Outcome:
        outcome = CANCELLED
        try:
            outcome = self._outcome(sending)
            if outcome.is_stale and sending.may_be_repeated(self._traffic.spec):
                sending.teller.attempt(sending, outcome, is_repeated=True)
                outcome = CANCELLED
                self._servers.of(sending.endpoint).drop_idle()
                sending.begin_again()
                outcome = self._outcome(sending)
            return outcome
        finally:
            sending.teller.attempt(sending, outcome)

    def _outcome(self, sending: Sending) -> Outcome:
        try:
            with watched(sending.watch):
                return self._exchanged(sending)
        except FAILED as error:
            return self.failed(sending, error)

    def _exchanged(self, sending: Sending) -> Outcome:
        connections = self._servers.of(sending.endpoint)
        sending.token = token_of(sending.endpoint)
        answer = self._sent(connections, sending)
        try:
            if self.may_renew(sending, answer) and self._has_renewed(sending):
                self.tell_again(sending, answer.status)
                answer.close()
                answer = self._sent(connections, sending)
            self.has_asked(sending, answer)
            answer.wait_at_most(sending.chunk_s)
            if self.is_handed_on(sending, answer):
                return self._handed_on(sending, answer)
            sending.watch.ends_at_s = sending.sent_by
            whole = Whole(most_bytes(sending.call))
            for part in answer.stream:
                whole.add(part)
            answer.close()
            if self.may_ask_less(sending, answer, content := whole.content()):
                return self._exchanged(sending)
            return self.judged(sending, answer, content)
        except BaseException:
            answer.close()
            raise

    def _has_renewed(self, sending: Sending) -> bool:
        """Whether there is another token in the place of the refused one; else the answer is left to the caller."""
        refused, sending.token = sending.token, token_of(sending.endpoint, refused=sending.token)
        return sending.token != refused

    def _sent(self, connections: Connections, sending: Sending) -> SyncAnswer:
        if self._is_closed:
            raise closed_meanwhile()
        answer = connections.send(self.written(sending), sending.watch)
        if self._is_closed:  # meanwhile: nobody would close a connection that was opened after that
            answer.close()
            raise closed_meanwhile()
        return answer

    def _handed_on(self, sending: Sending, answer: SyncAnswer) -> Outcome:
        parts = parts_of(answer.headers, answer.stream)
        progress, first = StreamProgress.of(sending.call, hides_usage=sending.asks_usage), b""
        while progress is not None and not progress.has_content:
            part = _some(next(parts, None))
            sending.received_bytes += len(part)
            first = progress.feed(part)
        sending.may_go_on(answer)
        course = Course(sending, progress)
        return self.opened(sending, answer, Relay(first, parts, answer, sending.watch, course))


class AsyncPoolTransport(Facade, httpx2.AsyncBaseTransport):
    """The transport of `openai.AsyncOpenAI`. Safe to use in several event loops, one after another or at once."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__(traffic)
        self._servers = Servers(traffic.pool, AsyncConnections)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request of the SDK. Raises our own errors, and httpx2's for what is local to this process."""
        asked = self.asked(request)
        try:
            if asked.question is not None:
                await self._settle(asked, asked.question)
            story, sending = self.begin(asked)
            if isinstance(story, Hedge):
                ending = await drive_hedged_async(story, lambda send: self._carried_out(sending(send)))
            else:
                ending = await drive_async(story, lambda send: self._carried_out(sending(send)))
            return self.concluded(asked, ending)
        except BaseException as error:
            self.broke_off(asked, error)
            raise

    async def _settle(self, asked: Asked, question: Question) -> None:
        meaning = question.meaning
        if question.open is not None:
            scores = NO_MEANING
            if meaning is not None:
                scores = await meaning.async_scores(*question.open, limit_s=asked.routing_s(meaning.limit_s))
            question.settle(scores)
        if (unscored := question.shadow()) is not None and meaning is not None:
            meaning.async_scored_later(*unscored, question.shadow)

    async def aclose(self) -> None:
        """Close the running loop's connections and wait; have the other loops close theirs."""
        self._is_closed = True
        # All of them before the first wait: whoever is cancelled in it leaves nothing open.
        if gone := [each for connections in self._servers for each in connections.close_here()]:
            await asyncio.wait(gone, timeout=GOODBYE_S)

    def close_soon(self) -> None:
        """Have every loop close its connections, without waiting: for synchronous code."""
        self._is_closed = True
        for connections in self._servers:
            connections.close()

    async def _carried_out(self, sending: Sending) -> Outcome:
        outcome = CANCELLED
        try:
            outcome = await self._outcome(sending)
            if outcome.is_stale and sending.may_be_repeated(self._traffic.spec):
                sending.teller.attempt(sending, outcome, is_repeated=True)
                outcome = CANCELLED
                (await self._servers.of(sending.endpoint).pool()).drop_idle()
                sending.begin_again()
                outcome = await self._outcome(sending)
            return outcome
        finally:
            sending.teller.attempt(sending, outcome)

    async def _outcome(self, sending: Sending) -> Outcome:
        left_s = (sending.watch.ends_at_s or sending.sent_by) - time.monotonic()
        try:
            with watched(sending.watch):
                async with asyncio.timeout(left_s) as timer:
                    return await self._exchanged(sending, timer)
        except TimeoutError as error:
            return self.failed(sending, read_timeout(error))
        except FAILED as error:
            return self.failed(sending, error)

    async def _exchanged(self, sending: Sending, timer: asyncio.Timeout) -> Outcome:
        pool = await self._servers.of(sending.endpoint).pool()
        sending.token = await self._token(sending.endpoint)
        answer = await self._sent(pool, self.written(sending), sending)
        try:
            if self.may_renew(sending, answer) and await self._has_renewed(sending):
                self.tell_again(sending, answer.status)
                answer.close()
                answer = await self._sent(pool, self.written(sending), sending)
            self.has_asked(sending, answer)
            if self.is_handed_on(sending, answer):
                return await self._handed_on(sending, answer)
            content = answer.content_now
            if content is None:
                content = await self._read(sending, answer, timer)
            answer.close()
            if self.may_ask_less(sending, answer, content):
                timer.reschedule(_when(sending, (sending.watch.ends_at_s or sending.sent_by) - time.monotonic()))
                return await self._exchanged(sending, timer)
            return self.judged(sending, answer, content)
        except BaseException:
            answer.close()
            raise

    async def _read(self, sending: Sending, answer: AsyncAnswer, timer: asyncio.Timeout) -> bytes:
        """The whole body, each part of it in time."""
        whole = Whole(most_bytes(sending.call))
        timer.reschedule(_when(sending, sending.chunk_s))
        async for part in answer.stream:
            whole.add(part)
            timer.reschedule(_when(sending, sending.chunk_s))
        return whole.content()

    async def _has_renewed(self, sending: Sending) -> bool:
        refused, sending.token = sending.token, await self._token(sending.endpoint, refused=sending.token)
        return sending.token != refused

    async def _sent(self, pool: AsyncConnectionPool, written: Written, sending: Sending) -> AsyncAnswer:
        if self._is_closed:
            raise closed_meanwhile()
        answer = await pool.send(written, sending.watch)
        if self._is_closed:
            answer.close()
            raise closed_meanwhile()
        return answer

    async def _handed_on(self, sending: Sending, answer: AsyncAnswer) -> Outcome:
        parts = async_parts_of(answer.headers, answer.stream)
        progress, first = StreamProgress.of(sending.call, hides_usage=sending.asks_usage), b""
        while progress is not None and not progress.has_content:
            part = _some(await anext(parts, None))
            sending.received_bytes += len(part)
            first = progress.feed(part)
        sending.may_go_on(answer)
        course = Course(sending, progress)
        return self.opened(sending, answer, AsyncRelay(first, parts, answer, sending.watch, course))

    async def _token(self, endpoint: Endpoint, *, refused: Secret | None = None) -> Secret | None:
        credential = endpoint.credential
        if credential is None or isinstance(credential, Secret):
            return credential
        # Asking may block on an identity server: never on the event loop, and on no thread longer than the deadline.
        asking = partial(copy_context().run, token_of, endpoint, refused=refused)
        return await asyncio.get_running_loop().run_in_executor(token_threads(), asking)


def _some(part: bytes | None) -> bytes:
    if part is None:
        raise InvalidReply("its stream ended without any content")
    return part


def _when(sending: Sending, within_s: float) -> float:
    """By when the next part must be there, on the clock of the running loop."""
    left_s = min(sending.sent_by - time.monotonic(), within_s)
    return asyncio.get_running_loop().time() + left_s
