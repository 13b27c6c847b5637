"""One object, built when first used, closed when the container shuts down. Knows nothing of what the object is.

dependency-injector's own do not fit: Singleton and Resource build several under a race, ThreadSafeSingleton holds one
lock for the whole process, none of the singletons closes anything, and init_resources() builds every Resource.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from dependency_injector import providers

from llmwire.services.forking import renew_in_child

T = TypeVar("T")

_MISSING: Any = object()


class Lazy(providers.Resource[T]):
    """Builds once, at first use, under a lock of its own; rebuilds after a shutdown.

    A Resource only so that `shutdown_resources()` of any container around it finds it; `init_resources()` builds
    nothing.

    Args:
        provides: builds the object from the injected arguments.
        close: closes it from synchronous code.
        aclose: closes it from a coroutine; None awaits nothing and calls `close`.
        is_closed: whether its user closed it: then it is built anew.
    """

    def __init__(
        self,
        provides: Callable[..., T] | None = None,
        *args: Any,
        close: Callable[[T], None] | None = None,
        aclose: Callable[[T], Any] | None = None,
        is_closed: Callable[[T], bool] | None = None,
        **kwargs: Any,
    ) -> None:
        self._close, self._aclose, self._is_closed = close, aclose, is_closed
        self._instance: T = _MISSING
        self._lock = threading.RLock()
        self._is_building = False
        super().__init__(provides, *args, **kwargs)
        renew_in_child(self)

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> Lazy[T]:
        copied = cast(Lazy[T], super().__deepcopy__(memo))
        copied._close, copied._aclose, copied._is_closed = self._close, self._aclose, self._is_closed  # noqa: SLF001  # its own class
        return copied

    @property
    def initialized(self) -> bool:
        """Whether the object is built."""
        return self._instance is not _MISSING

    @property
    def built(self) -> T | None:
        """The object; None where it is not built."""
        return self._instance if self.initialized else None

    def init(self) -> None:
        """Build nothing: the object is made when it is first used."""

    def shutdown(self) -> None:
        """Close the object, if it was built, from synchronous code."""
        if (instance := self._taken()) is not _MISSING and self._close:
            self._close(instance)

    async def ashutdown(self) -> None:
        """Close the object, if it was built, and wait until it is closed."""
        instance = self._taken()
        if instance is _MISSING:
            return
        if self._aclose:
            await self._aclose(instance)
        elif self._close:
            self._close(instance)

    def fresh(self) -> Lazy[T]:
        """Another one, which is built from the same and closed in the same way."""
        ways: dict[str, Any] = {"close": self._close, "aclose": self._aclose, "is_closed": self._is_closed}
        return type(self)(self.provides, *self.args, **ways, **self.kwargs)

    def renew_after_fork(self) -> None:
        """A child's own lock; the object stays, its transport looks after itself."""
        self._lock = threading.RLock()
        self._is_building = False

    def _provide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        instance = self._instance
        if instance is _MISSING or self._abandoned(instance):
            with self._lock:
                instance = self._instance
                if instance is _MISSING or self._abandoned(instance):
                    instance = self._instance = self._build(args, kwargs)
        return instance

    def _build(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        if self.provides is None:
            raise TypeError("this Lazy was declared without what it provides")
        if self._is_building:  # the lock lets the thread that builds in again
            raise RuntimeError(f"{self.provides!r} was asked for while it is being built")
        self._is_building = True
        try:
            injected = {name: _injection(value) for name, value in self.kwargs.items()}
            built: T = self.provides(*map(_injection, self.args), *args, **{**injected, **kwargs})
        finally:
            self._is_building = False
        return built

    def _abandoned(self, instance: T) -> bool:
        return self._is_closed is not None and self._is_closed(instance)

    def _taken(self) -> T:
        with self._lock:
            instance, self._instance = self._instance, _MISSING
        return instance


def _injection(value: Any) -> Any:
    return value() if providers.is_provider(value) else value


async def shut_down_all(container: Any) -> None:
    """Close every Lazy below a container and wait for it; then its other resources. An error is raised at the end."""
    closings = (lazy.ashutdown() for lazy in container.traverse(types=[Lazy]))
    outcomes = await asyncio.gather(*closings, return_exceptions=True)
    result = container.shutdown_resources()
    if inspect.isawaitable(result):
        await result
    for error in filter(None, outcomes):
        raise error
