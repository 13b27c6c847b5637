"""Where does this value come from? The effective configuration with origins; secrets are masked, nothing is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from llmwire.services.errors import ConfigError
from llmwire.services.routing.endpoint import Dialect, Endpoint, Price
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import NamedPool
from llmwire.services.secrets import MASK, Secret
from llmwire.services.source import SourceState

from .address import masked
from .configuration import FirstOf, Level
from .endpoints import DEFAULT_NAME, Chains, ConfiguredEndpoint, endpoints_of
from .routes import names_of
from .settings import FUNCTIONS, SETTINGS, Reach
from .values import NO_KEY

URLS: Final = ("base_url", "azure_endpoint")  #: the settings that may hold a password or key by mistake
QUIET: Final = frozenset(setting.name for setting in SETTINGS if setting.is_quiet)
QUIET_AT_ENDPOINT: Final = QUIET | {"base_url"}  #: no endpoint that has a name has the default server
QUIET_WITHOUT_ROUTES: Final = frozenset({"routing", "tokenizer", "routing_timeout_s"})
QUIET_WITHOUT_SOURCES: Final = frozenset({"startup", "source_cache"})
INHERITED: Final = frozenset(setting.name for setting in SETTINGS if setting.reach is Reach.INHERITED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting: its effective value as text, where that comes from, and which later places hold one too."""

    setting: str
    value: str | None
    origin: str
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointExplanation:
    """One endpoint of a function.

    Attributes:
        server: the base URL that requests go to, or None where the settings of the function do not fit.
        rows: one for each setting that is set for it, or for its function where it inherits that. None of the one
            endpoint called `default`: it inherits everything.
    """

    name: str
    server: str | None
    dialect: str | None
    sends_key: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionExplanation:
    """One function.

    Attributes:
        server: the base URL that requests go to, of several endpoints the first's; None where the settings do not fit.
        rows: one for each setting that is set or has a default; of several endpoints' those that they do not inherit.
        endpoints: in their order; none where it cannot be told what they are called.
        warnings: what works, but probably not as meant.
        notes: what was done to make the settings fit.
        error: why the function cannot be used, or None.
        sources: in their order, as they are known: a source is asked when the first client is built, or with
            `container.completion.watcher().start()`.
    """

    function: str
    server: str | None
    dialect: str | None
    sends_key: bool
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    error: str | None
    endpoints: tuple[EndpointExplanation, ...] = ()
    sources: tuple[SourceState, ...] = ()

    @property
    def has_named_endpoints(self) -> bool:
        """Whether the operator named endpoints; else there is the one called `default`."""
        return any(endpoint.name != DEFAULT_NAME for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The effective configuration of a container. `str()` is plain text, `as_dict()` is fit for JSON."""

    functions: tuple[FunctionExplanation, ...]

    @property
    def is_usable(self) -> bool:
        """Whether every function has settings that fit together. No server was asked."""
        return all(function.error is None for function in self.functions)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts and lists, by function."""
        return {function.function: asdict(function) for function in self.functions}

    def __str__(self) -> str:
        return "\n\n".join("\n".join(_lines(function)) for function in self.functions)


def explain(container: Any) -> Explanation:
    """Explain each function of an LLMContainer. Builds no client and calls no server."""
    return Explanation(functions=tuple(_explained(name, container.providers[name]) for name in FUNCTIONS))


def _explained(function: str, lane: Any) -> FunctionExplanation:
    chains = {name: provider for name, provider in lane.providers.items() if isinstance(provider, FirstOf)}
    settings, error = None, None
    try:
        settings = lane.settings()
    except ConfigError as problem:
        error = str(problem)
    configured = _configured(function, chains, lane)
    settled = {endpoint.name: endpoint for endpoint in settings.endpoints} if settings else {}
    first = settings.endpoint if settings else None
    is_pool = any(each.is_named for each in configured)
    apart = {name: chain for name, chain in chains.items() if name not in INHERITED}
    return FunctionExplanation(
        function=function,
        server=first.base_url if first else None,
        dialect=str(first.dialect) if first else None,
        sends_key=_sends_key(first),
        rows=_rows(apart, first, quiet=_quiet(settings, chains)) if is_pool else _rows(chains, first, quiet=QUIET),
        warnings=tuple(f"{warning.key}: {warning.message}" for warning in settings.warnings) if settings else (),
        notes=settings.notes if settings else (),
        error=error,
        endpoints=tuple(_endpoint(each, settled.get(each.name)) for each in configured),
        sources=tuple(_sources(lane, chains["source"])),
    )


def _sources(lane: Any, chain: FirstOf[Any]) -> Iterator[SourceState]:
    """What is known of them, without asking any: of those that nobody has asked yet only the names."""
    watcher = lane.watcher.last_overriding or lane.watcher
    states = {each.source: each for each in lane.watcher().state()} if getattr(watcher, "initialized", True) else {}
    try:
        named = [source.name for source in chain.found().value or ()]
    except ConfigError:  # it is told as the function's error
        return
    for name in named:
        unasked = SourceState(source=name, version=None, is_cached=False, taken_s=None, asked_s=None, error=None)
        yield states.get(name, unasked)


def _quiet(settings: Any, chains: Chains) -> frozenset[str]:
    """Of several endpoints the defaults that play no part."""
    of_routes = frozenset[str]() if settings and settings.routes else QUIET_WITHOUT_ROUTES
    return of_routes if any(chains["source"].written()) else of_routes | QUIET_WITHOUT_SOURCES


def _configured(function: str, chains: Chains, lane: Any) -> tuple[ConfiguredEndpoint, ...]:
    try:
        return endpoints_of(function, chains, lane.config, lane.env)
    except ConfigError:  # it is told as the function's error
        return ()


def _endpoint(configured: ConfiguredEndpoint, settled: Endpoint | None) -> EndpointExplanation:
    return EndpointExplanation(
        name=configured.name,
        server=settled.base_url if settled else None,
        dialect=str(settled.dialect) if settled else None,
        sends_key=_sends_key(settled),
        rows=_rows(configured.chains, settled, quiet=QUIET_AT_ENDPOINT) if configured.is_named else (),
    )


def _sends_key(endpoint: Endpoint | None) -> bool:
    return endpoint is not None and endpoint.credential is not None


def _rows(chains: Chains, endpoint: Endpoint | None, *, quiet: frozenset[str] = frozenset()) -> tuple[Row, ...]:
    rows = ((name, _row(name, chain)) for name, chain in chains.items())
    return tuple(
        row
        for name, row in rows
        if row and _matters(name, row, endpoint) and not (name in quiet and row.origin == "default")
    )


def _matters(name: str, row: Row, endpoint: Endpoint | None) -> bool:
    """Whether a setting plays a part: Azure's defaults and a key of both dialects only where the server is Azure's."""
    is_azure = endpoint is not None and endpoint.dialect is Dialect.AZURE
    return is_azure or not name.startswith("azure_") or "azure" in row.origin.lower()


def _row(name: str, chain: FirstOf[Any]) -> Row | None:
    try:
        found = chain.found()
    except ConfigError as error:
        return Row(setting=chain.key, value=f"unusable: {error.problem}", origin=error.origin or "")
    if found.level is Level.UNSET:
        return None
    shadows = tuple(held.origin for held in found.shadowed)
    return Row(setting=chain.key, value=_shown(name, found.value), origin=found.origin, shadows=shadows)


def _shown(name: str, value: Any) -> str:
    if value == NO_KEY:
        return "none (no Authorization is sent)"
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, Price):
        amounts = [value.input, value.output, *([] if value.cached is None else [value.cached])]
        return "/".join(f"{amount:g}" for amount in amounts)
    if name == "headers":  # a value may be a secret, a name is none
        return ", ".join(f"{header}: {MASK}" for header, _ in value)
    if name == "routes":
        return ", ".join(map(_route, names_of(value), value))
    if isinstance(value, frozenset):  # the modalities of an endpoint
        return ", ".join(("text", *sorted(value)))
    if name == "budget":
        return ", ".join(f"{limit}" if limit.tag is None else f"{limit.tag}: {limit}" for limit in value)
    if name == "source":
        return ", ".join(source.name for source in value)
    if isinstance(value, tuple):
        return ", ".join(_pool(each) if isinstance(each, NamedPool) else each for each in value)
    return masked(value) if name in URLS else str(value)


