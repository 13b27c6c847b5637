"""Fakes in the place of providers, for the length of a block. All names are checked first; all is undone after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from difflib import get_close_matches
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, cast

from dependency_injector import providers

from .lifetime import Lazy

_CACHING = (providers.BaseSingleton, providers.Resource)


@contextlib.contextmanager
def overriding(container: Any, **replacements: Any) -> Iterator[Any]:
    """Override providers by name inside the block: all of them, or none where a name is wrong.

    What was built from the overridden providers is built anew inside the block, and the former is back after it. Blocks
    nest, and may be left in any order. An asynchronous resource is not built anew.

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
            stack.enter_context(_built_anew(dependent))
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
    remedy = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known)) or 'none'}."
    return f"cannot override {name!r}: {place} no provider {segment!r}; {remedy}"


def _dependents(container: Any, overridden: set[providers.Provider[Any]]) -> list[providers.Provider[Any]]:
    """The caching providers below the container that are built from an overridden one."""
    inside = {stand_in.fresh for stand_in in container.traverse(types=[_StandIn])}
    return [
        candidate
        for candidate in container.traverse(types=_CACHING)
        if candidate not in overridden | inside
        and not _is_async_resource(candidate)
        and all(isinstance(other, _StandIn) for other in candidate.overridden)
        and overridden.intersection(providers.traverse(*candidate.related))
    ]


def _is_async_resource(candidate: Any) -> bool:
    opens = candidate.provides
    is_async = candidate.is_async_mode_enabled() or iscoroutinefunction(opens) or isasyncgenfunction(opens)
    return is_async and isinstance(candidate, providers.Resource)


class _StandIn(providers.Provider[Any]):
    """Stands before a caching provider: built from the same, and holding nothing of what the former holds."""

    def __init__(self, former: Any = None) -> None:
        self.fresh: Any = None if former is None else _fresh(former)
        super().__init__()

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> _StandIn:
        copied = cast(_StandIn, super().__deepcopy__(memo))
        copied.fresh = providers.deepcopy(self.fresh, memo)
        return copied

    @property
    def initialized(self) -> bool:
        """Whether the new one is built, where that can be said."""
        return bool(getattr(self.fresh, "initialized", True))

    @property
    def built(self) -> Any:
        """The new one, where it is built and that can be said; else None."""
        return getattr(self.fresh, "built", None)

    @property
    def related(self) -> Iterator[providers.Provider[Any]]:
        yield self.fresh
        yield from super().related

    def _provide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.fresh(*args, **kwargs)


def _fresh(former: Any) -> Any:
    if isinstance(former, Lazy):
        return former.fresh()
    fresh = type(former)()
    fresh.set_provides(former.provides)
    fresh.set_args(*former.args)
    fresh.set_kwargs(**former.kwargs)
    if isinstance(former, providers.BaseSingleton):
        fresh.set_attributes(**former.attributes)
    return fresh


@contextlib.contextmanager
def _built_anew(dependent: providers.Provider[Any]) -> Iterator[None]:
    stand_in = _StandIn(dependent)
    try:
        with _overridden(dependent, stand_in):
            yield
    finally:
        if isinstance(stand_in.fresh, providers.Resource):
            stand_in.fresh.shutdown()


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
