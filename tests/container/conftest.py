"""What the tests of the container share: an environment without settings, and containers that are closed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmwire.container import LLMContainer

PREFIXES = ("COMPLETION_", "EMBEDDING_", "OPENAI_", "AZURE_", "LLMWIRE_")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of who runs it."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def events() -> list[Any]:
    """What the listener of `a_container` was told."""
    return []


@pytest.fixture
def a_container(events: list[Any]) -> Iterator[Callable[..., LLMContainer]]:
    """Makes a container with `env` in the place of the process environment; it is shut down after the test."""
    made = []

    def make(env: dict[str, str] | None = None, **layers: Any) -> LLMContainer:
        container = LLMContainer(env=env or {}, listener=events.append, **layers)
        made.append(container)
        return container

    yield make
    for container in made:
        container.shutdown_resources()
