"""A bulk run in threads and in tasks: both play the same cases."""

import asyncio
import contextlib
import contextvars
import itertools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmwire.services.bulk.batches import BatchSpec
from llmwire.services.bulk.plan import BulkSpec
from llmwire.services.bulk.rate import RateLimit
from llmwire.services.bulk.results import Answer, key_of
from llmwire.services.bulk.run import AsyncRun, Run
from llmwire.services.errors import AllEndpointsFailed, InvalidInput, InvalidReply, SpaceMismatch

WAIT_S = 20  #: until a test that hangs is given up


class Least:
    """Randomness that makes every rest nothing."""

    def random(self):
        return 0.0


class Memory:
    """A cache in a dict, which must not be used by two threads at once."""

    def __init__(self, *texts):
        self.vectors = {key_of(text): _vectors([text])[0] for text in texts}
        self._in_use = threading.Lock()

    def get(self, keys):
        with self._used():
            return {key: self.vectors[key] for key in keys if key in self.vectors}

    def put(self, keys, vectors):
        with self._used():
            self.vectors.update(zip(keys, vectors, strict=True))

    @contextlib.contextmanager
    def _used(self):
        assert self._in_use.acquire(blocking=False)
        yield
        self._in_use.release()

    def has(self, text):
        return key_of(text) in self.vectors


class Full(Memory):
    """A cache whose disk is full."""

    def put(self, keys, vectors):
        raise OSError("no space left")


class Server:
    """Answers at once, except where `faults` has an error for one of the texts."""

    def __init__(self, faults=None):
        self.faults = faults or {}
        self.sent = []

    def __call__(self, texts):
        self.sent.append(texts)
        for text in texts:
            if text in self.faults:
                fault = self.faults[text]
                raise fault if isinstance(fault, BaseException) else fault()
        return Answer(vectors=_vectors(texts), tokens=len(texts), endpoint="a", price=2.0)


class RefusedError(Exception):
    """As the SDK's error for a 400."""

    status_code = 400


def _vectors(texts):
    return np.array([[len(text), sum(map(ord, text))] for text in texts], dtype=np.float32)


def _spec(inputs=2, **spec):
    return BulkSpec(batches=BatchSpec(max_inputs=inputs), **spec)


class Sync:
    """Plays a case through threads."""

    @staticmethod
    def run(texts, send, **options):
        return Run(texts, send, randomness=Least(), **options)

    @classmethod
    def all(cls, texts, send, **options):
        run = cls.run(texts, send, **options)
        return list(run), run

    @classmethod
    def first(cls, texts, send, **options):
        with cls.run(texts, send, **options) as run:
            return next(run), run

    @classmethod
    def first_then_error(cls, error, texts, send, **options):
        with cls.run(texts, send, **options) as run:
            next(run)
            raise error

    @staticmethod
    def again(run):
        return list(run)


