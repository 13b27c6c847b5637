"""The figures of the reliability specification, on virtual time.

`LLMWIRE_SEED=7` plays one other run; `pytest -s` shows the figures of all.
"""

from __future__ import annotations

import os

import pytest

from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.pool import PoolSpec

from .simulator import Run, quantile

SEEDS = [int(os.environ["LLMWIRE_SEED"])] if "LLMWIRE_SEED" in os.environ else [1, 2, 3]


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed {seed}")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def told(run: Run, **figures: float) -> str:
    """The figures in a line, which is printed, and is what a failed assertion says."""
    line = f"LLMWIRE_SEED={run.seed}: {len(run.calls)} calls"
    line += "".join(f", {name} {figure:.4g}" for name, figure in figures.items())
    print(f"\n    {line}", end="")
    assert run.in_flight == [0] * len(run.servers), line
    return line


def test_the_same_seed_is_the_same_run():
    def a_run() -> Run:
        run = Run(seed=5)
        run.crowd(50, until_s=5)
        run.world.at(2, run.servers[0].die)
        return run.play()

    assert a_run().calls == a_run().calls


def test_without_faults_every_call_is_one_attempt_and_all_share_the_load(seed):
    run = Run(seed)
    run.stream(100, until_s=60)
    run.play()

    shares = [run.share_of(server, 10, 60) for server in run.servers]
    figures = told(run, failed=run.failed(), attempts_a_call=run.attempts_a_call(), least=min(shares), most=max(shares))
    assert run.failed() == 0, figures
    assert run.attempts_a_call() == 1, figures
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02), figures


def test_a_killed_endpoint_fails_no_call(seed):
    run = Run(seed)
    run.crowd(200, until_s=40)
    run.world.at(20, run.servers[0].die)
    run.play()

    base_s = run.quantile_s(0.99, 0, 19)
    in_flight = [call for call in run.calls if call.began_at_s < 20 < call.ended_at_s]
    in_flight_s = quantile((call.ended_at_s - call.began_at_s for call in in_flight), 0.99)
    attempts = run.attempts_a_call()
    figures = told(run, failed=run.failed(), attempts_a_call=attempts, p99=base_s, p99_of_those_in_flight=in_flight_s)
    assert run.failed() == 0, figures
    assert attempts <= 1.05, figures
    assert in_flight_s <= base_s + 0.5 + 0.1, figures


@pytest.mark.parametrize(
    ("per_second", "frozen_s"), [(200, 30), (100, 60), (50, 30), (100, 90)], ids=lambda figure: str(figure)
)
def test_a_frozen_endpoint_fails_no_call_and_is_back_in_half_a_minute(seed, per_second, frozen_s):
    thaws_s = 20 + frozen_s
    run = Run(seed)
    run.stream(per_second, until_s=thaws_s + 50)
    frozen = run.servers[0]
    run.world.at(20, frozen.freeze)
    run.world.at(thaws_s, frozen.thaw)
    run.play()

    while_frozen = run.share_of(frozen, 20, thaws_s)
    afterwards = run.share_of(frozen, thaws_s + 30, thaws_s + 50)
    figures = told(run, failed=run.failed(), share_while_frozen=while_frozen, share_after_30_s=afterwards)
    assert run.failed() == 0, figures
    assert while_frozen <= 0.02, figures
    assert afterwards == pytest.approx(1 / 3, abs=0.04), figures


def test_with_few_calls_a_frozen_endpoint_is_back_in_a_minute(seed):
    run = Run(seed)
    run.stream(10, until_s=150)
    frozen = run.servers[0]
    run.world.at(20, frozen.freeze)
    run.world.at(50, frozen.thaw)
    run.play()

    while_frozen, afterwards = frozen.attempts(20, 50), run.share_of(frozen, 110, 150)
    figures = told(run, failed=run.failed(), attempts_while_frozen=while_frozen, share_after_60_s=afterwards)
    assert run.failed() == 0, figures
    assert while_frozen <= 10, figures  # of 300: as many as are in flight elsewhere, and then no more
    assert afterwards == pytest.approx(1 / 3, abs=0.08), figures


def test_a_rolling_restart_of_all_fails_no_call(seed):
    run = Run(seed)
    run.crowd(200, until_s=60)
    for number, server in enumerate(run.servers):
        run.world.at(10 + 15 * number, server.die)
        run.world.at(14 + 15 * number, server.rise)
    run.play()

    shares = [run.share_of(server, 55, 60) for server in run.servers]
    figures = told(run, failed=run.failed(), attempts_a_call=run.attempts_a_call(), least_share=min(shares))
    assert run.failed() == 0, figures
    assert run.attempts_a_call() <= 1.05, figures


