"""Few threads and few tasks do what nobody waits for, and a promise wakes whoever waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from llmwire.services.transport.errands import Promise, Tasks, Threads

PATIENCE_S = 30.0  #: far more than anything here takes


@pytest.fixture
def go_on():
    event = threading.Event()
    yield event
    event.set()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def test_a_promise_wakes_threads_and_tasks_of_any_loop():
    promise, found = Promise(), []
    are_waiting = threading.Barrier(5)

    def wait():
        are_waiting.wait()
        found.append(promise.wait(PATIENCE_S))

    def wait_async():
        async def main():
            are_waiting.wait()
            return await promise.wait_async()

        found.append(run(main()))

    threads = [threading.Thread(target=target) for target in (wait, wait, wait_async, wait_async)]
    for thread in threads:
        thread.start()
    are_waiting.wait()

    promise.keep("value")

    for thread in threads:
        thread.join(PATIENCE_S)
    assert found == ["value"] * 4
    assert not promise._waiting


def test_a_promise_that_is_not_kept_in_time_gives_nothing_and_forgets_who_waited():
    promise = Promise()

    async def wait():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await promise.wait_async()

    assert promise.wait(0.01) is None
    run(wait())
    assert not promise._waiting


def test_the_first_value_of_a_promise_stands():
    promise = Promise()

    promise.keep("first")
    promise.keep("second")

    assert promise.wait(0.0) == "first"


def test_a_promise_outlives_a_loop_that_waited_for_it():
    promise, loop = Promise(), asyncio.new_event_loop()

    async def begin_to_wait():
        task = asyncio.ensure_future(promise.wait_async())
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(begin_to_wait())
    wakers = set(promise._waiting)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    promise._waiting |= wakers  # as of a loop that was closed at once

    promise.keep("value")

    assert promise.value == "value"


def test_no_more_threads_run_than_are_allowed_and_no_more_errands_wait(go_on):
    threads, done = Threads("t", most=2, most_waiting=1), []
    have_begun = threading.Semaphore(0)

    def errand():
        have_begun.release()
        assert go_on.wait(PATIENCE_S)
        done.append(threading.current_thread().name)

    taken = [threads.run(errand) for _ in range(4)]
    for _ in range(2):
        assert have_begun.acquire(timeout=PATIENCE_S)
    assert not have_begun.acquire(blocking=False)
    go_on.set()

    assert have_begun.acquire(timeout=PATIENCE_S)
    assert taken == [True, True, True, False]


def test_an_errand_that_is_dropped_before_it_begins_never_does(go_on):
    threads, done = Threads("t", most=1, most_waiting=9), []
    is_over = threading.Event()
    threads.run(lambda: go_on.wait(PATIENCE_S))
    dropped, kept = (lambda: done.append("dropped")), (lambda: done.append("kept"))
    threads.run(dropped)
    threads.run(kept)
    threads.run(is_over.set)

    threads.drop(dropped)
    go_on.set()

    assert is_over.wait(PATIENCE_S)
    assert done == ["kept"]


def test_an_errand_that_raises_is_shown_and_the_next_has_its_turn(go_on, monkeypatch):
    threads, shown, is_over = Threads("t", most=1, most_waiting=9), [], threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda told: shown.append(told.exc_type))

    def fails():
        go_on.wait(PATIENCE_S)
        raise LookupError

    threads.run(fails)
    threads.run(is_over.set)
    go_on.set()

    assert is_over.wait(PATIENCE_S)
    assert shown == [LookupError]


def test_where_no_thread_can_be_had_the_errand_is_refused(monkeypatch):
    threads = Threads("t", most=1, most_waiting=9)
    done = threading.Event()

    def none_left(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        assert not threads.run(done.set)

    assert threads.run(done.set)
    assert done.wait(PATIENCE_S)


def test_the_interpreter_ends_though_an_errand_hangs():
    script = (
        "import threading; from llmwire.services.transport.errands import Threads;"
        "threads = Threads('t', most=1, most_waiting=1);"
        "begun = threading.Event();"
        "threads.run(lambda: (begun.set(), threading.Event().wait()));"
        "threads.run(print); begun.wait(); print('over')"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert (ran.stdout, ran.stderr) == ("over\n", "")


def test_tasks_beyond_what_is_held_are_cancelled():
    tasks = Tasks(most=1)

    async def main():
        go_on = asyncio.Event()
        first, second = (asyncio.create_task(go_on.wait()) for _ in range(2))
        tasks.hold(first)
        tasks.hold(second)
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(first, second, return_exceptions=True)

    kept, cancelled = run(main())

    assert kept is True
    assert isinstance(cancelled, asyncio.CancelledError)
    assert not tasks._held


class StuckTask:
    """One whose loop was closed before its end, without asyncio's complaint about it."""

    def __init__(self):
        self.loop, self.is_cancelled = asyncio.new_event_loop(), False

    def get_loop(self):
        return self.loop

    def add_done_callback(self, callback):
        pass

    def cancel(self):
        self.is_cancelled = True


def test_tasks_of_a_closed_loop_take_nobodys_place():
    tasks, stuck, another = Tasks(most=1), StuckTask(), StuckTask()
    tasks.hold(stuck)

    stuck.loop.close()
    tasks.hold(another)
    another.loop.close()

    assert not another.is_cancelled


def test_a_child_process_has_threads_of_its_own(go_on):
    threads = Threads("t", most=1, most_waiting=0)
    threads.run(lambda: go_on.wait(PATIENCE_S))
    done = threading.Event()

    with threads._lock:
        threads.renew_after_fork()

        assert threads.run(done.set)
        assert done.wait(PATIENCE_S)
