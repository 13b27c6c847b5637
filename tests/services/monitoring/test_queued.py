"""A listener that takes its time costs its own events, and no call's time."""

from __future__ import annotations

import os
import threading

import pytest

from llmwire.services.events import StreamEnded
from llmwire.services.monitoring.queued import Queued


def event(number):
    return StreamEnded(function="completion", endpoint="a", error=None, took_s=float(number))


def test_events_arrive_in_their_order_on_a_thread_of_their_own():
    heard = []
    queued = Queued(lambda event: heard.append((event.took_s, threading.current_thread().name)))

    for number in range(100):
        queued(event(number))
    queued.close()

    assert heard == [(float(number), "llmwire listener") for number in range(100)]
    assert queued.dropped == 0


def test_a_listener_that_stands_still_costs_its_own_events_and_nothing_else():
    may_go_on, heard = threading.Event(), []

    def slow(event):
        may_go_on.wait(10)
        heard.append(event.took_s)

    queued = Queued(slow, most=10)
    for number in range(100):
        queued(event(number))
    dropped = queued.dropped
    may_go_on.set()
    queued.close()

    assert dropped in (89, 90)  # one may be in its hands already
    assert heard == [float(number) for number in range(100 - dropped)]


def test_one_that_raises_is_told_of_the_next_event_all_the_same():
    heard = []

    def broken(event):
        heard.append(event.took_s)
        raise RuntimeError

    queued = Queued(broken)
    queued(event(1))
    queued(event(2))
    queued.close()

    assert heard == [1.0, 2.0]


def test_after_it_is_closed_nothing_is_told():
    heard = []
    queued = Queued(heard.append)
    queued.close()

    queued(event(1))

    assert (heard, queued.dropped) == ([], 1)


def test_a_queue_for_no_event_is_refused():
    with pytest.raises(ValueError, match="at least one event"):
        Queued(lambda event: None, most=0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_process_has_a_thread_of_its_own():
    read, write = os.pipe()
    queued = Queued(lambda event: os.write(write, b"%d" % event.took_s))
    queued(event(1))
    assert os.read(read, 1) == b"1"
    if os.fork() == 0:
        queued(event(2))
        queued.close()
        os._exit(0)
    os.wait()

    assert os.read(read, 10) == b"2"
    queued.close()
    os.close(read)
    os.close(write)
