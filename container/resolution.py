"""From the chains of one function to its endpoints, and to all else that is settled about it.

Knows what the endpoints of a function have to do with each other; knows nothing of clients or HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from dependency_injector import providers

from llmwire.services.errors import ConfigError
from llmwire.services.events import ConfigWarned
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.endpoint import (
    DEFAULT_POOL,
    UNSAID,
    Abilities,
    Dialect,
    Endpoint,
    Timeouts,
    TokenSource,
)
from llmwire.services.routing.failover import CallSpec
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import NamedPool
from llmwire.services.routing.spending import SpendingLimit, Unit
from llmwire.services.secrets import Secret

from .belongings import Belongings
from .configuration import Environment, Level, one_look, tree
from .credentials import Credentials
from .endpoints import Chains, ConfiguredEndpoint, Findings, endpoints_of
from .fitting import Fitting
from .server import Server, server_for
from .spelling import check_spelling, check_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings:
    """All that is settled about one function.

    Attributes:
        endpoints: in the operator's order; at least one.
        strategy: how the pool chooses among them.
        calls: the limits of one call, all of its attempts included.
        model: what the services ask for where the caller names none.
        dimensions: of an embedding, or None where only the server knows.
        space: what the vectors of all endpoints are of: their `space`, or else the one model that they are asked for;
            None where that is the request's.
        revision: of that model, where somebody said.
        canary: each endpoint of an embedding pool must show that its vectors are of the pool's space.
        hedge: the share of calls for which a second endpoint may be asked where the first is slow; 0 for none.
        pools: those that have settings of their own.
        routes: in the order in which they are looked at.
        routing: what becomes of their decisions.
        tokenizer: how tokens are counted: `auto`, `estimate`, or an encoding of tiktoken's.
        limits: what may be spent, of the function, of tags and of endpoints.
        budget_ledger: where that is shared with other processes; it may hold a password.
        routing_timeout_s: how long a request may wait for the embedding of its text.
        has_default_server: no setting names a server.
        declares_space: the space is said; else it is that of the one model.
        warnings: what works, but probably not as meant.
        notes: what was done to make the settings fit, for `explain`.
    """

    function: str
    endpoints: tuple[Endpoint, ...]
    strategy: Strategy
    calls: CallSpec
    model: str
    dimensions: int | None
    space: str | None
    revision: str | None
    canary: bool
    hedge: float
    pools: tuple[NamedPool, ...]
    routes: tuple[Route, ...]
    routing: Mode
    tokenizer: str
    routing_timeout_s: float
    limits: tuple[SpendingLimit, ...]
    budget_ledger: Secret | None
    has_default_server: bool
    declares_space: bool
    warnings: tuple[ConfigWarned, ...]
    notes: tuple[str, ...]

    @property
    def of_vectors(self) -> tuple[str, str | None, int | None]:
        """The space or else the model, the revision, the dimensions: what vectors must have in common."""
        return self.space or self.model, self.revision, self.dimensions

    @property
    def models(self) -> frozenset[str]:
        """Those that the endpoints are asked for."""
        return frozenset(endpoint.model or self.model for endpoint in self.endpoints)

    @property
    def endpoint(self) -> Endpoint:
        """The first endpoint; of a function that names none its only one."""
        return self.endpoints[0]


def resolve(
    function: str,
    *,
    chains: Chains,
    config: providers.Configuration,
    env: Environment,
    token_source: Callable[[], TokenSource],
    predicates: Callable[[], Mapping[str, Any]] = dict,
) -> FunctionSettings:
    """Settle one function from its chains.

    Args:
        predicates: gives those that routes may name.
    Raises:
        ConfigError: a setting is misspelt, impossible or missing; settings of the other functions play no part.
    """
    with one_look():
        check_tables(function, chains.values(), config)
        configured = endpoints_of(function, chains, config, env)
        credentials = Credentials(config, env)
        remarks = check_spelling(function, chains, configured, config, env, also=credentials.paths())
        resolution = _Resolution(function, chains, configured, token_source, credentials)
        return resolution.result(remarks, predicates, tree(env))


class _Resolution:
    """One pass over what was found."""

    def __init__(
        self,
        function: str,
        chains: Chains,
        configured: tuple[ConfiguredEndpoint, ...],
        token_source: Callable[[], TokenSource],
        credentials: Credentials,
    ) -> None:
        self._function, self._chains, self._configured = function, chains, configured
        self._credentials = credentials
        self._found = Findings(chains)
        self._token_source = token_source

    @property
    def _key(self) -> str:
        return self._chains["endpoints"].key

    def result(
        self, remarks: Iterable[str], predicates: Callable[[], Mapping[str, Any]], variables: Mapping[str, str]
    ) -> FunctionSettings:
        found, has_vectors = self._found, "space" in self._chains
        of_sources = tuple(self._of_sources(variables))  # first: without a source the rest may well not do
        servers = [server_for(configured) for configured in self._configured]
        hosts = frozenset(server.host for server in servers if not server.is_remote)  # no key is given without them
        endpoints = tuple(self._endpoint(*pair, hosts) for pair in zip(self._configured, servers, strict=True))
        self._check_space(endpoints)
        fitting = Fitting(self._function, found, endpoints, predicates)
        fitting.check()
        return FunctionSettings(
            function=self._function,
            endpoints=endpoints,
            strategy=found["strategy"].value,
            calls=CallSpec(
                deadline_s=found["deadline_s"].value,
                max_attempts=found["max_attempts"].value,
                after_send=found["failover_after_send"].value,
            ),
            model=found["model"].value,
            dimensions=found["dimensions"].value if has_vectors else None,
            space=self._common("space") or _common_model(endpoints) if has_vectors else None,
            revision=self._common("revision") if has_vectors else None,
            canary=found["canary"].value if has_vectors else False,
            hedge=found["hedge"].value if has_vectors else 0.0,
            pools=fitting.pools,
            routes=fitting.routes,
            routing=found["routing"].value,
            tokenizer=found["tokenizer"].value,
            routing_timeout_s=0.0 if has_vectors else found["routing_timeout_s"].value,
            limits=self._limits(endpoints),
            budget_ledger=found["budget_ledger"].value,
            declares_space=has_vectors and self._common("space") is not None,
            has_default_server=any(server.level is Level.DEFAULT for server in servers),
            warnings=(*self._warnings(remarks, endpoints), *fitting.warnings(), *of_sources),
            notes=self._notes(endpoints, servers),
        )

    def _endpoint(self, configured: ConfiguredEndpoint, server: Server, hosts: frozenset[str]) -> Endpoint:
        found = configured.found
        is_azure = server.dialect is Dialect.AZURE
        belongings = Belongings(
            configured,
            server,
            hosts=hosts,
            same_host=lambda: self._found["key_fallback"].value == "same-host",
            token_source=self._token_source,
            credentials=self._credentials,
        )
        return Endpoint(
            function=self._function,
            name=configured.name,
            base_url=server.base_url,
            dialect=server.dialect,
            credential=belongings.credential(),
            headers=belongings.headers(),
            api_version=found["azure_api_version"].value if is_azure else None,
            deployment=found["azure_deployment"].value if is_azure else None,
            model=found["model"].value,
            weight=found["weight"].value,
            tier=found["tier"].value,
            tags=found["tags"].value or (),
            price=found["price"].value,
            pools=_pools(configured),
            trust=found["trust"].value,
            abilities=_abilities(configured),
            stream_usage=found["stream_usage"].value if "stream_usage" in configured.chains else True,
            timeouts=Timeouts(
                connect_s=found["connect_timeout_s"].value,
                first_byte_s=found["first_byte_timeout_s"].value or self._first_byte_s(configured),
                chunk_s=found["chunk_timeout_s"].value,
            ),
        )

    @cached_property
    def _serving(self) -> Counter[str]:
        """How many endpoints each pool has."""
        return Counter(name for each in self._configured for name in _pools(each))

    def _first_byte_s(self, configured: ConfiguredEndpoint) -> float:
        """Half of the deadline leaves time for another endpoint of the pool; where there is none, it has all of it.

        An answer that is not streamed begins when it is done: a time of its own would end the longer ones for nothing.
        Of several pools the one that waits the longest counts.
        """
        own = {pool.name: pool.deadline_s for pool in self._found["pools"].value or ()}
        deadline_s: float = self._found["deadline_s"].value
        return max(
            (own.get(name) or deadline_s) / (1 if self._serving[name] == 1 else 2) for name in _pools(configured)
        )

    def _limits(self, endpoints: Iterable[Endpoint]) -> tuple[SpendingLimit, ...]:
        """What may be spent. Raises ConfigError where that cannot be told, or would be told of the wrong calls."""
        limits: list[SpendingLimit] = list(self._found["budget"].value or ())
        own = self._configured if self._configured[0].is_named else ()  # a single one that is not named has no table
        for configured in own:
            for limit in configured.found["budget"].value or ():
                if limit.tag is not None:
                    remedy = f"Write it as the function's: {self._function}.budget."
                    problem, origin = (
                        f"is of the tag {limit.tag}, which no endpoint has",
                        configured.found["budget"].origin,
                    )
                    raise configured.error("budget", problem, remedy, origin)
                limits.append(replace(limit, endpoint=configured.name))
        for limit in limits:
            self._check_priced(limit, endpoints)
        return tuple(limits)

    def _check_priced(self, limit: SpendingLimit, endpoints: Iterable[Endpoint]) -> None:
        if limit.unit is not Unit.COST:
            return
        for endpoint in endpoints:
            if endpoint.price is None and limit.endpoint in (None, endpoint.name):
                problem = f"is in money, and {endpoint.name} has no price: what is spent there cannot be told"
                found = self._found["budget"]
                key, origin = found.key, found.origin
                if limit.endpoint is not None:
                    configured = next(each for each in self._configured if each.name == limit.endpoint)
                    key, origin = configured.found["budget"].key, configured.found["budget"].origin
                remedy = "Set its price, 0 where it costs nothing, or a budget of tokens."
                raise ConfigError(problem, key=key, origin=origin, remedy=remedy)

    def _check_space(self, endpoints: Iterable[Endpoint]) -> None:
        """Vectors of two models never mix; `space` says that two names are of one model."""
        if "space" not in self._configured[0].chains:
            return
        spaces = {each.name: each.found["space"].value for each in self._configured}
        revisions = {each.name: each.found["revision"].value for each in self._configured}
        models = {each.name: each.model or self._found["model"].value for each in endpoints}
        is_declared = None not in spaces.values()
        if len(set(spaces.values()) - {None}) > 1:
            differ, remedy = spaces, "Give all the same space, or put one of them elsewhere."
        elif len(set(revisions.values()) - {None}) > 1:
            differ, remedy = revisions, "Give all the same revision, or put one of them elsewhere."
        elif len(set(models.values())) > 1 and not is_declared:
            differ, remedy = models, "Name one model; if it is one under several names, give all the same `space`."
        else:
            return
        told = ", ".join(f"{name} has {value}" for name, value in differ.items())
        problem = f"hold more than one embedding space, which never mix: {told}"
        raise ConfigError(problem, key=self._key, origin=self._found["endpoints"].origin, remedy=remedy)

    def _common(self, setting: str) -> str | None:
        """What the endpoints say, of which none says otherwise: `_check_space` has seen to that."""
        said = (configured.found[setting].value for configured in self._configured)
        return next((value for value in said if value is not None), None)

    def _warnings(self, remarks: Iterable[str], endpoints: tuple[Endpoint, ...]) -> tuple[ConfigWarned, ...]:
        warnings = [self._warned("environment", "env", remark) for remark in remarks]
        warnings += [warning for configured in self._configured for warning in configured.warnings]
        known: dict[tuple[object, ...], str] = {}
        for endpoint in endpoints:
            if (other := known.setdefault(_identity(endpoint), endpoint.name)) != endpoint.name:
                message = f"{other} and {endpoint.name} are one server with one key and one model"
                warnings.append(self._warned(self._key, self._found["endpoints"].origin, message))
        unique: dict[tuple[str | None, str], ConfigWarned] = {}  # what several endpoints inherit is said once
        for warning in warnings:
            unique.setdefault((warning.origin, warning.message), warning)
        return tuple(unique.values())

    def _of_sources(self, variables: Mapping[str, str]) -> Iterator[ConfigWarned]:
        found, _ = self._found["source"], self._found["startup"]
        for source in found.value or ():
            for message in source.warnings(variables):
                yield self._warned(found.key, found.origin, f"{source.name}: {message}")

    def _notes(self, endpoints: tuple[Endpoint, ...], servers: Iterable[Server]) -> tuple[str, ...]:
        notes = [note for configured in self._configured for note in configured.notes]
        model = self._found["model"]
        if model.level is Level.DEFAULT and any(map(_may_not_know, endpoints, servers)):
            message = f"is not set: the services ask for {model.value}, which this server may not know."
            notes.append(f"{model.key}: {message} Set {self._function.upper()}_MODEL.")
        for findings in (self._found, *(configured.found for configured in self._configured)):
            notes.extend(findings.blanks())
        return tuple(dict.fromkeys(notes))

    def _warned(self, key: str, origin: str, message: str) -> ConfigWarned:
        return ConfigWarned(function=self._function, key=key, origin=origin, message=message)


def _pools(configured: ConfiguredEndpoint) -> tuple[str, ...]:
    return configured.found["pools"].value or (DEFAULT_POOL,)


def _abilities(configured: ConfiguredEndpoint) -> Abilities:
    """What is said of them; UNSAID itself where nothing is, as the router knows that one."""
    names = [field.name for field in fields(Abilities) if field.name in configured.chains]
    said = {name: configured.found[name].value for name in names}
    return UNSAID if set(said.values()) == {None} else Abilities(**said)


def _identity(endpoint: Endpoint) -> tuple[object, ...]:
    return endpoint.base_url, endpoint.credential, endpoint.model, endpoint.deployment


def _common_model(endpoints: Iterable[Endpoint]) -> str | None:
    models = {endpoint.model for endpoint in endpoints}
    return models.pop() if len(models) == 1 else None


def _may_not_know(endpoint: Endpoint, server: Server) -> bool:
    """Whether the default model of a function may be unknown to the endpoint's server."""
    return endpoint.model is None and endpoint.deployment is None and server.level is not Level.DEFAULT
