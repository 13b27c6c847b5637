"""A text is compared with the examples of routes within a limit, whatever its embedder does."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmwire.services.provenance import Provenance, record, recorded
from llmwire.services.routing.facts import SAMPLE_CHARS
from llmwire.services.routing.route import Route
from llmwire.services.routing.router import Scores
from llmwire.services.transport.meaning import (
    MAX_LATE,
    MAX_LATER,
    MAX_THREADS,
    RETRY_CAP_S,
    RETRY_S,
    Meaning,
)
from llmwire.services.wanted import Wanted, routed, wanted

PATIENCE_S = 30.0  #: far more than anything here takes
SHORT_S = 0.05  #: a limit that is waited for
LATE = Scores(problem="no embedding within 0.05 s")
NO_EXAMPLES = Scores(problem="the embedding of the examples failed: LookupError")
SUMS, POEMS = "add two numbers", "write a poem"
ROUTES = {"maths": Route(pool="p", examples=(SUMS,)), "verse": Route(pool="p", examples=(POEMS,))}
#: what the embedder of these tests makes of a text; of all others it makes [1, 1, 0]
KNOWN = {SUMS: [2, 0, 0], POEMS: [0, 3, 0], "sum": [1, 0, 0], "rhyme": [0, 5, 0]}


class Embedder:
    """Embeds as KNOWN says, both ways; a text may have to wait for `go_on`.

    Attributes:
        asked: what came: the texts, and what was wanted of the call.
        hangs_on: texts that wait.
        fails_on: texts for which an error is raised that quotes them.
        gives: is answered in place of vectors.
    """

    def __init__(self):
        self.asked, self.hangs_on, self.fails_on, self.gives = [], set(), set(), None
        self.go_on, self.has_begun = threading.Event(), threading.Semaphore(0)
        self.has_ended = threading.Semaphore(0)

    def embed(self, texts):
        self._begin(texts)
        if self.hangs_on & set(texts):
            assert self.go_on.wait(PATIENCE_S)
        return self._end(texts)

    async def async_embed(self, texts):
        self._begin(texts)
        while self.hangs_on & set(texts) and not self.go_on.is_set():
            await asyncio.sleep(0.001)
        return self._end(texts)

    def times(self, text):
        return sum(text in texts for texts, _ in self.asked)

    def _begin(self, texts):
        self.asked.append((list(texts), wanted()))
        self.has_begun.release()

    def _end(self, texts):
        self.has_ended.release()
        if failing := self.fails_on & set(texts):
            raise LookupError(*failing)
        if self.gives is not None and SUMS not in texts:
            return self.gives
        return np.array([KNOWN.get(text, [1, 1, 0]) for text in texts], dtype=np.float32)


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def embedder():
    made = Embedder()
    yield made
    made.go_on.set()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def a_meaning(embedder, clock):
    def make(limit_s=PATIENCE_S, routes=ROUTES):
        return Meaning(routes, embed=embedder.embed, async_embed=embedder.async_embed, limit_s=limit_s, clock=clock)

    return make


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def blocking(meaning, text, trust=None):
    return meaning.scores(text, trust)


def in_a_loop(meaning, text, trust=None):
    return run(meaning.async_scores(text, trust))


both_ways = pytest.mark.parametrize("ask", [blocking, in_a_loop])


def wait_until(is_so):
    """Wait for what threads do that tell nobody of it."""
    ends_at_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends_at_s
        time.sleep(0.001)


async def until(is_so):
    """Let the loop go round until something is so."""
    while not is_so():
        await asyncio.sleep(0.001)


@both_ways
def test_a_text_is_compared_with_the_examples_of_each_route(a_meaning, ask):
    meaning = a_meaning()

    assert ask(meaning, "sum") == Scores(by_route={"maths": 1.0, "verse": 0.0})
    assert ask(meaning, "something").by_route == pytest.approx({"maths": 0.5**0.5, "verse": 0.5**0.5})


@both_ways
def test_the_examples_are_embedded_once_all_together_and_each_text_once(a_meaning, ask, embedder):
    meaning = a_meaning()

    for text in ("sum", "rhyme", "sum", "rhyme"):
        ask(meaning, text)

    assert sorted(texts for texts, _ in embedder.asked) == [[SUMS, POEMS], ["rhyme"], ["sum"]]


@both_ways
def test_nothing_is_embedded_before_the_first_question(a_meaning, ask, embedder):
    meaning = a_meaning()

    assert embedder.asked == []
    assert ask(meaning, "sum").problem is None


@both_ways
def test_a_text_goes_only_where_its_request_may_and_the_examples_anywhere(a_meaning, ask, embedder):
    trust = frozenset({"local"})

    with routed(tags="theirs", trust="another"):
        ask(a_meaning(), "sum", trust)
        assert wanted() == Wanted(tags=frozenset({"theirs"}), trust=frozenset({"another"}))

    asked = {texts[0]: wanted for texts, wanted in embedder.asked}
    assert asked == {
        "sum": Wanted(trust=trust, is_for_routing=True),
        SUMS: Wanted(trust=None, is_for_routing=True),
    }


@both_ways
def test_only_the_beginning_of_a_text_is_embedded(a_meaning, ask, embedder):
    meaning, beginning = a_meaning(), "x" * SAMPLE_CHARS

    ask(meaning, beginning + "y")
    ask(meaning, beginning + "z")

    assert embedder.times(beginning) == 1
    assert len(embedder.asked) == 2


@both_ways
def test_the_calls_of_a_question_are_on_nobodys_record(a_meaning, ask, embedder):
    def embed(texts):
        record(Provenance(function="embedding", endpoint="e", attempts=(), is_degraded=False))
        return Embedder().embed(texts)

    async def async_embed(texts):
        return embed(texts)

    meaning = Meaning(ROUTES, embed=embed, async_embed=async_embed, limit_s=PATIENCE_S)

    with recorded() as calls:
        assert ask(meaning, "sum").problem is None

    assert calls == []


@both_ways
@pytest.mark.parametrize("slow", ["sum", SUMS])
def test_what_comes_too_late_is_a_problem_that_tells_the_limit(a_meaning, ask, embedder, slow):
    embedder.hangs_on = {slow}
    meaning = a_meaning(SHORT_S)

    began_at_s = time.monotonic()
    scores = ask(meaning, "sum")

    assert scores == LATE
    assert SHORT_S <= time.monotonic() - began_at_s < PATIENCE_S / 2


@pytest.mark.parametrize("slow", ["sum", SUMS])
def test_what_comes_too_late_is_there_for_the_next_question(a_meaning, embedder, slow):
    embedder.hangs_on = {slow}
    meaning = a_meaning(SHORT_S)
    assert meaning.scores("sum", None) == LATE
    meaning._limit_s = PATIENCE_S

    embedder.go_on.set()

    assert meaning.scores("rhyme", None).problem is None  # waits for examples that are late
    assert embedder.has_ended.acquire(timeout=PATIENCE_S)
    assert embedder.times(SUMS) == 1


@pytest.mark.parametrize("slow", ["sum", SUMS])
def test_in_a_loop_what_comes_too_late_is_there_for_the_next_question(a_meaning, embedder, slow):
    embedder.hangs_on = {slow}
    meaning = a_meaning(SHORT_S)

    async def main():
        assert await meaning.async_scores("sum", None) == LATE
        embedder.go_on.set()
        await until(lambda: meaning._remembered.get("sum") is not None and not meaning._late_tasks._held)
        meaning._limit_s = PATIENCE_S
        return await meaning.async_scores("sum", None)

    assert run(main()) == Scores(by_route={"maths": 1.0, "verse": 0.0})
    assert len(embedder.asked) == 2


def test_a_text_that_came_too_late_is_remembered(a_meaning, embedder):
    embedder.hangs_on = {"sum"}
    meaning = a_meaning(SHORT_S)
    meaning.scores("sum", None)

    embedder.go_on.set()
    wait_until(lambda: not meaning._threads._running)

    assert meaning.scores("sum", None).problem is None
    assert embedder.times("sum") == 1


def test_hung_calls_hold_few_threads_and_no_question_longer_than_its_limit(a_meaning, embedder):
    texts = [f"text {number}" for number in range(30)]
    embedder.hangs_on = set(texts)
    meaning = a_meaning(SHORT_S)

    with ThreadPoolExecutor(30) as callers:
        found = list(callers.map(lambda text: meaning.scores(text, None), texts))

    assert found == [LATE] * 30
    assert len(embedder.asked) <= MAX_THREADS + 1  # the examples ended, and gave their thread to a text
    assert not meaning._threads._waiting


def test_thirty_threads_at_once_share_the_examples(a_meaning, embedder):
    meaning, start = a_meaning(), threading.Barrier(30)

    def ask(number):
        start.wait()
        return meaning.scores("sum" if number % 2 else "rhyme", None)

    with ThreadPoolExecutor(30) as callers:
        found = list(callers.map(ask, range(30)))

    assert found == [Scores(by_route={"maths": 0.0, "verse": 1.0}), Scores(by_route={"maths": 1.0, "verse": 0.0})] * 15
    assert embedder.times(SUMS) == 1


def test_many_tasks_at_once_share_the_examples(a_meaning, embedder):
    meaning = a_meaning()

    async def main():
        return await asyncio.gather(*(meaning.async_scores(f"text {number}", None) for number in range(30)))

    assert {scores.problem for scores in run(main())} == {None}
    assert embedder.times(SUMS) == 1


def test_threads_and_loops_share_the_examples_and_the_texts(a_meaning, embedder):
    embedder.hangs_on = {SUMS}
    meaning, found = a_meaning(), []
    ways = [lambda: blocking(meaning, "sum"), lambda: in_a_loop(meaning, "sum")] * 4
    threads = [threading.Thread(target=lambda way=way: found.append(way())) for way in ways]

    # The first is a loop of its own, which embeds the examples for all.
    owner = threading.Thread(target=lambda: found.append(in_a_loop(meaning, "rhyme")))
    owner.start()
    for _ in range(2):
        assert embedder.has_begun.acquire(timeout=PATIENCE_S)
    for thread in threads:
        thread.start()
    wait_until(lambda: embedder.times("sum") > 0)
    embedder.go_on.set()
    for thread in [owner, *threads]:
        thread.join(PATIENCE_S)

    assert {scores.problem for scores in found} == {None}
    assert len(found) == 9
    assert embedder.times(SUMS) == 1


@both_ways
def test_a_failure_is_told_by_its_class_alone(a_meaning, ask, embedder):
    meaning = a_meaning()
    ask(meaning, "rhyme")

    embedder.fails_on = {"sum"}

    assert ask(meaning, "sum") == Scores(problem="the embedding failed: LookupError")


@both_ways
def test_a_failed_text_is_asked_for_again(a_meaning, ask, embedder):
    meaning = a_meaning()
    embedder.fails_on = {"sum"}
    ask(meaning, "sum")
    embedder.fails_on = set()

    assert ask(meaning, "sum").problem is None


@both_ways
@pytest.mark.parametrize(
    ("gives", "problem"),
    [
        ([[1, 2, 3], [1, 2, 3]], "the embedding is of the shape (2, 3) for 1 texts"),
        ([1, 2, 3], "the embedding is of the shape (3,) for 1 texts"),
        ([[1, float("nan"), 3]], "the embedding has something in it that is no finite number"),
        ([[0, 0, 0]], "the embedding is all zeros"),
        ("nonsense", "the embedding is no matrix of numbers"),
    ],
)
def test_an_answer_that_is_no_vector_is_a_problem(a_meaning, ask, embedder, gives, problem):
    embedder.gives = gives

    assert ask(a_meaning(), "sum") == Scores(problem=problem)


@both_ways
def test_examples_that_failed_are_embedded_again_later_and_later(a_meaning, ask, embedder, clock):
    embedder.fails_on = {SUMS}
    meaning = a_meaning()

    for tries, rest_s in enumerate([RETRY_S, 10.0, 20.0, 40.0, RETRY_CAP_S, RETRY_CAP_S], start=1):
        assert ask(meaning, "sum") == NO_EXAMPLES
        clock.now_s += rest_s - 0.5
        assert ask(meaning, "sum") == NO_EXAMPLES
        assert embedder.times(SUMS) == tries
        clock.now_s += 0.5
    embedder.fails_on = set()

    assert ask(meaning, "sum").problem is None


@both_ways
def test_no_text_is_sent_and_nobody_waits_while_the_examples_are_not_to_be_had(a_meaning, ask, embedder):
    embedder.fails_on = {SUMS}
    meaning = a_meaning()
    ask(meaning, "rhyme")

    assert ask(meaning, "sum") == NO_EXAMPLES
    assert embedder.times("sum") == 0


@both_ways
def test_examples_that_fail_before_the_text_is_sent_hold_nobody_up(a_meaning, ask, embedder):
    meaning = a_meaning()
    send = meaning._send

    def at_once(texts, trust, found):  # as a thread that is done before anybody looks again
        if SUMS not in texts:
            return send(texts, trust, found)
        return found("failed: LookupError")

    meaning._send = meaning._async_send = at_once

    assert ask(meaning, "sum") == NO_EXAMPLES
    assert embedder.asked == []


@both_ways
def test_vectors_of_another_length_are_another_models_and_the_examples_are_embedded_again(
    a_meaning, ask, embedder, clock, monkeypatch
):
    meaning = a_meaning()
    ask(meaning, "rhyme")
    for text, vector in list(KNOWN.items()):
        monkeypatch.setitem(KNOWN, text, [*vector, 0])
    clock.now_s += RETRY_S

    assert ask(meaning, "sum") == Scores(problem="its vector has 4 dimensions, and an example's 3")

    assert ask(meaning, "sum") == Scores(by_route={"maths": 1.0, "verse": 0.0})
    assert ask(meaning, "rhyme") == Scores(by_route={"maths": 0.0, "verse": 1.0})
    assert embedder.times(SUMS) == 2


@both_ways
def test_two_models_by_turns_do_not_have_the_examples_embedded_at_every_question(a_meaning, ask, embedder, monkeypatch):
    meaning = a_meaning()
    ask(meaning, "rhyme")
    embedder.gives = [[1, 0, 0, 0]]

    found = [ask(meaning, f"text {number}").problem for number in range(3)]

    again = "the embedding model has changed: the examples are embedded again"
    assert found == ["its vector has 4 dimensions, and an example's 3", again, again]
    assert embedder.times(SUMS) == 1


def test_one_meaning_serves_several_loops_one_after_another(a_meaning, embedder):
    meaning = a_meaning()

    assert run(meaning.async_scores("sum", None)).problem is None
    assert run(meaning.async_scores("rhyme", None)).problem is None
    assert embedder.times(SUMS) == 1


def test_examples_that_end_with_their_loop_are_begun_again_by_the_next(a_meaning, embedder):
    embedder.hangs_on = {SUMS}
    meaning = a_meaning(SHORT_S)
    assert run(meaning.async_scores("sum", None)) == LATE
    meaning._limit_s = PATIENCE_S
    embedder.go_on.set()

    assert run(meaning.async_scores("sum", None)).problem is None
    assert embedder.times(SUMS) == 2


@both_ways
def test_examples_of_a_loop_that_does_not_run_are_begun_again(a_meaning, embedder, ask):
    embedder.hangs_on = {SUMS}
    meaning, loop = a_meaning(SHORT_S), asyncio.new_event_loop()
    assert loop.run_until_complete(meaning.async_scores("sum", None)) == LATE
    meaning._limit_s = PATIENCE_S
    embedder.go_on.set()

    assert ask(meaning, "sum").problem is None
    assert embedder.times(SUMS) == 2

    tasks = asyncio.all_tasks(loop)
    loop.run_until_complete(asyncio.gather(*tasks))
    loop.close()
    assert ask(meaning, "sum").problem is None


def test_a_cancelled_caller_is_cancelled_and_the_others_get_the_examples(a_meaning, embedder):
    embedder.hangs_on = {SUMS}
    meaning = a_meaning()

    async def main():
        first = asyncio.create_task(meaning.async_scores("sum", None))
        other = asyncio.create_task(meaning.async_scores("rhyme", None))
        await until(lambda: len(embedder.asked) == 3)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        embedder.go_on.set()
        return await other

    assert run(main()) == Scores(by_route={"maths": 0.0, "verse": 1.0})
    assert embedder.times(SUMS) == 1


def test_a_deadline_of_the_callers_own_is_not_taken_for_the_limit(a_meaning, embedder):
    embedder.hangs_on = {SUMS}
    meaning = a_meaning()

    async def main():
        async with asyncio.timeout(SHORT_S):
            await meaning.async_scores("sum", None)

    with pytest.raises(TimeoutError):
        run(main())


def test_an_embedder_that_swallows_its_cancellation_holds_nobody_up(embedder):
    async def stubborn(texts):
        while not embedder.go_on.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue
        return await embedder.async_embed(texts)

    meaning = Meaning(ROUTES, embed=embedder.embed, async_embed=stubborn, limit_s=SHORT_S)

    async def main():
        texts = [f"text {number}" for number in range(2 * MAX_LATE)]
        found = await asyncio.gather(*(meaning.async_scores(text, None) for text in texts))
        embedder.go_on.set()
        return found

    assert run(main()) == [LATE] * 2 * MAX_LATE


def test_few_calls_of_a_loop_go_on_after_their_limit(a_meaning, embedder):
    texts = [f"text {number}" for number in range(3 * MAX_LATE)]
    embedder.hangs_on = set(texts)
    meaning = a_meaning(SHORT_S)

    async def main():
        await asyncio.gather(*(meaning.async_scores(text, None) for text in texts))
        embedder.go_on.set()
        await until(lambda: not meaning._late_tasks._held)

    run(main())

    assert sum(meaning._remembered.get(text) is not None for text in texts) == MAX_LATE


def test_an_embedding_that_is_cancelled_from_within_is_no_cancellation_of_the_caller(embedder):
    async def cancelled(texts):
        raise asyncio.CancelledError

    meaning = Meaning(ROUTES, embed=embedder.embed, async_embed=cancelled, limit_s=PATIENCE_S)

    assert in_a_loop(meaning, "sum").problem == "the embedding was cancelled"


def test_scores_that_nobody_waits_for_are_told_later(a_meaning, embedder):
    embedder.hangs_on = {"sum"}
    meaning, told, is_told = a_meaning(), [], threading.Event()

    def then(scores):
        told.append((threading.current_thread(), scores, wanted().tags))
        is_told.set()

    with routed(tags="theirs"):
        meaning.scored_later("sum", frozenset({"local"}), then)
    assert told == []
    embedder.go_on.set()

    assert is_told.wait(PATIENCE_S)
    [(thread, scores, tags)] = told
    assert thread is not threading.current_thread()
    assert scores == Scores(by_route={"maths": 1.0, "verse": 0.0})
    assert tags == {"theirs"}
    assert {asked.trust for texts, asked in embedder.asked if texts == ["sum"]} == {frozenset({"local"})}


def test_in_a_loop_scores_that_nobody_waits_for_are_told_later(a_meaning, embedder):
    embedder.hangs_on = {"sum"}
    meaning, told = a_meaning(), []

    async def main():
        meaning.async_scored_later("sum", frozenset({"local"}), told.append)
        await until(lambda: embedder.asked)
        gc.collect()
        assert told == []
        embedder.go_on.set()
        await until(lambda: told)

    run(main())

    assert told == [Scores(by_route={"maths": 1.0, "verse": 0.0})]
    assert {asked.trust for texts, asked in embedder.asked if texts == ["sum"]} == {frozenset({"local"})}


def test_later_scores_are_dropped_where_too_many_wait_and_crowd_out_nobody(a_meaning, embedder):
    texts = [f"text {number}" for number in range(2 * MAX_LATER)]
    embedder.hangs_on = set(texts)
    meaning, told = a_meaning(), []
    for text in texts:
        meaning.scored_later(text, None, told.append)

    assert meaning.scores("sum", None).problem is None
    embedder.go_on.set()
    wait_until(lambda: not meaning._later._running)

    assert MAX_LATER <= len(told) < len(texts)


def test_in_a_loop_later_scores_are_dropped_where_too_many_wait(a_meaning, embedder):
    texts = [f"text {number}" for number in range(2 * MAX_LATER)]
    embedder.hangs_on = set(texts)
    meaning, told = a_meaning(), []

    async def main():
        for text in texts:
            meaning.async_scored_later(text, None, told.append)
        assert (await meaning.async_scores("sum", None)).problem is None
        embedder.go_on.set()
        await until(lambda: not meaning._later_tasks._held)

    run(main())

    assert len(told) == MAX_LATER


def test_later_scores_end_with_their_loop(a_meaning, embedder):
    embedder.hangs_on = {"sum"}
    meaning, told = a_meaning(), []

    async def main():
        meaning.async_scored_later("sum", None, told.append)
        await until(lambda: embedder.asked)

    run(main())

    assert told == []
    assert not meaning._later_tasks._held


def test_a_child_process_keeps_what_is_known_and_has_threads_of_its_own(a_meaning, embedder):
    meaning = a_meaning()
    meaning.scores("sum", None)
    wait_until(lambda: not meaning._threads._running)

    child = os.fork()
    if child == 0:
        meaning.renew_after_fork()
        found = [blocking(meaning, "sum"), blocking(meaning, "rhyme"), in_a_loop(meaning, "another")]
        asked = [texts for texts, _ in embedder.asked[2:]]
        is_well = [scores.problem for scores in found] == [None] * 3 and asked == [["rhyme"], ["another"]]
        os._exit(0 if is_well else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_process_waits_for_nothing_that_its_parent_has_on_its_way(a_meaning, embedder):
    embedder.hangs_on = {SUMS, "sum"}
    meaning = a_meaning(SHORT_S)
    assert meaning.scores("sum", None) == LATE
    held = [meaning._examples._lock, meaning._remembered._lock, meaning._threads._lock, meaning._later._lock]
    for lock in held:
        lock.acquire()

    # As after a fork, but that the parent's threads are there to be released in the end.
    meaning.renew_after_fork()
    meaning._limit_s = PATIENCE_S
    embedder.hangs_on = set()
    scores = meaning.scores("rhyme", None)

    for lock in held:
        lock.release()
    assert scores.problem is None
    assert embedder.times(SUMS) == 2


def test_the_interpreter_ends_though_an_embedding_hangs():
    script = (
        "import threading; from llmwire.services.routing.route import Route;"
        "from llmwire.services.transport.meaning import Meaning;"
        "hang = lambda texts: threading.Event().wait();"
        "meaning = Meaning({'r': Route(pool='p', examples=('e',))}, embed=hang, async_embed=None, limit_s=0.05);"
        "print(meaning.scores('text', None).problem)"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert (ran.stdout, ran.stderr) == ("no embedding within 0.05 s\n", "")
