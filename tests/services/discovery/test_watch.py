"""Sources are asked, watched and asked again: as often as there may be something new, and no more often than that."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.discovery import watch as module
from llmwire.services.discovery.catalogue import Snapshot
from llmwire.services.discovery.watch import Rounds, Watch, WatchSpec
from llmwire.services.errors import DiscoveryError

PATIENCE_S = 30.0  #: for what should happen; reached only where it does not
STEADY = WatchSpec(debounce_s=0.2, idle_cap_s=2.0, backoff_s=0.5, backoff_cap_s=30.0, jitter=0.0)

HANGS = object()
SILENT = DiscoveryError("is not there", source="consul://a/b")


def snapshot(content=b"a = 1", *, index=0):
    return Snapshot(origin="consul://a/b/completion", content=content, version=f"index {index}", index=index)


async def played(step):
    if step is HANGS:
        await asyncio.Event().wait()
    if isinstance(step, BaseException):
        raise step
    return step


class Scripted:
    """A source. Each line of its script is what a `fetch` gives and how the `watch` after that ends, if one is told.

    Both may hang, or raise; a `watch` that ends at once is None. After its script it hangs.
    """

    name, is_remote, is_whole = "consul://a/b", True, False

    def __init__(self, *script, closing=None):
        self._script, self._closing = list(script), closing
        self._then = HANGS
        self.asked = 0
        self.watched: list[Snapshot] = []
        self.is_done, self.closed_in = threading.Event(), None

    async def fetch(self):
        self.asked += 1
        if not self._script:
            self.is_done.set()
            await played(HANGS)
        given, self._then = self._script.pop(0)
        content = await played(given)
        return snapshot(content, index=self.asked)

    async def watch(self, since):
        self.watched.append(since)
        await played(self._then)

    async def aclose(self):
        self.closed_in = asyncio.get_running_loop()
        await played(self._closing)


class Heard:
    """What was told, in its order. A `flaw` is raised where something is heard."""

    def __init__(self, flaw=None):
        self.told, self.flaw, self.threads = [], flaw, set()
        self._changed = threading.Condition()

    def heard(self, position, snapshot):
        self._note((position, snapshot.content))
        if self.flaw is not None:
            raise self.flaw

    def silent(self, position, error):
        self._note((position, str(error)))

    def _note(self, told):
        with self._changed:
            self.threads.add(threading.current_thread())
            self.told.append(told)
            self._changed.notify_all()

    def wait_for(self, *told):
        with self._changed:
            assert self._changed.wait_for(lambda: all(each in self.told for each in told), PATIENCE_S), self.told


@pytest.fixture
def hearer():
    return Heard()


@pytest.fixture
def a_watch(hearer):
    """Makes one that is started, and stopped after the test."""
    made = []

    def make(*sources, spec=STEADY, hearer=hearer):
        watch = Watch(sources, hearer, spec=spec)
        made.append(watch)
        watch.start()
        return watch

    yield make
    for watch in made:
        watch.stop(PATIENCE_S)


@pytest.fixture
def rests(monkeypatch):
    """How long the loop would have rested, each time: a clock that nobody waits for."""
    rested = []

    async def sleep(seconds):
        rested.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    return rested


def played_to_its_end(a_watch, source, **how):
    watch = a_watch(source, **how)
    assert source.is_done.wait(PATIENCE_S)
    return watch


# What is asked, and when.


def test_what_a_source_holds_is_told_and_then_it_is_watched_from_there(a_watch, hearer):
    source = Scripted((b"one", HANGS))

    a_watch(source)
    hearer.wait_for((0, b"one"))

    assert source.asked == 1


def test_that_a_watch_ends_says_look_again_and_the_look_says_what_is_there(a_watch, hearer, rests):
    source = Scripted((b"one", None), (b"two", None), (b"two", None), (None, None))

    played_to_its_end(a_watch, source)

    assert hearer.told == [(0, b"one"), (0, b"two"), (0, b"two"), (0, None)]
    assert [(since.index, since.content) for since in source.watched] == [
        (1, b"one"),
        (2, b"two"),
        (3, b"two"),
        (4, None),
    ]


def test_before_a_look_there_is_a_rest_as_changes_come_in_rows(a_watch, rests):
    source = Scripted(*[(b"document %d" % number, None) for number in range(4)])

    played_to_its_end(a_watch, source)

    assert rests == [0.2] * 4


def test_the_rests_grow_while_a_source_says_that_it_changed_and_has_not(a_watch, rests):
    source = Scripted(*[(b"the same", None)] * 7, (b"another", None))

    played_to_its_end(a_watch, source)

    assert rests == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 0.2]


def test_after_a_while_all_is_read_anew_though_the_watch_says_nothing(a_watch, hearer, rests):
    source = Scripted((b"one", HANGS), (b"two", HANGS), (b"two", HANGS))

    played_to_its_end(a_watch, source, spec=WatchSpec(reread_s=0.001))

    assert hearer.told == [(0, b"one"), (0, b"two"), (0, b"two")]
    assert rests == []


# What fails.


def test_a_source_that_cannot_be_asked_is_told_and_asked_again_ever_more_seldom(a_watch, hearer, rests):
    source = Scripted(*[(SILENT, None)] * 9)

    played_to_its_end(a_watch, source)

    assert hearer.told == [(0, "consul://a/b: is not there.")] * 9
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_after_an_answer_it_is_asked_soon_again_when_it_fails(a_watch, rests):
    source = Scripted(*[(SILENT, None)] * 4, (b"one", None), (SILENT, None))

    played_to_its_end(a_watch, source)

    assert rests == [0.5, 1.0, 2.0, 4.0, 0.2, 0.5]


def test_a_source_that_can_be_read_and_never_watched_is_asked_ever_more_seldom_too(a_watch, hearer, rests):
    source = Scripted(*[(b"one", SILENT)] * 8, (b"one", None), (b"one", SILENT))

    played_to_its_end(a_watch, source)

    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 0.2, 0.5]
    assert hearer.told[:4] == [(0, b"one"), (0, "consul://a/b: is not there.")] * 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError(), "consul://a/b: did not answer in time."),
        (OSError("sk-secret"), "consul://a/b: failed with OSError."),
        (ValueError("sk-secret"), "consul://a/b: failed with ValueError."),
        (StopAsyncIteration(), "consul://a/b: failed with StopAsyncIteration."),
        (asyncio.CancelledError(), "consul://a/b: failed with CancelledError."),
        (BaseExceptionGroup("sk-secret", [ValueError()]), "consul://a/b: failed with ExceptionGroup."),
        (RecursionError(), "consul://a/b: failed with RecursionError."),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("when", ["fetch", "watch"])
def test_whatever_a_source_raises_it_is_silent_rests_and_is_asked_again(a_watch, hearer, rests, when, error, told):
    line = (error, None) if when == "fetch" else (b"one", error)
    source = Scripted(*[line] * 3)

    played_to_its_end(a_watch, source)

    assert [each for each in hearer.told if each != (0, b"one")] == [(0, told)] * 3
    assert rests == [0.5, 1.0, 2.0]


def test_a_source_that_does_not_answer_is_silent(a_watch, hearer, rests):
    source = Scripted((HANGS, None), (b"one", HANGS))

    a_watch(source, spec=WatchSpec(fetch_s=0.001, jitter=0.0))
    hearer.wait_for((0, b"one"))

    assert hearer.told == [(0, "consul://a/b: did not answer in time."), (0, b"one")]
    assert rests == [0.5]


def test_a_hearer_that_fails_does_not_end_the_watch(a_watch, rests):
    hearer = Heard(flaw=KeyError("endpoints"))
    source = Scripted((b"one", None), (b"two", None))

    played_to_its_end(a_watch, source, hearer=hearer)

    assert hearer.told == [
        (0, b"one"),
        (0, "consul://a/b: failed with KeyError."),
        (0, b"two"),
        (0, "consul://a/b: failed with KeyError."),
    ]


@pytest.mark.parametrize("line", [(SILENT, None), (HANGS, None), (b"first", HANGS), (asyncio.CancelledError(), None)])
def test_a_source_that_fails_or_hangs_does_not_hold_up_the_others(a_watch, hearer, line):
    other = Scripted((b"one", None), (b"two", HANGS))

    a_watch(Scripted(line), other, spec=WatchSpec(debounce_s=0.0, idle_cap_s=0.0))

    hearer.wait_for((1, b"one"), (1, b"two"))


def test_all_is_told_in_one_thread_which_no_program_waits_for(a_watch, hearer):
    a_watch(Scripted((b"one", HANGS)), Scripted((b"two", HANGS)))
    hearer.wait_for((0, b"one"), (1, b"two"))

    [thread] = hearer.threads
    assert thread.daemon
    assert thread is not threading.current_thread()


# The end.


@pytest.mark.parametrize(
    "line", [(b"one", HANGS), (HANGS, None), (SILENT, None)], ids=["watching", "asking", "resting"]
)
def test_it_stops_at_once_whatever_it_does_and_closes_its_sources_in_their_loop(hearer, line):
    sources = [Scripted(line), Scripted(line), Scripted((b"last", HANGS))]
    watch = Watch(sources, hearer, spec=WatchSpec(backoff_s=3600, backoff_cap_s=3600))
    watch.start()
    hearer.wait_for((2, b"last"))

    watch.stop(PATIENCE_S)

    assert not watch._thread.is_alive()
    [loop] = {source.closed_in for source in sources}
    assert loop.is_closed()


class Deaf(Scripted):
    """Does not let itself be cancelled once, as sources do that take each exception for their own."""

    def __init__(self, end):
        super().__init__()
        self._end, self.is_asked = end, threading.Event()

    async def fetch(self):
        self.is_asked.set()
        try:
            await played(HANGS)
        except asyncio.CancelledError:
            return await played(self._end)


@pytest.mark.parametrize("end", [SILENT, snapshot(b"late")], ids=["raises", "answers"])
def test_a_source_that_swallows_its_end_is_not_asked_again(hearer, end):
    source = Deaf(end)
    watch = Watch([source], hearer, spec=WatchSpec(backoff_s=3600, backoff_cap_s=3600))
    watch.start()
    assert source.is_asked.wait(PATIENCE_S)

    watch.stop(PATIENCE_S)

    assert not watch._thread.is_alive()
    assert source.closed_in is not None


def test_a_source_that_cannot_be_closed_is_nobodys_concern(hearer):
    source, other = Scripted((b"one", HANGS), closing=OSError("is gone")), Scripted((b"two", HANGS))
    watch = Watch([source, other], hearer)
    watch.start()
    hearer.wait_for((0, b"one"), (1, b"two"))

    watch.stop(PATIENCE_S)

    assert not watch._thread.is_alive()
    assert other.closed_in is not None


def test_one_that_was_stopped_before_it_began_asks_nobody(hearer):
    source = Scripted((b"one", HANGS))
    watch = Watch([source], hearer)

    watch.stop()
    watch.start()
    watch.stop(PATIENCE_S)

    assert not watch._thread.is_alive()
    assert (source.asked, hearer.told) == (0, [])


def test_it_may_be_stopped_twice(a_watch, hearer):
    watch = a_watch(Scripted((b"one", HANGS)))
    hearer.wait_for((0, b"one"))

    watch.stop(PATIENCE_S)
    watch.stop(PATIENCE_S)

    assert not watch._thread.is_alive()


def test_who_is_told_may_stop_it(hearer):
    source, is_stopped = Scripted((b"one", None), (b"two", None)), threading.Event()

    class Stopping(Heard):
        def heard(self, position, snapshot):
            super().heard(position, snapshot)
            watch.stop()
            is_stopped.set()

    hearer = Stopping()
    watch = Watch([source], hearer)
    watch.start()
    assert is_stopped.wait(PATIENCE_S)
    watch.stop(PATIENCE_S)

    assert not watch._thread.is_alive()
    assert hearer.told == [(0, b"one")]


# The rests.


class Drawn(random.Random):
    """Always draws the same."""

    def __init__(self, number):
        self.number = number
        super().__init__()

    def random(self):
        return self.number


specs = st.builds(
    WatchSpec,
    debounce_s=st.floats(0.01, 1),
    idle_cap_s=st.floats(1, 10),
    backoff_s=st.floats(0.01, 1),
    backoff_cap_s=st.floats(1, 60),
    jitter=st.floats(0, 0.5),
)
draws = st.floats(0, 1, exclude_max=True)


@given(spec=specs, number=draws, contents=st.lists(st.sampled_from([b"a", b"b", None]), min_size=1, max_size=30))
def test_a_rest_is_never_below_the_debounce_and_never_above_the_cap_with_its_jitter(spec, number, contents):
    rounds, rests = Rounds(spec, Drawn(number)), []

    for content in contents:
        rounds.asked(snapshot(content), is_told=True)
        rests.append(rounds.rest_s())

    assert min(rests) >= spec.debounce_s
    assert max(rests) <= max(spec.debounce_s, spec.idle_cap_s) * (1 + spec.jitter) + 1e-9


@given(spec=specs, number=draws, times=st.integers(1, 200))
def test_rests_after_failures_never_shrink_are_capped_and_never_nothing(spec, number, times):
    rounds = Rounds(spec, Drawn(number))

    rests = [rounds.failed_s() for _ in range(times)]

    assert rests == sorted(rests)
    assert spec.backoff_s * (1 - spec.jitter) - 1e-9 <= rests[0]
    assert rests[-1] <= spec.backoff_cap_s * (1 + spec.jitter) + 1e-9


@given(steps=st.lists(st.sampled_from(["asked", "told", "watched", "failed"]), max_size=40))
def test_in_whatever_order_things_happen_a_change_is_looked_at_after_one_debounce(steps):
    rounds = Rounds(STEADY, random.Random(0))
    for step in steps:
        if step in ("asked", "told"):
            rounds.asked(snapshot(b"former"), is_told=step == "told")
        elif step == "watched":
            rounds.watched()
        else:
            rounds.failed_s()

    rounds.asked(snapshot(b"another"), is_told=True)

    assert rounds.rest_s() == STEADY.debounce_s


def test_what_was_read_as_it_was_time_is_no_false_alarm():
    rounds = Rounds(STEADY, random.Random(0))
    for _ in range(5):
        rounds.asked(snapshot(), is_told=False)

    assert rounds.rest_s() == STEADY.debounce_s


def test_the_same_content_under_another_version_is_no_change():
    rounds = Rounds(STEADY, random.Random(0))

    rounds.asked(snapshot(index=1), is_told=False)
    rounds.asked(snapshot(index=2), is_told=True)

    assert rounds.rest_s() == 2 * STEADY.debounce_s


def test_two_programs_do_not_rest_for_the_same_time():
    spec = WatchSpec(jitter=0.2)

    rests = {Rounds(spec, random.Random(seed)).failed_s() for seed in range(20)}

    assert len(rests) == 20
    assert all(0.4 <= rest_s <= 0.6 for rest_s in rests)


def test_a_resolver_that_does_not_come_back_holds_up_no_end(a_watch, monkeypatch):
    asked, is_over = threading.Event(), threading.Event()

    def resolve(*_arguments, **_options):
        asked.set()
        is_over.wait(PATIENCE_S)
        raise OSError

    class Named(Scripted):
        async def fetch(self):
            await asyncio.get_running_loop().getaddrinfo("nowhere.test", 80)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    watch = a_watch(Named())
    assert asked.wait(PATIENCE_S)

    watch.stop(PATIENCE_S)

    assert not watch._thread.is_alive()
    is_over.set()


@pytest.mark.parametrize("failure", [None, OSError("nobody knows it")])
def test_a_name_is_looked_up_as_ever(a_watch, hearer, monkeypatch, failure):
    def resolve(host, port, **options):
        if failure is not None:
            raise failure
        return [(host, port, options)]

    class Named(Scripted):
        async def fetch(self):
            [(host, port, options)] = await asyncio.get_running_loop().getaddrinfo("a.test", 80, type=1)
            return snapshot(f"{host}:{port} {options}".encode())

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    a_watch(Named())

    told = "consul://a/b: failed with OSError." if failure else b"a.test:80 {'type': 1}"
    hearer.wait_for((0, told))
