"""How long a request may take before it is sent anywhere, and who may cut that."""

import httpx2
import pytest

from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.transport.call import Call
from llmwire.services.transport.facade import ROUTING_S, Asked, TellingUsage
from llmwire.services.transport.telling import Wire
from llmwire.services.wanted import routing


def asked(timeout_s=None):
    request = httpx2.Request(
        "POST", "http://facade.test/v1/embeddings", json={"input": "x"}, extensions={"timeout": {"read": timeout_s}}
    )
    return Asked(request, Call(request, "embeddings"), Wire(lambda event: None), "embedding")


@pytest.mark.parametrize(("timeout_s", "may_take_s"), [(None, 0.15), (120.0, 0.15), (0.3, 0.15), (0.1, 0.05)])
def test_a_decision_by_meaning_leaves_half_of_the_callers_time_to_the_answer(timeout_s, may_take_s):
    assert asked(timeout_s).routing_s(0.15) == may_take_s


@pytest.mark.parametrize(("timeout_s", "patience_s"), [(None, ROUTING_S), (120.0, ROUTING_S), (1.0, 1.0)])
def test_an_embedding_that_decides_where_a_text_goes_holds_nobody_for_long(timeout_s, patience_s):
    with routing(None):
        of_routing = asked(timeout_s)

    assert of_routing.patience_s == patience_s
    assert asked(timeout_s).patience_s == timeout_s


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def streamed(model="m", operation="chat/completions", **options):
    body = {"model": model, "stream": True, **options}
    return Call(httpx2.Request("POST", f"http://facade.test/v1/{operation}", json=body), operation)


def an_endpoint(**fields):
    return Endpoint(function="completion", name="a", base_url="http://a.test/v1", **fields)


def test_a_server_is_asked_for_usage_until_it_refuses_and_again_after_a_while():
    clock = Clock()
    usage, endpoint, call = TellingUsage(clock), an_endpoint(), streamed()

    assert usage.may_be_asked(endpoint, call)
    usage.refused(endpoint, call, 300.0)
    assert not usage.may_be_asked(endpoint, call)
    clock.now_s = 300.0
    assert usage.may_be_asked(endpoint, call)


@pytest.mark.parametrize(
    ("endpoint", "call", "takes"),
    [
        (an_endpoint(), streamed("another"), True),
        (an_endpoint(model="another"), streamed(), True),
        (an_endpoint(), streamed(operation="completions"), False),
        (an_endpoint(deployment="d"), streamed(), False),
        (an_endpoint(api_version="v"), streamed(), False),
    ],
)
def test_behind_one_url_each_model_and_operation_is_asked_for_itself(endpoint, call, takes):
    usage = TellingUsage(Clock())
    usage.refused(an_endpoint(), streamed(), 300.0)
    usage.taken(an_endpoint(), streamed())

    assert usage.may_be_asked(endpoint, call)
    assert usage.takes(endpoint, call) is takes


@pytest.mark.parametrize(
    "call",
    [
        streamed(stream_options={"include_usage": True}),
        streamed(stream_options="odd"),
        streamed(operation="responses"),
        streamed(stream=False),
    ],
)
def test_nobody_is_asked_where_the_caller_asks_or_nothing_is_streamed_or_it_comes_anyway(call):
    assert not TellingUsage(Clock()).may_be_asked(an_endpoint(), call)


def test_where_the_settings_say_so_nobody_is_asked():
    assert not TellingUsage(Clock()).may_be_asked(an_endpoint(stream_usage=False), streamed())