def test_a_flapping_endpoint_fails_no_call(seed):
    run = Run(seed)
    run.crowd(200, until_s=60)
    for at_s in range(5, 60, 10):
        run.world.at(at_s, run.servers[0].die)
        run.world.at(at_s + 5, run.servers[0].rise)
    run.play()

    figures = told(
        run, failed=run.failed(), attempts_a_call=run.attempts_a_call(), share=run.share_of(run.servers[0], 0, 60)
    )
    assert run.failed() == 0, figures
    assert run.attempts_a_call() <= 1.05, figures


@pytest.mark.parametrize("per_second", [5, 100])
def test_a_storm_of_429_is_left_alone_until_its_end_and_then_probed_once(seed, per_second):
    run = Run(seed)
    run.stream(per_second, until_s=60)
    busy = run.servers[0]
    run.world.at(20, lambda: setattr(busy, "busy_until_s", 35.0))
    run.play()

    first_s = next(at_s for at_s in busy.asked_at_s if at_s >= 20) + 0.01  # when the first 429 is here
    early = busy.attempts(first_s + 1e-6, 35)
    probe_s = next(at_s for at_s in busy.asked_at_s if at_s >= 35)
    beside_it = busy.attempts(probe_s, probe_s + 0.4) - 1  # an answer takes at least so long
    openings = len(run.openings("a"))
    figures = told(run, failed=run.failed(), early=early, beside_the_probe=beside_it, openings=openings)
    assert run.failed() == 0, figures
    assert early == beside_it == openings == 0, figures
    assert run.pool.snapshot()[0].breaker is BreakerState.CLOSED, figures
    assert run.share_of(busy, 40, 60) == pytest.approx(1 / 3, abs=0.15), figures


@pytest.mark.parametrize("per_second", [60, 100, 200])
def test_errors_everywhere_are_repeated_only_as_far_as_the_budget_goes(seed, per_second):
    run = Run(seed)
    run.stream(per_second, until_s=60)
    for server in run.servers:
        server.error_rate = 0.3
    run.play()

    figures = told(run, failed_share=run.failed_share(), attempts_a_call=run.attempts_a_call())
    assert run.failed_share() <= 0.2, figures
    assert run.attempts_a_call() <= 1.25, figures


def test_with_few_calls_every_error_may_be_repeated_once(seed):
    run = Run(seed)
    run.stream(10, until_s=60)
    for server in run.servers:
        server.error_rate = 0.3
    run.play()

    figures = told(run, failed_share=run.failed_share(), attempts_a_call=run.attempts_a_call())
    assert run.failed_share() <= 0.2, figures
    assert run.attempts_a_call() <= 1.4, figures


def test_a_brown_out_of_one_endpoint_fails_no_call(seed):
    run = Run(seed)
    run.stream(100, until_s=60)
    run.world.at(10, lambda: setattr(run.servers[0], "error_rate", 0.6))
    run.world.at(40, lambda: setattr(run.servers[0], "error_rate", 0.0))
    run.play()

    share = run.share_of(run.servers[0], 10, 40)
    figures = told(run, failed=run.failed(), attempts_a_call=run.attempts_a_call(), share=share)
    assert run.failed() == 0, figures
    assert share < 0.15, figures


@pytest.mark.parametrize("per_second", [10, 200])
def test_after_half_a_second_without_any_endpoint_no_call_fails(seed, per_second):
    run = Run(seed)
    run.stream(per_second, until_s=60)
    for server in run.servers:
        run.world.at(20, server.die)
        run.world.at(20.5, server.rise)
    run.play()

    during, after = run.failed(0, 20.5), run.failed(20.5)
    figures = told(run, failed_during=during, failed_after=after, p99_after=run.quantile_s(0.99, 20.5))
    assert after == 0, figures
    assert run.quantile_s(0.99, 20.5) < 1, figures


def test_two_random_choices_keep_away_from_a_slow_endpoint(seed):
    def p99_s(strategy: Strategy) -> float:
        run = Run(seed, services_s=(0.5, 0.5, 5.0), spec=PoolSpec(strategy=strategy))
        run.stream(100, until_s=120)
        run.play()
        told(run, p50=run.quantile_s(0.5), p99=run.quantile_s(0.99), slow_share=run.share_of(run.servers[2], 0, 120))
        return run.quantile_s(0.99)

    p2c_s, least_s = p99_s(Strategy.P2C), p99_s(Strategy.LEAST_IN_FLIGHT)

    assert p2c_s < least_s / 2, f"LLMWIRE_SEED={seed}: {p2c_s:.2f} s against {least_s:.2f} s"


def test_a_killed_pool_of_one_is_asked_again_as_soon_as_it_is_back(seed):
    run = Run(seed, services_s=(0.5,))
    run.stream(50, until_s=60)
    run.world.at(20, run.servers[0].die)
    run.world.at(23, run.servers[0].rise)
    run.play()

    figures = told(run, failed_during=run.failed(0, 23), failed_after=run.failed(23), p99=run.quantile_s(0.99, 24))
    assert run.failed(23) == 0, figures
