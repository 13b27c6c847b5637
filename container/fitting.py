"""Whether the routes, the pools and the endpoints of a function fit together. Knows settings; decides no request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Final

from llmwire.services.errors import ConfigError
from llmwire.services.events import ConfigWarned
from llmwire.services.routing.endpoint import DEFAULT_POOL, Endpoint
from llmwire.services.routing.route import OF_COMPLETIONS, OF_EMBEDDINGS, Mode, Route
from llmwire.services.routing.router import NamedPool
from llmwire.services.wanted import both

from .configuration import below
from .endpoints import Findings
from .routes import names_of

#: conditions that no request of the function can meet
IMPOSSIBLE: Final = {"completion": OF_EMBEDDINGS, "embedding": OF_COMPLETIONS}
#: tokenizers that need no library
BUILT_IN: Final = ("auto", "estimate")


class Fitting:
    """One look at all of them.

    Args:
        predicates: gives those that routes may name; asked where one does.
    """

    def __init__(
        self,
        function: str,
        found: Findings,
        endpoints: tuple[Endpoint, ...],
        predicates: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._function, self._found, self._predicates = function, found, predicates
        self.pools: tuple[NamedPool, ...] = found["pools"].value or ()
        self.routes: tuple[Route, ...] = found["routes"].value or ()
        self._named = {pool.name: pool for pool in self.pools}
        self._served: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            for pool in endpoint.pools:
                self._served.setdefault(pool, []).append(endpoint)

    def check(self) -> None:
        """Raise ConfigError for the first thing that cannot be meant so."""
        self._check_tokenizer()
        self._check_pools()
        for place, route in enumerate(self.routes, start=1):
            self._check_conditions(route, f"[{place}]")
            if self._is_looked_at(route):
                self._check_route(route, f"[{place}]")
        self._check_embedder()

    def warnings(self) -> Iterator[ConfigWarned]:
        """A text is embedded to find out what it is about: a boundary should be looked at before that."""
        names = names_of(self.routes)
        semantic: str | None = None
        for place, (name, route) in enumerate(zip(names, self.routes, strict=True), start=1):
            if not self._is_looked_at(route):
                continue
            if semantic is not None and self._demanded(route, route.pool) is not None:
                message = f"{name} demands trust, and texts are embedded for {semantic} before it is looked at: move it"
                found, at = self._found["routes"], f"[{place}]"
                yield ConfigWarned(
                    function=self._function,
                    key=f"{found.key}{at}",
                    origin=below(found.origin, at),
                    message=f"{message} above that one",
                )
            if route.is_semantic:
                semantic = semantic or name

    def _is_looked_at(self, route: Route) -> bool:
        """Whether anybody asks it: one that is off may name what is not there at present."""
        return Mode.OFF not in (route.mode, self._found["routing"].value)

    def _check_tokenizer(self) -> None:
        encoding = self._found["tokenizer"].value
        if encoding not in BUILT_IN and find_spec("tiktoken") is None:
            remedy = f"Install it with pip install 'llmwire[tiktoken]', or write {' or '.join(BUILT_IN)}."
            raise self._error("tokenizer", "", f"is {encoding}, which needs the package tiktoken", remedy)

    def _check_pools(self) -> None:
        if DEFAULT_POOL not in self._served:
            problem = f"leave the pool {DEFAULT_POOL} empty, where everything goes that no route matches"
            raise self._error("endpoints", "", problem, f"Add {DEFAULT_POOL} to the pools of one of them.")
        for pool in self.pools:
            if pool.name not in self._served:
                remedy = f"Add {pool.name} to the pools of an endpoint, or remove the table."
                raise self._error("pools", f".{pool.name}", "is served by no endpoint", remedy)
            self._check_trust("pools", f".{pool.name}.trust", pool.trust, pool.name)

    def _check_conditions(self, route: Route, at: str) -> None:
        for condition in route.conditions:
            if condition in IMPOSSIBLE[self._function]:
                problem = f"is a condition that no request for {self._function}s can meet"
                raise self._error("routes", f"{at}.{condition}", problem, "Remove it.")

    def _check_route(self, route: Route, at: str) -> None:
        self._check_is_served(f"{at}.pool", route.pool)
        demanded = self._demanded(route, route.pool)
        self._check_trust("routes", f"{at}.trust", demanded, route.pool)
        if route.on_context_length is not None:
            at_larger = f"{at}.on_context_length"
            self._check_is_served(at_larger, route.on_context_length)
            demanded = both(demanded, self._demanded(route, route.on_context_length))
            self._check_trust("routes", at_larger, demanded, route.on_context_length)
        if isinstance(route.predicate, str) and route.predicate not in (known := self._predicates()):
            problem = (
                f"names {route.predicate}, which is none of the predicates ({', '.join(known) or 'there are none'})"
            )
            remedy = f"Give it to the container, as in predicates={{{route.predicate!r}: function}}."
            raise self._error("routes", f"{at}.predicate", problem, remedy)
        if route.language and find_spec("py3langid") is None:
            remedy = "Install it with pip install 'llmwire[language]'."
            raise self._error("routes", f"{at}.language", "needs the package py3langid", remedy)

    def _check_embedder(self) -> None:
        """A text is embedded where all routes that go by meaning allow it: there must be such a place."""
        demanded: frozenset[str] | None = None
        for place, route in enumerate(self.routes, start=1):
            if not route.is_semantic or not self._is_looked_at(route):
                continue
            demanded = both(demanded, self._demanded(route, route.pool))
            if demanded is not None and not demanded:
                problem = (
                    "excludes what other routes with examples demand: no endpoint may embed a text for all of them"
                )
                remedy = "Give them a label in common, and that to the embedding endpoint."
                raise self._error("routes", f"[{place}].trust", problem, remedy)

    def _check_is_served(self, at: str, pool: str) -> None:
        if pool not in self._served:
            problem = f"is {pool}, a pool that no endpoint serves (known: {', '.join(sorted(self._served))})"
            remedy = f"Correct it, or add {pool} to the pools of an endpoint."
            raise self._error("routes", at, problem, remedy)

    def _demanded(self, route: Route, pool: str) -> frozenset[str] | None:
        """By the route and the pool together."""
        named = self._named.get(pool)
        return both(frozenset(route.trust) or None, named.trust if named else None)

    def _check_trust(self, setting: str, at: str, demanded: frozenset[str] | None, pool: str) -> None:
        members = self._served[pool]
        if demanded is None or any(endpoint.trust in demanded for endpoint in members):
            return
        labels = " or ".join(sorted(demanded)) or "what excludes the trust of the pool itself"
        are = ", ".join(f"{endpoint.name} is {endpoint.trust or 'without a label'}" for endpoint in members)
        problem = f"demands {labels}, and no endpoint of the pool {pool} is that: {are}"
        raise self._error(setting, at, problem, "Give one of them that trust, or name another pool.")

    def _error(self, setting: str, at: str, problem: str, remedy: str) -> ConfigError:
        found = self._found[setting]
        return ConfigError(problem, key=f"{found.key}{at}", origin=below(found.origin, at), remedy=remedy)
