"""What may be spent is spent once: then an endpoint is left alone, or calls are refused with a clear error."""

from __future__ import annotations

import asyncio

import openai
import pytest
from dependency_injector import providers

from llmwire.container import BudgetExceeded, ConfigError, LLMContainer
from llmwire.services import routed
from llmwire.services.events import BudgetReached, CallEnded, EndpointPaused
from llmwire.services.routing.member import Health

from .callers import embedding, saying, served_by
from .servers import chat, vectors

USAGE = {"prompt_tokens": 600_000, "completion_tokens": 400_000, "total_tokens": 1_000_000}


def telling(exchange):
    """A million tokens for each answer."""
    if exchange.seen.target.endswith("embeddings"):
        exchange.json({**vectors(exchange.seen.body), "usage": {"prompt_tokens": 1_000_000}})
    else:
        exchange.json({**chat("a word"), "usage": USAGE})


@pytest.fixture
def heard():
    return []


@pytest.fixture
def budgeted(contain, heard):
    """A container of servers that tell a million tokens; what its listener was told is in `heard`."""

    def budgeted(**tables):
        container = contain(**tables)
        container.listener.override(providers.Object(heard.append))
        return container

    return budgeted


def at(server, **settings):
    return {"base_url": server.url, "api_key": "k", "price": 1, **settings}


def told(heard, kind):
    return [event for event in heard if isinstance(event, kind)]


def test_calls_are_refused_when_the_budget_of_their_function_is_spent(serve, budgeted, heard, caller):
    server = serve(telling)
    container = budgeted(completion=served_by(server, price=1, budget="2/day"))

    caller.run(container, saying("hi"))
    caller.run(container, saying("hi"))
    with pytest.raises(BudgetExceeded, match=r"completion calls have spent their budget of 2/day: 2 so far") as caught:
        caller.run(container, saying("hi"), retries=2)

    assert "Raise completion.budget, or wait." in str(caught.value)
    assert 0 < caught.value.retry_after_s <= 86_400
    assert (caught.value.spent, caught.value.limit, caught.value.tag) == (2.0, 2.0, None)
    assert len(server.seen) == 2
    assert [(event.budget, event.spent) for event in told(heard, BudgetReached)] == [("2/day", 2.0)]
    assert [event.error for event in told(heard, CallEnded)] == [None, None, "BudgetExceeded"]
    [state] = container.report().functions[0].budgets
    assert (state.spent, state.limit) == (2.0, 2.0)


def test_the_other_function_has_a_budget_of_its_own(serve, budgeted, caller):
    server = serve(telling)
    spent = served_by(server, budget="1 tokens/day")
    container = budgeted(completion=spent, embedding=spent)
    caller.run(container, saying("hi"))

    caller.run(container, embedding("one"), function="embedding")

    for function in ("completion", "embedding"):
        with pytest.raises(BudgetExceeded, match=f"^{function} calls"):
            caller.run(container, saying("hi"), function=function)


def test_an_endpoint_whose_budget_is_spent_is_left_alone_and_another_answers(serve, budgeted, heard, caller):
    first, second = serve(telling), serve(telling)
    endpoints = {"one": at(first, budget="1/day"), "two": at(second)}
    container = budgeted(completion={"strategy": "in-order", "endpoints": endpoints})

    for _ in range(3):
        caller.run(container, saying("hi"))

    assert (len(first.seen), len(second.seen)) == (1, 2)
    [paused] = told(heard, EndpointPaused)
    [reached] = told(heard, BudgetReached)
    assert (paused.endpoint, reached.endpoint) == ("one", "one")
    assert paused.for_s == reached.for_s
    assert container.completion.pool().snapshot()[0].health is Health.PAUSED


def test_where_every_endpoint_has_spent_its_budget_the_call_is_refused(serve, budgeted, caller):
    server = serve(telling)
    endpoints = {"one": at(server, budget="1/day"), "two": at(server, budget="2/day", model="b")}
    container = budgeted(completion={"endpoints": endpoints})
    for _ in range(3):
        caller.run(container, saying("hi"))

    with pytest.raises(BudgetExceeded, match=r"one is over its budget for \d+ s; two is over") as caught:
        caller.run(container, saying("hi"))

    assert 0 < caught.value.retry_after_s <= 86_400
    assert len(server.seen) == 3


def test_calls_with_a_tag_have_a_budget_of_their_own(serve, budgeted, caller):
    container = budgeted(completion=served_by(serve(telling), price=1, budget="night: 1/day"))
    with routed(tags="night"):
        caller.run(container, saying("hi"))

        with pytest.raises(BudgetExceeded, match="completion calls with the tag night have spent"):
            caller.run(container, saying("hi"))

    caller.run(container, saying("hi"))
    with pytest.raises(BudgetExceeded):
        caller.run(container, saying("hi", extra_headers={"x-llmwire-tags": "night"}))


def test_the_tokens_of_a_stream_count(serve, budgeted):
    def streaming(exchange):
        exchange.start_stream()
        exchange.event({"choices": [{"index": 0, "delta": {"content": "one"}, "finish_reason": "stop"}]})
        exchange.event({"choices": [], "usage": USAGE})
        exchange.event("[DONE]")
        exchange.chunk(b"")

    container = budgeted(completion=served_by(serve(streaming), price=1, budget="1/day"))
    list(saying("hi", stream=True)(container.completion_client()))

    with pytest.raises(BudgetExceeded):
        list(saying("hi", stream=True)(container.completion_client()))


def test_an_endpoint_that_was_swapped_for_another_of_its_name_has_not_earned_a_new_budget(serve, budgeted):
    first, second, other = serve(telling), serve(telling), serve(telling)
    endpoints = {"one": at(first, budget="1/day"), "two": at(second)}
    container = budgeted(completion={"strategy": "in-order", "endpoints": endpoints})
    client = container.completion_client()
    saying("hi")(client)
    pool = container.completion.pool()
    swapped = settled(other, second)

    pool.swap(swapped)
    saying("hi")(client)

    assert (len(other.seen), len(second.seen)) == (0, 1)


def settled(first, second):
    endpoints = {"one": at(first), "two": at(second)}
    return LLMContainer(config={"completion": {"endpoints": endpoints}}, env={}).completion.settings().endpoints


def test_a_budget_in_money_of_an_endpoint_without_a_price_is_refused(serve, contain):
    container = contain(completion=served_by(serve(), budget="5/day"))

    with pytest.raises(ConfigError, match=r"completion\.budget .*has no price.* Set its price, 0 where") as caught:
        container.completion_client()

    assert caught.value.origin == "config.completion.budget"


def test_a_tag_has_no_budget_at_an_endpoint(serve, contain):
    container = contain(completion={"endpoints": {"a": at(serve(), budget="night: 5/day")}})

    with pytest.raises(ConfigError, match=r"completion\.endpoints\.a\.budget .*Write it as the function's"):
        container.completion_client()


def test_many_calls_at_once_pass_a_budget_by_what_was_under_way_and_no_more(serve, budgeted):
    server = serve(telling)
    container = budgeted(completion=served_by(server, price=1, budget="10/day"))
    client = container.async_completion_client()

    async def many():
        async def worker():
            for _ in range(20):
                await saying("hi")(client)

        return await asyncio.gather(*(worker() for _ in range(4)), return_exceptions=True)

    assert {type(each) for each in asyncio.run(many())} == {BudgetExceeded}
    assert 10 <= len(server.seen) <= 13
    assert openai.OpenAIError not in BudgetExceeded.__mro__  # nothing above takes it for one of the server's
