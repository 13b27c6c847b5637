"""Names that nobody declared. Knows which names the chains read; knows nothing of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from dependency_injector import providers

from llmwire.services.errors import ConfigError

from .configuration import Environment, FirstOf, layer_of, tree
from .settings import FUNCTIONS

#: an environment variable this near to one of ours is a misspelling; a shell's own COMPLETION_WAITING_DOTS is not
NEAR = 0.75
#: the same for variables that every program shares: others have names of their own there, so it is only a warning
SHARED_NEAR = 0.93
#: lists variables, divided by commas, that belong to other programs however near they are
IGNORE = "LLMWIRE_IGNORE"


def check_spelling(
    function: str, chains: Iterable[FirstOf[Any]], config: providers.Configuration, env: providers.Configuration
) -> tuple[str, ...]:
    """Refuse names that no chain of this function reads, in its own tables and the shared ones.

    Returns:
        What to warn of: shared variables that are near to one that is read.
    Raises:
        ConfigError: names the key, its origin and the nearest right one.
    """
    places = {place.get_name() for chain in chains for place in chain.places}
    _check_tree(function, {name.removeprefix("config.") for name in places if name.startswith("config.")}, config)
    variables = {name.removeprefix("env.") for name in places if name.startswith("env.")}
    _check_environment(function, variables, env)
    return tuple(
        f"{name} is read by nothing; did you mean {near[0]}?"
        for prefix in ("OPENAI_", "AZURE_OPENAI_")
        for name in _unread(prefix, variables, tree(env))
        if (near := get_close_matches(name, sorted(variables), n=1, cutoff=SHARED_NEAR))
    )


def _check_tree(function: str, known: set[str], config: providers.Configuration) -> None:
    tables = {name.rpartition(".")[0] for name in known} | set(FUNCTIONS)
    others = tuple(f"{other}." for other in FUNCTIONS if other != function)
    file = getattr(layer_of(config)(), "file", None)
    for path, value in _walk(tree(config), tables):
        if path in known or path.startswith(others):
            continue
        if path in tables:
            if value is None or (path in FUNCTIONS and path != function):
                continue
            raise _error("is no table", path, file, f"Write [{path}] and its settings below it.")
        names = sorted(known | {table for table in tables if table})
        raise _error("is no setting", path, file, _suggestion(path, names))


def _error(problem: str, path: str, file: str | None, remedy: str) -> ConfigError:
    origin = f"config.{path} ({file})" if file else f"config.{path}"
    return ConfigError(problem, key=path, origin=origin, remedy=remedy)


def _walk(table: Mapping[str, Any], tables: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths of everything in the tree that is no declared table, and of what stands where a table should."""
    for name, value in table.items():
        path = f"{prefix}{name}"
        if path in tables and isinstance(value, Mapping):
            yield from _walk(value, tables, f"{path}.")
        else:
            yield path, value


def _check_environment(function: str, known: set[str], env: providers.Configuration) -> None:
    layer = layer_of(env)
    for prefix in (f"{function.upper()}_", "LLMWIRE_"):
        # Only what follows the prefix is compared: Kubernetes sets COMPLETION_PORT beside a service `completion`.
        endings = {name.removeprefix(prefix) for name in known if name.startswith(prefix)}
        for name in _unread(prefix, known, tree(env)):
            if right := _nearest(name.removeprefix(prefix), endings):
                origin = layer.origin_of(name) if isinstance(layer, Environment) else f"env.{name}"
                remedy = f"Did you mean {prefix}{right}? If it is another program's, list it in {IGNORE}."
                raise ConfigError("is no setting", key=name, origin=origin, remedy=remedy)


def _unread(prefix: str, known: set[str], variables: Mapping[str, Any]) -> Iterator[str]:
    """Variables with the prefix that hold something and that no chain reads."""
    ignored = {IGNORE, *str(variables.get(IGNORE) or "").replace(",", " ").split()}
    for name in sorted(variables):
        if name.startswith(prefix) and name not in known | ignored and str(variables[name] or "").strip():
            yield name


def _nearest(name: str, known: set[str]) -> str | None:
    """The known name that is meant: a near one, or one of which only the end was written, as in URL for BASE_URL."""
    near = get_close_matches(name, sorted(known), n=1, cutoff=NEAR)
    longer = sorted((each for each in known if each.endswith(f"_{name}")), key=len)
    return next(iter(near + longer), None)


def _suggestion(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
