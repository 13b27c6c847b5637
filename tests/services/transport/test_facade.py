"""How long a request may take before it is sent anywhere, and who may cut that."""

import httpx2
import pytest

from llmwire.services.transport.call import Call
from llmwire.services.transport.facade import ROUTING_S, Asked
from llmwire.services.transport.telling import Wire
from llmwire.services.wanted import routing


def asked(timeout_s=None):
    request = httpx2.Request("POST", "http://facade.test/v1/embeddings", json={"input": "x"})
    return Asked(Call(request, "embeddings"), Wire(lambda event: None), "embedding", timeout_s)


@pytest.mark.parametrize(("timeout_s", "may_take_s"), [(None, 0.15), (120.0, 0.15), (0.3, 0.15), (0.1, 0.05)])
def test_a_decision_by_meaning_leaves_half_of_the_callers_time_to_the_answer(timeout_s, may_take_s):
    assert asked(timeout_s).routing_s(0.15) == may_take_s


@pytest.mark.parametrize(("timeout_s", "patience_s"), [(None, ROUTING_S), (120.0, ROUTING_S), (1.0, 1.0)])
def test_an_embedding_that_decides_where_a_text_goes_holds_nobody_for_long(timeout_s, patience_s):
    with routing(None):
        of_routing = asked(timeout_s)

    assert of_routing.patience_s == patience_s
    assert asked(timeout_s).patience_s == timeout_s
