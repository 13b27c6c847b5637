"""The pytest plugin: an isolated container for each test, and no network where it is forbidden.

It stands here and not with the fakes because it knows the container. Neither openai nor numpy is imported before use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmwire.services.testing import FaultServer

    from .application import LLMContainer

CHOICES = ("allow", "loopback", "forbid")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The switch, as an option and as a line of the configuration."""
    meaning = "which real network calls of llmwire's clients the tests may make: allow, loopback or forbid"
    group = parser.getgroup("llmwire")
    group.addoption("--llmwire-network", choices=CHOICES, default=None, help=meaning)
    parser.addini("llmwire_network", meaning, default="allow")


@pytest.fixture
def llm_container() -> Iterator[LLMContainer]:
    """A fresh LLMContainer that reads neither the environment nor a file. Its clients are closed after the test."""
    from .application import LLMContainer

    container = LLMContainer(env={})
    yield container
    container.shutdown_resources()


@pytest.fixture
def llmwire_faults() -> Iterator[Callable[..., FaultServer]]:
    """Starts servers that do what they are told, as in `llmwire_faults("times:2:429", "ok")`, until the test ends.

    It takes the arguments of `FaultServer`.
    """
    from llmwire.services.testing import FaultServer

    with ExitStack() as servers:

        def start(*script: Any, **options: Any) -> FaultServer:
            return servers.enter_context(FaultServer(*script, **options))

        yield start


@pytest.fixture(autouse=True)
def _llmwire_network(request: pytest.FixtureRequest) -> Iterator[None]:
    allowed = request.config.getoption("--llmwire-network") or request.config.getini("llmwire_network")
    if allowed not in CHOICES:
        raise pytest.UsageError(f"llmwire_network is {allowed!r}: write one of {', '.join(CHOICES)}")
    if allowed == "allow":
        yield
        return
    from llmwire.services.errors import NetworkRefused
    from llmwire.services.transport import network

    from .address import is_loopback

    def refuse(server: str, /) -> None:
        if allowed == "loopback" and is_loopback(server):
            return
        raise NetworkRefused(f"{request.node.nodeid} made a real call to {server}; override the client with a fake")

    network.set_gate(refuse)
    yield
    network.set_gate(None)
