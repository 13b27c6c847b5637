"""When the settings change while the program runs, all of it follows or nothing does."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from llmwire.container import ConfigError, LLMContainer, clients
from llmwire.container.refresh import Refresh
from llmwire.services.events import ConfigWarned
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.failover import AfterSend
from llmwire.services.routing.member import Health

from .speakers import served

TWO = served("a", "b")["endpoints"]
LONG = {"long": {"base_url": "http://long:8000/v1", "pools": "long"}}


def settled(function: str = "completion", **config: Any) -> Any:
    container = LLMContainer(config={function: {"endpoints": TWO, **config}}, env={})
    return getattr(container, function).settings()


def of_embeddings(**config: Any) -> Any:
    return settled("embedding", **{"model": "m", **config})


class Following:
    """In a watcher's place: keeps what would follow the settings, and counts the calls."""

    has_sources = True

    def __init__(self):
        self.refresh: Any = None
        self.calls = 0

    def attach(self, refresh, settings):
        self.refresh = refresh

    def wake(self):
        self.calls += 1


class Program:
    """What was built of settings, and follows them."""

    def __init__(self, settings: Any) -> None:
        self.told: list[Any] = []
        self.watcher: Any = Following()
        self.traffic = clients.traffic(settings, self.told.append, watcher=self.watcher)
        self.refresh: Refresh = self.watcher.refresh

    def follow(self, settings: Any) -> None:
        self.told += self.refresh.prepared(settings)()

    @property
    def endpoints(self) -> list[str]:
        return [endpoint.name for endpoint in self.traffic.pool.endpoints]

    def spend(self, tokens: int, *, at: str = "a") -> None:
        """As an answer of so many tokens does."""
        assert self.traffic.wire.spending is not None
        for event in self.traffic.wire.spending.spent(at, (), tokens=tokens, cost=None):
            self.traffic.wire.reached(event)

    def spent(self) -> list[tuple[str, float]]:
        return [(state.budget, state.spent) for state in clients.budgets_of(self.traffic)]

    def paused(self) -> list[str]:
        return [state.name for state in self.traffic.pool.snapshot() if state.health is Health.PAUSED]


def everything(program: Program) -> tuple[Any, ...]:
    """All that may be exchanged."""
    traffic = program.traffic
    return (
        traffic.pool.endpoints,
        traffic.pool.version,
        traffic.spec,
        traffic.limits(None),
        traffic.router,
        traffic.hedging,
        traffic.may_differ(),
        traffic.wire.spending,
        traffic.ledger,
    )


# All or nothing.


def test_what_is_prepared_is_not_exchanged_yet():
    program = Program(settled())
    before = everything(program)

    exchange = program.refresh.prepared(
        settled(
            endpoints=served("c")["endpoints"],
            deadline_s=7,
            strategy="in-order",
            budget="5 tokens/day",
            model="other",
            routing="off",
        )
    )

    assert everything(program) == before
    exchange()
    assert program.endpoints == ["c"]


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("model", "other", "model: would change from m to other"),
        ("space", "other", "space: would change from m to other"),
        ("revision", "2", "revision: would change from None to 2"),
        ("dimensions", 256, "dimensions: would change from None to 256"),
    ],
)
def test_vectors_of_a_running_program_are_of_one_space_and_where_that_would_change_nothing_does(setting, value, told):
    program = Program(of_embeddings())
    before = everything(program)
    others = {"endpoints": served("c")["endpoints"], "hedge": 0.1, "deadline_s": 7, "budget": "5 tokens/day"}

    with pytest.raises(ConfigError, match=f"embedding.{told} while the program runs") as refused:
        program.refresh.prepared(of_embeddings(**others, **{setting: value}))

    assert str(refused.value).endswith("Restart the programs that embed with it, with an index of their own for it.")
    assert everything(program) == before


def test_the_models_of_endpoints_are_a_space_too():
    program = Program(of_embeddings(endpoints=served("a", "b", model="bert")["endpoints"]))

    with pytest.raises(ConfigError, match="model: would change from bert to other"):
        program.refresh.prepared(of_embeddings(endpoints=served("a", "b", model="other")["endpoints"]))


