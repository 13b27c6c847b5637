"""Processes that have a store in common go by what all of them spend; one that is away stops nobody."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from llmwire.services.errors import ConfigError
from llmwire.services.events import LedgerFailed
from llmwire.services.routing.spending import Period, Spending, SpendingLimit, Unit
from llmwire.services.store import PREFIX
from llmwire.services.transport.ledger import Ledger, opened_ledger

from ..redis_server import RedisServer

PATIENCE_S = 20.0
TEN_A_DAY = SpendingLimit(limit=10.0, unit=Unit.COST, per=Period.DAY)


@pytest.fixture
def redis():
    server = RedisServer()
    server.start()
    yield server
    server.kill()


def nothing_spent(limit=TEN_A_DAY):
    # At noon: the day does not end while a test runs.
    return Spending("completion", [limit], wall_clock=lambda: 43_200.0, make_lock=threading.Lock)


class Process:
    """What a process has: its spending, its ledger, and what was told."""

    def __init__(self, url, limit=TEN_A_DAY):
        self.told, self.reached = [], []
        self.spending = nothing_spent(limit)
        self.ledger = opened_ledger(
            "completion", self.spending, url, reached=self.reached.append, listener=self.told.append
        )

    def spend(self, cost):
        return self.spending.spent("a", (), tokens=None, cost=cost)

    @property
    def spent(self):
        return self.spending.state()[0].spent


def test_each_learns_what_the_other_has_spent(redis):
    one, other = Process(redis.url), Process(redis.url)
    one.spend(4.0)
    other.spend(3.0)

    one.ledger.share()
    other.ledger.share()
    one.ledger.share()

    assert (one.spent, other.spent) == (7.0, 7.0)


def test_a_limit_that_all_have_reached_together_is_told_to_each(redis):
    one, other = Process(redis.url), Process(redis.url)
    one.spend(6.0)
    other.spend(6.0)

    for process in (one, other, one, other):
        process.ledger.share()

    assert [event.spent for event in one.reached] == [event.spent for event in other.reached] == [12.0]
    assert one.spending.refusal(()).spent == 12.0


def test_a_store_that_is_away_is_told_once_and_what_was_spent_meanwhile_is_told_it_later(redis):
    one, other = Process(redis.url), Process(redis.url)
    redis.kill()
    for _ in range(3):
        one.spend(1.0)
        one.ledger.share()

    assert [(type(event), event.function, event.problem) for event in one.told] == [
        (LedgerFailed, "completion", "ConnectionError")
    ]
    assert one.spent == 3.0
    redis.start()
    one.ledger.share()
    other.ledger.share()
    assert (one.spent, other.spent) == (3.0, 3.0)
    redis.kill()
    one.ledger.share()
    assert len(one.told) == 2


def test_it_shares_by_itself_when_it_is_woken_and_for_the_last_time_when_it_is_closed(redis):
    one, other = Process(redis.url), Process(redis.url)
    one.spend(2.0)
    one.ledger.wake()
    wait_until(lambda: share(other) == 2.0)

    one.spend(1.0)
    one.ledger.close()

    assert share(other) == 3.0


def share(process):
    process.ledger.share()
    return process.spent


def wait_until(is_so):
    ends_at_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends_at_s
        time.sleep(0.05)


def test_it_asks_nothing_while_nobody_calls_or_spends():
    asked = []
    ledger = Ledger("completion", nothing_spent(), Counting(asked), reached=asked.append, listener=asked.append)

    ledger.share_if_used()
    assert asked == []
    ledger.wake()
    ledger.close()
    ledger.share_if_used()

    assert len(asked) == 1


class Counting:
    """A store that nobody else has; each question is in `asked`."""

    def __init__(self, asked):
        self._asked = asked

    def get(self, key):
        self._asked.append(key)
        return 0


def test_what_an_answer_cost_is_told_though_its_call_was_long_ago(redis):
    one, other = Process(redis.url), Process(redis.url)
    one.spend(2.0)

    one.ledger.share_if_used()

    assert share(other) == 2.0


def test_a_store_that_answers_nonsense_is_told_of_and_loses_no_amount(redis):
    process = Process(redis.url)
    with socket.create_connection(("127.0.0.1", redis.port)) as connection:
        key = f"{PREFIX}:{process.spending.shares()[0].key}"
        connection.sendall(f'SET "{key}" nonsense\r\n'.encode())
        assert connection.recv(100) == b"+OK\r\n"
    process.spend(2.0)

    process.ledger.share()

    assert [type(event) for event in process.told] == [LedgerFailed]
    assert [share.amount for share in process.spending.shares()] == [2_000_000_000]


def test_a_store_that_was_restarted_and_is_empty_makes_nothing_unspent(redis):
    one, other = Process(redis.url), Process(redis.url)
    one.spend(4.0)
    other.spend(5.0)
    for process in (one, other, one):
        process.ledger.share()

    redis.kill()
    redis.start()
    for process in (one, other):
        process.ledger.share()
    assert (one.spent, other.spent) == (9.0, 9.0)
    one.spend(1.0)
    for process in (one, other):
        process.ledger.share()

    assert (one.spent, other.spent) == (10.0, 10.0)


def test_a_script_that_ends_at_once_and_closes_nothing_has_told_what_it_spent(redis):
    subprocess.run([sys.executable, "-c", SCRIPT, redis.url], check=True, timeout=60)

    assert share(Process(redis.url)) == 2.0


def test_one_that_nobody_has_any_more_ends_its_thread(redis):
    process = Process(redis.url)
    process.ledger.wake()
    thread = process.ledger._thread
    del process

    thread.join(PATIENCE_S)

    assert not thread.is_alive()


def test_a_child_process_shares_on_a_thread_of_its_own(redis):
    process, other = Process(redis.url), Process(redis.url)
    process.ledger.wake()
    mine = process.ledger._thread

    process.spending.renew_after_fork()
    process.ledger.renew_after_fork()
    process.spend(2.0)
    process.ledger.wake()

    assert process.ledger._thread is not mine
    wait_until(lambda: share(other) == 2.0)
    process.ledger.close()


@pytest.mark.parametrize("url", ["redis://:hush/x@host:1/0", "http://host", "redis://host:port", "redis://h/0?hush=1"])
def test_a_url_that_cannot_be_used_is_refused_with_the_setting_and_without_its_password(url):
    with pytest.raises(ConfigError, match=r"^completion\.budget_ledger: ") as caught:
        Process(url)

    assert "hush" not in str(caught.value)


def test_a_store_that_is_away_from_the_start_stops_no_program():
    process = Process("redis://127.0.0.1:9/0")

    process.spend(2.0)
    process.ledger.share()

    assert process.spent == 2.0
    assert [type(event) for event in process.told] == [LedgerFailed]


PROCESS = """
import sys, threading, time
from llmwire.services.routing.spending import Period, Spending, SpendingLimit, Unit
from llmwire.services.transport.ledger import Ledger
from llmwire.services.store import opened
limit = SpendingLimit(limit=100, unit=Unit.TOKENS, per=Period.DAY)
spending = Spending("completion", [limit], wall_clock=lambda: 43200.0, make_lock=threading.Lock)
ignore = lambda event: None
ledger = Ledger("completion", spending, opened(sys.argv[1])[0], reached=ignore, listener=ignore, every_s=0.01)
ledger.wake()
calls = 0
while spending.refusal(()) is None:
    spending.spent("a", (), tokens=1, cost=None)
    calls += 1
    time.sleep(0.02)
ledger.close()
print(calls)
"""


SCRIPT = """
import sys, threading
from llmwire.services.routing.spending import Period, Spending, SpendingLimit, Unit
from llmwire.services.transport.ledger import opened_ledger
limit = SpendingLimit(limit=10.0, unit=Unit.COST, per=Period.DAY)
spending = Spending("completion", [limit], wall_clock=lambda: 43200.0, make_lock=threading.Lock)
ignore = lambda event: None
ledger = opened_ledger("completion", spending, sys.argv[1], reached=ignore, listener=ignore)
ledger.wake()
spending.spent("a", (), tokens=None, cost=2.0)
"""


def test_two_processes_stop_together_with_at_most_what_was_not_shared_yet(redis):
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, redis.url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    calls = [int(process.communicate(timeout=60)[0]) for process in processes]

    assert 100 <= sum(calls) < 130