class Async:
    """Plays the same case through tasks."""

    @staticmethod
    def run(texts, send, **options):
        async def awaited(batch):
            await asyncio.sleep(0)
            return send(batch)

        return AsyncRun(texts, awaited, randomness=Least(), **options)

    @classmethod
    def all(cls, texts, send, **options):
        async def played():
            run = cls.run(texts, send, **options)
            blocks = [block async for block in run]
            assert len(asyncio.all_tasks()) == 1
            return blocks, run

        return asyncio.run(played())

    @classmethod
    def first(cls, texts, send, **options):
        async def played():
            async with cls.run(texts, send, **options) as run:
                block = await anext(run)
            assert len(asyncio.all_tasks()) == 1
            return block, run

        return asyncio.run(played())

    @classmethod
    def first_then_error(cls, error, texts, send, **options):
        async def played():
            async with cls.run(texts, send, **options) as run:
                await anext(run)
                raise error

        asyncio.run(played())

    @staticmethod
    def again(run):
        async def played():
            return [block async for block in run]

        return asyncio.run(played())


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def play(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    for thread in _senders():
        thread.join(WAIT_S)  # what was left to itself ends when it has its answer
    assert _senders() == []


def _senders():
    return [thread for thread in threading.enumerate() if thread.name == "llmwire-bulk"]


def _joined(blocks):
    return np.concatenate([block.vectors for block in blocks])


def test_all_vectors_come_in_the_order_of_the_texts(play):
    texts = [f"text {number}" for number in range(25)]

    blocks, run = play.all(texts, Server(), spec=_spec(inputs=4))

    assert np.array_equal(_joined(blocks), _vectors(texts))
    assert blocks[0].vectors.dtype == np.float32
    summary = run.summary
    assert (summary.texts, summary.embedded, summary.tokens, summary.endpoints["a"].requests) == (25, 25, 25, 7)
    assert summary.cost == pytest.approx(25 * 2.0 / 1e6)


def test_no_texts_are_no_blocks(play):
    blocks, _ = play.all([], Server())

    assert blocks == []


def test_one_text_alone_is_refused(play):
    with pytest.raises(InvalidInput, match="put it into a list"):
        play.first("abc", Server())


def test_a_run_that_has_ended_stays_ended(play):
    _, run = play.all(["a"], Server())

    assert play.again(run) == []


def test_of_endless_texts_only_as_many_are_taken_as_are_needed(play):
    numbers = itertools.count()

    play.first(map(str, numbers), Server(), spec=_spec(inputs=2, parallel=2, window=12))

    assert next(numbers) <= 12


def test_what_the_cache_has_is_not_sent_and_the_rest_is_put_there(play):
    server, cache = Server(), Memory("b")

    blocks, run = play.all(["a", "b", "c", "a"], server, spec=_spec(inputs=4), cache=cache)

    assert server.sent == [["a", "c"]]
    assert np.array_equal(_joined(blocks), _vectors(["a", "b", "c", "a"]))
    assert cache.has("a")
    assert cache.has("c")
    assert (run.summary.embedded, run.summary.cached, run.summary.repeated) == (2, 1, 1)


def test_a_second_run_over_the_same_cache_sends_nothing(play):
    cache, texts = Memory(), [str(number) for number in range(20)]
    play.all(texts, Server(), cache=cache)
    server = Server()

    blocks, _ = play.all(texts, server, cache=cache)

    assert server.sent == []
    assert np.array_equal(_joined(blocks), _vectors(texts))


def test_a_text_that_a_server_refuses_is_found_and_all_others_arrive(play):
    texts = [str(number) for number in range(16)]

    blocks, _ = play.all(texts, Server({"11": RefusedError("it has a bad word")}), spec=_spec(inputs=8))

    (refused,) = [refused for block in blocks for refused in block.refused]
    assert (refused.position, refused.reason) == (11, "it has a bad word")
    vectors = _joined(blocks)
    assert np.isnan(vectors[11]).all()
    assert np.array_equal(np.delete(vectors, 11, axis=0), _vectors(texts[:11] + texts[12:]))


def test_a_text_that_brings_servers_down_is_found_and_all_others_arrive(play):
    texts = [str(number) for number in range(16)]

    blocks, _ = play.all(texts, Server({"5": ConnectionResetError("gone")}), spec=_spec(inputs=4, parallel=2))

    (refused,) = [refused for block in blocks for refused in block.refused]
    assert (refused.position, refused.reason) == (5, "no server could embed it: gone")


def test_trouble_that_passes_leaves_no_trace(play):
    once = iter([TimeoutError(), AllEndpointsFailed("none", function="embedding", retry_after_s=0.001)])
    server = Server()

    def send(texts):
        if (error := next(once, None)) is not None:
            raise error
        return server(texts)

    blocks, _ = play.all(list("abcdef"), send)

    assert np.array_equal(_joined(blocks), _vectors("abcdef"))
    assert [block.refused for block in blocks] == [()] * len(blocks)


def test_an_answer_that_does_not_fit_its_texts_is_not_used_and_not_kept(play):
    short = iter([True])
    cache = Memory()

    def send(texts):
        return Answer(vectors=_vectors(texts[1:] if next(short, False) else texts))

    blocks, _ = play.all(list("ab"), send, cache=cache)

    assert np.array_equal(_joined(blocks), _vectors("ab"))
    assert np.array_equal(cache.vectors[key_of("a")], _vectors("a")[0])


def test_vectors_of_another_width_end_the_run_and_are_not_kept(play):
    cache = Memory()

    def send(texts):
        return Answer(vectors=np.ones((len(texts), 2 if "a" in texts else 3), dtype=np.float32))

    with pytest.raises(SpaceMismatch, match="3 dimensions"):
        play.all(list("ab"), send, spec=_spec(inputs=1, parallel=1), cache=cache)

    assert cache.has("a")
    assert not cache.has("b")


def test_patience_is_measured_by_the_clock_that_is_given(play):
    minutes = itertools.count(0, 60)

    with pytest.raises(InvalidReply, match="rubbish"):
        play.all(["a"], Server({"a": InvalidReply("rubbish")}), clock=lambda: next(minutes))


def test_an_unknown_error_is_raised_as_it_is_and_nothing_more_is_sent(play):
    error, server = TypeError("a bug"), Server()
    server.faults["b"] = error

    with pytest.raises(TypeError) as caught:
        play.all(map(str, "abcdef"), server, spec=_spec(inputs=1, parallel=1))

    assert caught.value is error
    assert server.sent == [["a"], ["b"]]


def test_an_error_of_the_texts_is_raised_as_it_is_and_what_was_under_way_is_kept(play):
    cache = Memory()

    def texts():
        yield from ("a", "b")
        raise LookupError("the file has an end too early")

    with pytest.raises(LookupError, match="too early"):
        play.all(texts(), Server(), spec=_spec(inputs=2), cache=cache)

    assert cache.has("a")
    assert cache.has("b")


def test_an_error_of_the_cache_is_raised_as_it_is(play):
    with pytest.raises(OSError, match="no space left"):
        play.all(list("abcd"), Server(), cache=Full())


def test_an_answer_that_cannot_be_kept_is_counted_for_it_was_paid(play):
    run = play.run(list("ab"), Server(), cache=Full())

    with pytest.raises(OSError, match="no space left"):
        play.again(run)

    assert (run.summary.embedded, run.summary.tokens) == (2, 2)


def test_a_cache_that_panics_ends_the_run_too(play):
    class Panic(BaseException):
        """As PyO3's of a cache in Rust."""

    class Broken(Memory):
        def put(self, keys, vectors):
            raise Panic

    with pytest.raises(Panic):
        play.all(list("abcd"), Server(), cache=Broken())


def test_vectors_of_another_width_than_those_of_the_cache_are_not_kept(play):
    cache = Memory("a")

    def send(texts):
        return Answer(vectors=np.ones((len(texts), 3), dtype=np.float32))

    with pytest.raises(SpaceMismatch, match="3 dimensions"):
        play.all(list("ab"), send, cache=cache)

    assert not cache.has("b")


def test_an_error_in_the_callers_block_is_raised_and_what_was_under_way_is_kept(play):
    cache = Memory()
    texts = [str(number) for number in range(100)]
    server = Server()

    with pytest.raises(ZeroDivisionError):
        play.first_then_error(ZeroDivisionError(), texts, server, spec=_spec(inputs=2, parallel=3), cache=cache)

    assert len(server.sent) < 50
    assert all(cache.has(text) for batch in server.sent for text in batch)


def test_a_run_that_is_left_early_sends_nothing_more_and_counts_what_it_kept(play):
    cache, server = Memory(), Server()

    _, run = play.first(map(str, itertools.count()), server, spec=_spec(inputs=2, parallel=3), cache=cache)

    assert play.again(run) == []
    assert all(cache.has(text) for batch in server.sent for text in batch)
    assert run.summary.embedded == sum(map(len, server.sent))


def test_a_run_that_is_dropped_without_being_closed_leaves_no_thread():
    for _ in Run(list("abcd"), Server(), spec=_spec(inputs=1, parallel=2)):
        break

    for thread in _senders():
        thread.join(WAIT_S)
    assert _senders() == []


def test_what_is_answered_is_kept_also_where_the_run_is_dropped_without_being_closed():
    cache, server = Memory(), Server()

    for _ in Run(map(str, itertools.count()), server, spec=_spec(inputs=1, parallel=4), cache=cache):
        break

    for thread in _senders():
        thread.join(WAIT_S)
    assert len(server.sent) > 0
    assert all(cache.has(text) for [text] in server.sent)


def test_a_limit_is_asked_before_each_request_and_its_delay_is_kept(play):
    class Limit:
        def __init__(self):
            self.asked = []

        def delay_s(self, texts, tokens):
            self.asked.append((texts, tokens))
            return 0.001 if len(self.asked) % 2 else 0.0

    limit, server = Limit(), Server()
    spec = BulkSpec(batches=BatchSpec(max_inputs=2, count_tokens=len))

    play.all(["a", "bb", "ccc"], server, spec=spec, limit=limit)

    assert limit.asked == [(2, 3), (2, 3), (1, 3), (1, 3)]
    assert server.sent == [["a", "bb"], ["ccc"]]


def test_what_a_limit_never_lets_go_is_sent_in_pieces_and_a_single_text_of_it_is_refused(play):
    server = Server()
    limit = RateLimit(tokens_per_minute=9, name="embedding")
    spec = BulkSpec(batches=BatchSpec(max_inputs=4, count_tokens=len))

    blocks, run = play.all(["aaa", "bbb", "much too long", "ccc"], server, spec=spec, limit=limit)

    assert sorted(text for batch in server.sent for text in batch) == ["aaa", "bbb", "ccc"]
    assert run.summary.embedded == 3
    assert [(refused.position, refused.reason) for block in blocks for refused in block.refused] == [
        (2, "may have 13 tokens, more than the limit ever lets go: split it, or raise that")
    ]


def test_each_request_runs_in_a_copy_of_the_callers_context(play):
    variable = contextvars.ContextVar("variable", default="nobody's")
    seen = []

    def send(texts):
        seen.append(variable.get())
        variable.set("a request's")
        return Server()(texts)

    token = variable.set("the caller's")
    play.all(list("abcd"), send, spec=_spec(inputs=2))

    assert seen == ["the caller's", "the caller's"]
    assert variable.get() == "the caller's"
    variable.reset(token)


def test_all_that_may_be_under_way_at_once_are():
    together = threading.Barrier(8)

    def send(texts):
        together.wait(WAIT_S)  # breaks, as an error, unless eight are inside
        return Server()(texts)

    blocks = list(Run(map(str, range(16)), send, spec=_spec(inputs=1, parallel=8)))

    assert np.array_equal(_joined(blocks), _vectors(map(str, range(16))))


def test_all_tasks_that_may_be_under_way_at_once_are():
    async def played():
        together = asyncio.Barrier(8)

        async def send(texts):
            async with asyncio.timeout(WAIT_S):
                await together.wait()
            return Server()(texts)

        return [block async for block in AsyncRun(map(str, range(16)), send, spec=_spec(inputs=1, parallel=8))]

    assert np.array_equal(_joined(asyncio.run(played())), _vectors(map(str, range(16))))


def test_an_answer_is_kept_when_it_arrives_also_where_an_earlier_one_is_missing():
    cache, b_is_kept = Memory(), threading.Event()
    put = cache.put

    def put_and_tell(keys, vectors):
        put(keys, vectors)
        if key_of("b") in keys:
            b_is_kept.set()

    cache.put = put_and_tell

    def send(texts):
        if texts == ["a"]:
            assert b_is_kept.wait(WAIT_S)
        return Server()(texts)

    with Run(["a", "b"], send, spec=_spec(inputs=1), cache=cache) as run:
        block = next(run)

    assert block.start == 0


class Gate:
    """A server that answers nobody until it is opened. `when_full` is called once so many requests are inside."""

    def __init__(self, full=2, when_full=lambda: None):
        self.inside, self.gave_up, self.is_open = [], [], threading.Event()
        self._full, self._when_full, self._lock = full, when_full, threading.Lock()

    def __call__(self, texts):
        with self._lock:
            self.inside.append(texts)
            is_full = len(self.inside) == self._full
        if is_full:
            self._when_full()
        if not self.is_open.wait(WAIT_S):
            self.gave_up.append(texts)
        return Server()(texts)


class CtrlC:
    """Real interrupts of the main thread, and when it has seen one."""

    def __init__(self):
        self.count = 0
        self._seen = threading.Semaphore(0)

    def handler(self, *_):
        self.count += 1
        self._seen.release()
        raise KeyboardInterrupt

    def press(self):
        """From another thread: returns when the main thread was interrupted."""
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert self._seen.acquire(timeout=WAIT_S)


@pytest.fixture
def ctrl_c():
    pressed = CtrlC()
    before = signal.signal(signal.SIGINT, pressed.handler)
    yield pressed
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_what_is_under_way_and_keeps_it(ctrl_c):
    cache = Memory()

    def interrupt_and_open():
        ctrl_c.press()
        gate.is_open.set()

    gate = Gate(full=2, when_full=interrupt_and_open)
    run = Run(list("abcdef"), gate, spec=_spec(inputs=1, parallel=2), cache=cache)

    with pytest.raises(KeyboardInterrupt):
        next(run)

    assert sorted(gate.inside) == [["a"], ["b"]]
    assert cache.has("a")
    assert cache.has("b")
    assert run.summary.embedded == 2
    assert list(run) == []


def test_a_second_interrupt_ends_at_once(ctrl_c):
    both, a_is_kept, b_may_end = threading.Barrier(2), threading.Event(), threading.Event()

    class Telling(Memory):
        def put(self, keys, vectors):
            super().put(keys, vectors)
            a_is_kept.set()

    def send(texts):
        both.wait(WAIT_S)
        if texts == ["a"]:
            ctrl_c.press()
        else:
            assert a_is_kept.wait(WAIT_S)  # so the run is waiting for what is under way
            ctrl_c.press()
            assert b_may_end.wait(WAIT_S)
        return Server()(texts)

    with pytest.raises(KeyboardInterrupt):
        next(Run(list("abcdef"), send, spec=_spec(inputs=1, parallel=2), cache=Telling()))

    assert ctrl_c.count == 2
    assert not b_may_end.is_set()
    b_may_end.set()


def test_without_a_cache_an_interrupt_waits_for_nothing(ctrl_c):
    gate = Gate(full=2, when_full=ctrl_c.press)
    run = Run(list("abcdef"), gate, spec=_spec(inputs=1, parallel=2))

    with pytest.raises(KeyboardInterrupt):
        next(run)

    assert not gate.is_open.is_set()
    assert gate.gave_up == []
    assert sorted(gate.inside) == [["a"], ["b"]]
    gate.is_open.set()


@pytest.fixture
def left_with_b_under_way():
    """A run that has given the block of `a`, while `b` is under way, and cannot be kept when it comes."""
    gate = Gate()

    class NoRoomForB(Memory):
        def put(self, keys, vectors):
            if key_of("b") in keys:
                raise OSError("no space left")

    def send(texts):
        return gate(texts) if texts == ["b"] else Server()(texts)

    run = Run(["a", "b"], send, spec=_spec(inputs=1), cache=NoRoomForB())
    next(run)
    gate.is_open.set()
    return run


def test_what_cannot_be_kept_at_the_end_is_an_error(left_with_b_under_way):
    with pytest.raises(OSError, match="no space left"):
        left_with_b_under_way.close()


def test_what_cannot_be_kept_at_the_end_does_not_hide_why_the_run_ended(left_with_b_under_way):
    with pytest.raises(ZeroDivisionError) as caught, left_with_b_under_way:
        raise ZeroDivisionError

    assert "no space left" in caught.value.__notes__[0]


class AsyncGate:
    """The same for tasks; and which of them were cancelled."""

    def __init__(self, full=2):
        self.inside, self.cancelled = [], []
        self.is_full, self.is_open = asyncio.Event(), asyncio.Event()
        self._full = full

    async def __call__(self, texts):
        self.inside.append(texts)
        if len(self.inside) == self._full:
            self.is_full.set()
        try:
            await self.is_open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(texts)
            raise
        return Server()(texts)


def _cancelled(cache, *, then):
    """A run over a closed gate whose task is cancelled; `then` is done before its end is awaited."""

    async def played():
        gate = AsyncGate()
        run = AsyncRun(list("abcdef"), gate, spec=_spec(inputs=1, parallel=2), cache=cache)

        async def iterated():
            return await anext(run)

        task = asyncio.create_task(iterated())
        await gate.is_full.wait()
        task.cancel()
        await then(task, gate)
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(asyncio.all_tasks()) == 1
        return gate

    return asyncio.run(played())


def test_a_cancellation_waits_for_what_is_under_way_and_keeps_it():
    cache = Memory()

    async def open_it(task, gate):
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        gate.is_open.set()

    gate = _cancelled(cache, then=open_it)

    assert gate.inside == [["a"], ["b"]]
    assert gate.cancelled == []
    assert cache.has("a")
    assert cache.has("b")


def test_a_second_cancellation_ends_at_once():
    async def cancel_again(task, gate):
        await asyncio.sleep(0)
        task.cancel()

    gate = _cancelled(Memory(), then=cancel_again)

    assert gate.cancelled == [["a"], ["b"]]


def test_without_a_cache_a_cancellation_cancels_what_is_under_way():
    async def nothing(task, gate):
        pass

    gate = _cancelled(None, then=nothing)

    assert gate.cancelled == [["a"], ["b"]]


def test_a_cancellation_does_not_let_two_threads_into_the_cache():
    entered, may_leave = threading.Event(), threading.Event()

    class Slow(Memory):
        def put(self, keys, vectors):
            with self._used():
                entered.set()
                assert may_leave.wait(WAIT_S)
                self.vectors.update(zip(keys, vectors, strict=True))

    cache = Slow()

    async def send(texts):
        return Server()(texts)

    async def played():
        run = AsyncRun(list("ab"), send, spec=_spec(inputs=1), cache=cache)
        task = asyncio.create_task(run.__anext__())
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        task.cancel()
        await asyncio.sleep(0)
        may_leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(played())

    assert cache.has("a")  # and `_used` has seen no second thread


def test_what_is_answered_is_kept_while_the_caller_works_on_a_block():
    cache, server = Memory(), Server()
    with Run([str(number) for number in range(8)], server, spec=_spec(inputs=1, parallel=4), cache=cache) as run:
        next(run)

        for _ in range(int(WAIT_S / 0.01)):
            if all(cache.has(text) for [text] in server.sent):
                break
            time.sleep(0.01)

        assert all(cache.has(text) for [text] in server.sent)


def test_what_is_answered_is_kept_while_the_caller_of_a_task_works_on_a_block():
    all_kept = threading.Event()

    class Watched(Memory):
        def put(self, keys, vectors):
            super().put(keys, vectors)
            if len(self.vectors) == 4:
                all_kept.set()

    async def send(texts):
        return Server()(texts)

    async def played():
        async with AsyncRun(list("abcd"), send, spec=_spec(inputs=1, parallel=4), cache=Watched()) as run:
            await anext(run)
            return await asyncio.to_thread(all_kept.wait, WAIT_S)

    assert asyncio.run(played())


def test_what_is_answered_is_kept_also_where_the_loop_ends_before_a_thread_is_free():
    cache, may_go, answered = Memory(), threading.Event(), []

    async def played():
        loop, all_answered = asyncio.get_running_loop(), asyncio.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))

        async def send(texts):
            if not answered:
                loop.run_in_executor(None, may_go.wait, WAIT_S)  # whoever else needs the thread waits
            answered.append(texts)
            if len(answered) == 2:
                all_answered.set()
            return Server()(texts)

        run = AsyncRun(list("ab"), send, spec=_spec(inputs=1, parallel=2), cache=cache)
        task = asyncio.create_task(run.__anext__())
        await all_answered.wait()
        for each in asyncio.all_tasks() - {asyncio.current_task()}:  # as asyncio.run does at its end
            each.cancel()
        loop.call_later(0, may_go.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(played())

    assert cache.has("a")
    assert cache.has("b")
