"""A gate is asked before each request, and what it raises stops the request."""

from __future__ import annotations

import pytest

from llmwire.services.errors import NetworkRefused
from llmwire.services.transport import network


@pytest.fixture
def set_gate():
    yield network.set_gate
    network.set_gate(None)


def refuse(server):
    raise NetworkRefused(f"no call to {server}")


def test_without_a_gate_every_server_passes():
    network.check("https://api.openai.com:443")


def test_a_gate_is_asked_with_the_server_alone(set_gate):
    asked = []
    set_gate(asked.append)

    network.check("http://127.0.0.1:8000")

    assert asked == ["http://127.0.0.1:8000"]


def test_what_a_gate_raises_reaches_the_caller(set_gate):
    set_gate(refuse)

    with pytest.raises(NetworkRefused, match="no call to http://127"):
        network.check("http://127.0.0.1:8000")


def test_a_gate_that_was_taken_away_is_not_asked(set_gate):
    set_gate(refuse)
    set_gate(None)

    network.check("http://127.0.0.1:8000")
