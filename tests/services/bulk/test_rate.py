import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.bulk.rate import ABSENT_S, AGAIN_S, RateLimit
from llmwire.services.errors import ConfigError

from ..redis_server import RedisServer

A_MINUTES_START_S = 60.0 * 30_000_000


class Clock:
    """Stands still until `clock.advance(3)`. It has the one function of the module `time` that limits' memory reads."""

    def __init__(self):
        self.now_s = A_MINUTES_START_S

    def time(self):
        return self.now_s

    def __call__(self):
        return self.now_s

    def advance(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("limits.storage.memory.time", clock)
    return clock


@pytest.fixture
def redis():
    server = RedisServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", "redis"])
def store(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis").url


@pytest.fixture
def many_switches():
    """Threads take turns between almost any two lines."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def went(limit, *, tokens=1, asks=200):
    """How many of so many requests went."""
    return sum(limit.delay_s(1, tokens) == 0.0 for _ in range(asks))


# What goes


def test_as_many_requests_go_at_once_as_a_minute_may_have(clock, store):
    limit = RateLimit(50, store=store, name="embedding")

    assert went(limit) == 50


def test_as_many_tokens_go_at_once_as_a_minute_may_have(clock, store):
    limit = RateLimit(tokens_per_minute=1000, store=store, name="embedding")

    assert [limit.delay_s(1, 600), limit.delay_s(1, 400)] == [0.0, 0.0]
    assert limit.delay_s(1, 1) > 0


def test_a_request_that_waits_for_tokens_uses_up_no_request(clock, store):
    limit = RateLimit(requests_per_minute=3, tokens_per_minute=1000, store=store, name="embedding")
    limit.delay_s(1, 999)

    too_large = [limit.delay_s(1, 2) for _ in range(10)]

    assert min(too_large) > 0
    assert went(limit, tokens=0) == 2


def test_a_request_that_waits_for_a_request_uses_up_no_tokens(clock):
    limit = RateLimit(requests_per_minute=1, tokens_per_minute=1000, name="embedding")
    limit.delay_s(1, 1)

    [limit.delay_s(1, 500) for _ in range(10)]
    clock.advance(120)

    assert limit.delay_s(1, 1000) == 0.0


def in_threads(limit, *, tokens, threads=8):
    """How many of the requests of all threads went."""
    counts, barrier = [], threading.Barrier(threads)

    def ask():
        barrier.wait()
        counts.append(went(limit, tokens=tokens, asks=30))

    started = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return sum(counts)


def test_threads_that_share_a_limit_get_together_what_it_allows(clock, store, many_switches):
    limit = RateLimit(50, tokens_per_minute=400, store=store, name="embedding")

    assert in_threads(limit, tokens=8) == 50


def test_threads_that_wait_for_tokens_use_up_no_requests(clock, many_switches):
    for name in map(str, range(20)):
        limit = RateLimit(requests_per_minute=100, tokens_per_minute=400, name=name)

        assert in_threads(limit, tokens=8) == 50
        assert went(limit, tokens=0) == 50


# How long it takes


def test_the_first_half_of_the_next_minute_brings_half_of_the_limit(clock):
    limit = RateLimit(50, name="embedding")
    went(limit)

    clock.advance(60 + 30)

    assert went(limit) == 25


def test_what_went_in_this_minute_and_in_the_one_before_count_together(clock):
    limit = RateLimit(tokens_per_minute=50, name="embedding")
    limit.delay_s(1, 50)
    clock.advance(60 + 30)
    limit.delay_s(1, 25)

    assert limit.delay_s(1, 10) == pytest.approx(10.8)  # when of the first 50 less than 16 count


def test_nobody_is_told_to_ask_again_at_once(clock):
    limit = RateLimit(tokens_per_minute=50, name="embedding")
    limit.delay_s(1, 50)
    clock.advance(60 + 30)
    limit.delay_s(1, 25)

    assert limit.delay_s(1, 1) == AGAIN_S


@given(st.integers(1, 100), st.lists(st.tuples(st.floats(0, 45), st.integers(1, 100)), max_size=8), st.integers(1, 100))
def test_a_request_goes_after_the_delay_that_it_was_told_and_not_much_before(most, history, tokens):
    clock = Clock()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("limits.storage.memory.time", clock)
        limit = RateLimit(tokens_per_minute=most, name="embedding")
        for pause_s, earlier in history:
            limit.delay_s(1, min(earlier, most))
            clock.advance(pause_s)

        delay_s = limit.delay_s(1, min(tokens, most))

        clock.advance(delay_s * 0.9)
        assert delay_s < 0.1 or limit.delay_s(1, min(tokens, most)) > 0
        clock.advance(delay_s * 0.1 + 1e-6)
        assert delay_s == 0.0 or limit.delay_s(1, min(tokens, most)) == 0.0
        assert delay_s <= 120


def test_redis_tells_the_same_delay_as_memory(clock, redis):
    in_memory, shared = (RateLimit(50, store=store, name="embedding") for store in ("memory://", redis.url))
    went(in_memory), went(shared)

    assert shared.delay_s(1, 1) == pytest.approx(in_memory.delay_s(1, 1), abs=10)


# Who shares it


def test_another_name_has_a_count_of_its_own(redis):
    went(RateLimit(50, store=redis.url, name="embedding.a"))

    assert went(RateLimit(50, store=redis.url, name="embedding.b")) == 50


def test_a_lower_limit_over_the_same_name_sees_what_went_under_the_higher_one(redis):
    went(RateLimit(50, store=redis.url, name="embedding"), asks=30)

    assert went(RateLimit(40, store=redis.url, name="embedding")) == 10


PROCESS = """
import sys
from llmwire.services.bulk.rate import RateLimit
limit = RateLimit(int(sys.argv[2]), int(sys.argv[3]), store=sys.argv[1], name="embedding")
print("ready", flush=True)
sys.stdin.readline()
print(sum(limit.delay_s(1, 7) == 0.0 for _ in range(1000)))
"""


@pytest.mark.parametrize(
    ("requests", "tokens", "expected"),
    [(50, 10_000, 50), (10_000, 500, 71)],
    ids=["50 requests", "500 tokens, 7 a request"],
)
def test_two_processes_that_ask_as_hard_as_they_can_get_together_what_the_limit_allows(
    redis, requests, tokens, expected
):
    command = [sys.executable, "-c", PROCESS, redis.url, str(requests), str(tokens)]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n", "ready\n"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()

    counts = [int(process.communicate()[0]) for process in processes]

    assert sum(counts) == expected


# A store that is away


def test_a_store_that_is_away_lets_nothing_go_and_asks_to_wait(redis):
    limit = RateLimit(50, store=redis.url, name="embedding")

    redis.kill()

    assert limit.delay_s(1, 1) == ABSENT_S


def test_the_run_goes_on_when_the_store_is_back(redis):
    clock = Clock()
    limit = RateLimit(50, store=redis.url, name="embedding", clock=clock)
    redis.kill()
    limit.delay_s(1, 1)
    clock.advance(59)

    redis.start()

    assert limit.delay_s(1, 1) == 0.0


def test_patience_begins_anew_when_the_store_was_back(redis):
    clock = Clock()
    limit = RateLimit(50, store=redis.url, name="embedding", clock=clock)
    redis.kill()
    limit.delay_s(1, 1)
    redis.start()
    limit.delay_s(1, 1)
    redis.kill()

    clock.advance(61)

    assert limit.delay_s(1, 1) == ABSENT_S


def test_a_store_that_is_away_for_too_long_ends_the_run_and_is_named(redis):
    clock = Clock()
    limit = RateLimit(50, store=redis.url, name="embedding", patience_s=60, clock=clock)
    redis.kill()
    limit.delay_s(1, 1)

    clock.advance(60)

    with pytest.raises(ConfigError, match=rf"^store: 127.0.0.1:{redis.port} could not be used for 60 s: .* Start it"):
        limit.delay_s(1, 1)


def test_a_store_that_cannot_be_reached_from_the_start_is_named_without_its_password(redis):
    redis.kill()
    url = f"redis://bulk:hush@127.0.0.1:{redis.port}/0"

    with pytest.raises(ConfigError) as caught:
        RateLimit(50, store=url, name="embedding")

    assert f"127.0.0.1:{redis.port} cannot be used" in str(caught.value)
    assert "hush" not in repr(caught.value) + str(caught.value)


def test_a_store_that_refuses_the_password_is_named_without_it():
    server = RedisServer("--requirepass", "right")
    server.start()
    try:
        with pytest.raises(ConfigError, match="127.0.0.1.* cannot be used: .*password") as caught:
            RateLimit(50, store=server.url.replace("//", "//:hush@"), name="embedding")
        accepted = RateLimit(50, store=server.url.replace("//", "//:right@"), name="embedding")
        assert went(accepted) == 50
    finally:
        server.kill()

    assert "hush" not in repr(caught.value) + str(caught.value)


# What is refused


@pytest.mark.parametrize(
    "url",
    [
        "amqp://bulk:hush@host:1/0",
        "bulk:hush@host:1",
        "redis://bulk:hush/hush@host:1/0",
        "redis://bulk:12/hush@host:1/0",
        "redis://bulk:12#hush@host:1/0",
        "redis://host:1/0?db=hush",
        "redis://host:1/0?password=hush&unknown=hush",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError) as caught:
        RateLimit(50, store=url, name="embedding")

    shown = str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
    assert "hush" not in shown
    assert "12" not in shown
    assert "redis://HOST:PORT/0" in shown


def test_a_valkey_url_is_spoken_to_as_redis_is(redis):
    limit = RateLimit(50, store=redis.url.replace("redis", "valkey"), name="embedding")

    assert went(limit) == 50
    assert went(RateLimit(50, store=redis.url, name="embedding")) == 0


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_socket_that_is_called_valkey_is_the_one_that_is_opened(scheme):
    with pytest.raises(ConfigError, match="^store: /nowhere/valkey.sock cannot be used: .* to /nowhere/valkey.sock"):
        RateLimit(50, store=f"{scheme}+unix:///nowhere/valkey.sock", name="embedding")


def test_a_request_larger_than_a_whole_minute_is_refused_and_does_not_wait_for_ever(clock):
    limit = RateLimit(tokens_per_minute=1000, name="embedding")

    with pytest.raises(ConfigError, match=r"^tokens_per_minute: a request of 8 texts has 1,001 tokens.* Make"):
        limit.delay_s(8, 1001)

    assert limit.delay_s(8, 1000) == 0.0


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {}])
def test_a_limit_that_lets_nothing_through_or_all_is_refused(limits):
    with pytest.raises(ConfigError, match=r"_per_minute"):
        RateLimit(**limits, name="embedding")


@pytest.mark.parametrize(("package", "store"), [("limits", "memory://"), ("redis", "redis://127.0.0.1:1/0")])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch, package, store):
    for module in (package, f"{package}.storage", f"{package}.errors"):
        monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigError, match=rf"package {package}, .* pip install 'llmwire\[redis\]'"):
        RateLimit(50, store=store, name="embedding")


def test_memory_needs_no_redis(monkeypatch, clock):
    monkeypatch.setitem(sys.modules, "redis", None)

    assert went(RateLimit(50, name="embedding")) == 50


def test_nothing_is_imported_before_a_limit_is_made():
    script = "import llmwire.services.bulk.rate, sys; print({'limits', 'redis'} & set(sys.modules))"

    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert shown == "set()\n"
