"""Servers are asked for the usage of their streams, until one refuses; then it is left in peace for a while."""

from __future__ import annotations

import httpx2
import pytest

from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.transport.call import Call
from llmwire.services.transport.telling_usage import MOST_KNOWN, TellingUsage


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


def test_models_that_a_caller_makes_up_fill_no_memory():
    usage, endpoint = TellingUsage(Clock()), an_endpoint()
    for number in range(MOST_KNOWN + 10):
        usage.refused(endpoint, streamed(f"made up {number}"), 300.0)

    assert len(usage._refuses_until_s) <= MOST_KNOWN
    assert not usage.may_be_asked(endpoint, streamed(f"made up {MOST_KNOWN + 9}"))