def test_the_name_of_a_model_is_no_space_that_others_may_be_of():
    program = Program(of_embeddings())
    others = {"endpoints": served("c", model="entirely-other")["endpoints"]}

    with pytest.raises(ConfigError, match="model: would change from m to entirely-other"):
        program.refresh.prepared(of_embeddings(space="m", **others))


def test_to_name_the_space_that_it_is_of_anyway_is_no_change():
    program = Program(of_embeddings())

    program.follow(of_embeddings(space="m", endpoints=served("c")["endpoints"]))

    assert program.endpoints == ["c"]


def test_the_model_of_completions_may_change():
    program = Program(settled(model="m"))

    program.follow(settled(model="other", endpoints=served("c")["endpoints"]))

    assert program.endpoints == ["c"]


def test_rules_that_cannot_be_built_stop_all_else():
    program = Program(settled())
    before = everything(program)

    def router(settings):
        raise ConfigError("is broken", key="completion.routes", remedy="Mend it.")

    refresh = Refresh(program.traffic, settled(), router=router, wake=lambda: None, listener=program.told.append)

    with pytest.raises(ConfigError, match="is broken"):
        refresh.prepared(settled(endpoints=served("c")["endpoints"], routing="off", budget="5 tokens/day"))
    assert everything(program) == before


def test_after_a_refusal_the_next_settings_are_compared_with_those_in_force():
    program = Program(of_embeddings())
    with pytest.raises(ConfigError):
        program.refresh.prepared(of_embeddings(model="other"))

    with pytest.raises(ConfigError, match="from m to other"):
        program.refresh.prepared(of_embeddings(model="other"))

    program.follow(of_embeddings(deadline_s=7))
    assert program.traffic.spec.deadline_s == 7.0


# Rules.


@pytest.mark.parametrize(
    "config",
    [
        {"endpoints": served("c")["endpoints"]},
        {"endpoints": served("a", "b", weight=3)["endpoints"]},
        {"deadline_s": 7},
        {"strategy": "in-order"},
        {"budget": "5 tokens/day"},
    ],
    ids=str,
)
def test_rules_that_are_the_same_stay_with_all_that_they_have_learnt(config):
    program = Program(settled(model="m"))
    rules = program.traffic.router.router

    program.follow(settled(**{"model": "m", **config}))

    assert program.traffic.router.router is rules
    assert program.traffic.router.endpoints == program.traffic.pool.endpoints


@pytest.mark.parametrize(
    "config",
    [
        {"endpoints": {**TWO, **LONG}, "routes": [{"pool": "long", "pattern": "x"}]},
        {"endpoints": {**TWO, **LONG}, "pools": {"long": {"deadline_s": 9}}},
        {"routing": "shadow"},
        {"tokenizer": "estimate"},
        {"routing_timeout_s": 1},
        {"model": "other"},
        {"endpoints": served("a", "b", context_length=1000)["endpoints"]},
    ],
    ids=str,
)
def test_rules_that_are_others_are_built_anew(config):
    program = Program(settled(model="m"))
    router = program.traffic.router

    program.follow(settled(**{"model": "m", **config}))

    assert program.traffic.router is not router


def test_new_routes_and_pools_are_in_force():
    program = Program(settled())

    program.follow(
        settled(
            endpoints={**TWO, **LONG},
            routes=[{"pool": "long", "name": "by-pattern", "pattern": "x"}],
            pools={"long": {"deadline_s": 300}},
        )
    )

    rules = program.traffic.router.router
    assert [rule.name for rule in rules.rules] == ["by-pattern"]
    assert program.traffic.longest_s == 300.0


# Budgets.


def test_a_first_budget_counts_from_then_on():
    program = Program(settled())
    assert program.spent() == []

    program.follow(settled(budget="5 tokens/day"))
    program.spend(2)

    assert program.spent() == [("5 tokens/day", 2.0)]


def test_of_a_budget_that_is_raised_or_cut_what_was_spent_stays_spent():
    program = Program(settled(budget="5 tokens/day"))
    spending = program.traffic.wire.spending
    program.spend(3)

    program.follow(settled(budget="50 tokens/day"))
    assert program.spent() == [("50 tokens/day", 3.0)]
    program.follow(settled(budget="2 tokens/day"))

    assert program.spent() == [("2 tokens/day", 3.0)]
    assert program.traffic.wire.spending is spending
    assert spending.refusal(()).budget == "2 tokens/day"


