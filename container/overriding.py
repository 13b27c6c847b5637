"""Fakes in the place of providers, for the length of a block. All names are checked first; all is undone after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from dependency_injector import providers

from .lifetime import Lazy


@contextlib.contextmanager
def overriding(container: Any, **replacements: Any) -> Iterator[Any]:
    """Override providers by name inside the block: all of them, or none where a name is wrong.

    What was built from the overridden providers is built anew inside the block, and the former is back after it. Blocks
    nest, and may be left in any order.

    Args:
        container: any container, also a larger application's.
        replacements: a value or a provider by name; a dotted name, as in `llm.completion_client`, reaches into an
            embedded container.
    Raises:
        AttributeError: a name that the container does not have; nothing was overridden.
    """
    named = {_provider(container, name): replacement for name, replacement in replacements.items()}
    with contextlib.ExitStack() as stack:
        for dependent in _dependents(container, set(named)):
            stack.enter_context(_rebuilt(dependent))
        for provider, replacement in named.items():
            stack.enter_context(_overridden(provider, replacement))
        yield container


def _provider(container: Any, name: str) -> providers.Provider[Any]:
    place = container
    *tables, last = name.split(".")
    for index, segment in enumerate([*tables, last]):
        known = getattr(place, "providers", {})
        if segment not in known:
            raise AttributeError(_unknown(name, segment, ".".join(tables[:index]), list(known)))
        place = known[segment]
    return place  # type: ignore[no-any-return]  # a container's `providers` holds providers


def _unknown(name: str, segment: str, table: str, known: list[str]) -> str:
    near = get_close_matches(segment, known, n=1)
    place = f"{table} has" if table else "the container has"
    remedy = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}."
    return f"cannot override {name!r}: {place} no provider {segment!r}; {remedy}"


def _dependents(container: Any, overridden: set[providers.Provider[Any]]) -> list[providers.Provider[Any]]:
    """The caching providers below the container that are built from an overridden one."""
    kinds = (Lazy, providers.BaseSingleton)
    return [
        candidate
        for candidate in container.traverse(types=kinds)
        if candidate not in overridden and overridden.intersection(providers.traverse(*candidate.related))
    ]


@contextlib.contextmanager
def _rebuilt(dependent: Any) -> Iterator[None]:
    if isinstance(dependent, Lazy):
        with dependent.set_aside():
            yield
        return
    dependent.reset()
    try:
        yield
    finally:
        dependent.reset()


_lock = threading.Lock()


@contextlib.contextmanager
def _overridden(provider: providers.Provider[Any], replacement: Any) -> Iterator[None]:
    with _lock:
        own = replacement if providers.is_provider(replacement) else providers.Object(replacement)
        provider.override(own)
    try:
        yield
    finally:
        with _lock:
            _take_out(provider, own)


def _take_out(provider: providers.Provider[Any], own: providers.Provider[Any]) -> None:
    """Remove this override wherever it stands by now: another block may have been entered after and left later."""
    others = [other for other in provider.overridden if other is not own]
    provider.reset_override()
    for other in others:
        provider.override(other)