def _route(name: str, route: Route) -> str:
    mode = "" if route.mode is Mode.ON else f" ({route.mode})"
    return f"{name} -> {route.pool}{mode}"


def _pool(pool: NamedPool) -> str:
    options = {
        "strategy": pool.strategy,
        "deadline_s": pool.deadline_s and f"{pool.deadline_s:g}",
        "trust": pool.trust and " or ".join(sorted(pool.trust)),
    }
    told = ", ".join(f"{name} {value}" for name, value in options.items() if value)
    return f"{pool.name} ({told})" if told else pool.name


def title(explained: FunctionExplanation | EndpointExplanation) -> str:
    """The server, how it is spoken to, and whether with a key; of several endpoints their number."""
    if not explained.server:
        return ""
    if isinstance(explained, FunctionExplanation) and explained.has_named_endpoints:
        return f"{len(explained.endpoints)} endpoints" if len(explained.endpoints) > 1 else "1 endpoint"
    key = "with a key" if explained.sends_key else "without a key"
    return f"{explained.server} ({explained.dialect}, {key})"


def _lines(function: FunctionExplanation) -> list[str]:
    place = title(function)
    lines = [f"{function.function}: {place}" if place else function.function, *_lines_of(function.rows)]
    lines.extend(f"  source {told(source)}" for source in function.sources)
    for endpoint in function.endpoints if function.has_named_endpoints else ():
        place = title(endpoint)
        lines.append(f"  {endpoint.name}: {place}" if place else f"  {endpoint.name}")
        lines.extend(f"  {line}" for line in _lines_of(endpoint.rows))
    lines.extend(f"  note: {note}" for note in function.notes)
    lines.extend(f"  warning: {warning}" for warning in function.warnings)
    if function.error:
        lines.append(f"  error: {function.error}")
    return lines


def told(source: SourceState) -> str:
    """Which document is in force, how old that is, and what is wrong."""
    if source.version is not None:
        said = f"{source.version}, from the disk" if source.is_cached else source.version
    else:
        said = "nothing of it is in force" if source.error or source.asked_s is not None else "not asked yet"
    age = f", answered {source.asked_s:.0f} s ago" if source.asked_s is not None else ""
    return f"{source.source}: {said}{age}" + (f"; {source.error}" if source.error else "")


def _lines_of(rows: tuple[Row, ...]) -> Iterator[str]:
    width = max((len(row.setting) for row in rows), default=0)
    for row in rows:
        shadows = f", shadows {', '.join(row.shadows)}" if row.shadows else ""
        yield f"  {row.setting:<{width}} = {row.value}  [{row.origin}{shadows}]"