def test_a_budget_that_is_gone_stops_nobody():
    program = Program(settled(budget="5 tokens/day"))
    program.spend(9)
    assert program.traffic.wire.spending.refusal(()) is not None

    program.follow(settled())

    assert program.spent() == []
    assert program.traffic.wire.spending.refusal(()) is None


def test_an_endpoint_whose_budget_is_raised_is_asked_again_and_one_whose_budget_is_cut_is_not():
    program = Program(settled(endpoints=served("a", "b", budget="5 tokens/day")["endpoints"]))
    program.spend(5, at="a")
    program.spend(3, at="b")
    assert program.paused() == ["a"]

    program.follow(
        settled(
            endpoints={
                **served("a", budget="50 tokens/day")["endpoints"],
                **served("b", budget="1 tokens/day")["endpoints"],
            }
        )
    )
    program.traffic.check_budget(())

    assert program.paused() == ["b"]


# Limits of a call.


def sent_with(timeout_s: float | None) -> httpx2.Request:
    return httpx2.Request("POST", "http://facade.test/v1/chat/completions", extensions={"timeout": {"read": timeout_s}})


def test_a_raised_deadline_reaches_a_client_that_was_built_before():
    program = Program(settled(deadline_s=10))
    client = clients.openai_client(program.traffic)

    program.follow(settled(deadline_s=60))

    assert program.traffic.patience_of(sent_with(client.timeout)) is None
    assert program.traffic.limits(None).deadline_s == 60.0
    client.close()


def test_a_timeout_of_the_callers_own_stays():
    program = Program(settled(deadline_s=10))

    program.follow(settled(deadline_s=60))

    assert program.traffic.patience_of(sent_with(3.0)) == 3.0
    assert program.traffic.patience_of(sent_with(None)) is None


def test_where_the_settings_stand_alone_a_timeout_is_the_callers():
    traffic = clients.traffic(settled(deadline_s=10), lambda event: None)

    assert traffic.patience_of(sent_with(10.0)) == 10.0


def test_the_limits_of_a_call_follow():
    program = Program(settled())

    program.follow(settled(max_attempts=7, failover_after_send="never"))

    assert (program.traffic.spec.max_attempts, program.traffic.spec.after_send) == (7, AfterSend.NEVER)


def test_how_endpoints_are_chosen_follows():
    program = Program(settled(strategy="round-robin"))

    program.follow(settled(strategy=Strategy.IN_ORDER.value))

    leases = [program.traffic.pool.lease() for _ in range(20)]
    assert {lease.endpoint.name for lease in leases} == {"a"}


# Of embeddings.


def test_hedging_may_begin_change_and_end():
    program = Program(of_embeddings())
    shares = []

    for share in (0.1, 0.2, 0.0):
        program.follow(of_embeddings(hedge=share))
        hedging = program.traffic.hedging
        shares.append(hedging and hedging.share)

    assert shares == [0.1, 0.2, None]


def test_hedging_that_is_the_same_keeps_what_it_knows_of_delays():
    program = Program(of_embeddings(hedge=0.1))
    hedging = program.traffic.hedging

    program.follow(of_embeddings(hedge=0.1, endpoints=served("c")["endpoints"]))

    assert program.traffic.hedging is hedging


def test_the_canary_may_be_turned_off_and_on():
    program = Program(of_embeddings(endpoints=served("a")["endpoints"]))
    differ = [program.traffic.may_differ()]

    for canary in ("no", "yes"):
        program.follow(of_embeddings(endpoints=served("a")["endpoints"], canary=canary))
        differ.append(program.traffic.may_differ())

    assert differ == [True, False, True]


# What is told.


def test_a_warning_of_the_settings_is_told_when_it_is_new():
    twins = {name: {"base_url": "http://twin:1/v1"} for name in ("x", "y")}
    program = Program(settled())

    for config in ({"endpoints": twins}, {"endpoints": twins, "deadline_s": 7}, {}, {"endpoints": twins}):
        program.follow(settled(**config))

    warnings = [event.message for event in program.told if isinstance(event, ConfigWarned)]
    assert warnings == ["x and y are one server with one key and one model"] * 2


def test_a_call_has_the_sources_watched_on():
    program = Program(settled())

    program.traffic.wake()
    program.traffic.wake()

    assert program.watcher.calls == 2
