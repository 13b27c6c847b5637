"""dependency-injector's `inject`, with a guard: a function that was never wired says so instead of running.

Without it the function silently receives the marker object, and fails far from the cause. The one door to wiring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin

from dependency_injector import wiring

from .errors import NotWiredError

F = TypeVar("F", bound=Callable[..., Any])


def inject(function: F) -> F:
    """Fill the parameters marked with `Provide[...]` from the container that is wired to the function's module.

    Raises:
        TypeError: the function is a generator: it would outlive what is injected into it.
        NotWiredError: on a call, where a marked parameter was not filled.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        message = f"{_name(function)} is a generator: inject into the function that makes it, and hand the object over"
        raise TypeError(message)
    return cast(F, wiring.inject(_guarded(function)))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters.items()
    marked = {name: marker for name, parameter in parameters if (marker := _marker(parameter))}
    places = {name: place for place, (name, each) in enumerate(parameters) if each.kind is not each.KEYWORD_ONLY}

    def filled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        for name, marker in marked.items():
            given = kwargs.get(name, marker)
            if places.get(name, len(args)) < len(args):
                kwargs.pop(name, None)  # the caller's own; dependency-injector fills the parameter a second time
                given = args[places[name]]
            if _is_marker(given):
                raise NotWiredError(_not_wired(function, name, marker))
        return kwargs

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def awaiting(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **filled(args, kwargs))

        return awaiting

    @wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **filled(args, kwargs))

    return calling


def _marker(parameter: inspect.Parameter) -> Any:
    if get_origin(parameter.annotation) is Annotated:
        candidates = get_args(parameter.annotation)[1:]
    else:
        candidates = (parameter.default,)
    # FastAPI's Depends and its like wrap the marker.
    unwrapped = [getattr(candidate, "dependency", candidate) for candidate in candidates]
    return next((candidate for candidate in unwrapped if _is_marker(candidate)), None)


def _is_marker(value: Any) -> bool:
    return getattr(type(value), "__IS_MARKER__", False) is True


def _not_wired(function: Callable[..., Any], parameter: str, marker: Any) -> str:
    wanted = repr(getattr(marker, "provider", marker))
    return (
        f"{_name(function)}: nothing was injected into {parameter!r}, which wants {wanted}. "
        f"Call container.wire(modules=[{function.__module__!r}]) first, on a container that has {wanted}"
    )


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}()"
