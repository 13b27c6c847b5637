"""Where does this value come from? The effective configuration with origins; secrets are masked, nothing is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from llmwire.services.errors import ConfigError
from llmwire.services.routing.endpoint import Dialect, Endpoint
from llmwire.services.secrets import MASK, Secret

from .address import masked
from .configuration import FirstOf, Level
from .settings import FUNCTIONS, NO_KEY

URLS: Final = ("base_url", "azure_endpoint")  #: the settings that may hold a password or key by mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting: its effective value as text, where that comes from, and which later places hold one too."""

    setting: str
    value: str | None
    origin: str
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionExplanation:
    """One function.

    Attributes:
        server: the base URL that requests go to, or None where the settings do not fit.
        rows: one for each setting that is set or has a default.
        warnings: what works, but probably not as meant.
        notes: what was done to make the settings fit.
        error: why the function cannot be used, or None.
    """

    function: str
    server: str | None
    dialect: str | None
    sends_key: bool
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    error: str | None


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
    endpoint = settings.endpoint if settings else None
    return FunctionExplanation(
        function=function,
        server=endpoint.base_url if endpoint else None,
        dialect=str(endpoint.dialect) if endpoint else None,
        sends_key=bool(endpoint and endpoint.credential is not None),
        rows=tuple(
            row for name, chain in chains.items() if (row := _row(name, chain)) and _matters(name, row, endpoint)
        ),
        warnings=tuple(f"{warning.key}: {warning.message}" for warning in settings.warnings) if settings else (),
        notes=settings.notes if settings else (),
        error=error,
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
    if isinstance(value, tuple):  # headers: a value may be a secret, a name is none
        return ", ".join(f"{header}: {MASK}" for header, _ in value)
    return masked(value) if name in URLS else str(value)


def _lines(function: FunctionExplanation) -> list[str]:
    key = "with a key" if function.sends_key else "without a key"
    head = (
        f"{function.function}: {function.server} ({function.dialect}, {key})" if function.server else function.function
    )
    width = max((len(row.setting) for row in function.rows), default=0)
    lines = [head]
    for row in function.rows:
        shadows = f", shadows {', '.join(row.shadows)}" if row.shadows else ""
        lines.append(f"  {row.setting:<{width}} = {row.value}  [{row.origin}{shadows}]")
    lines.extend(f"  note: {note}" for note in function.notes)
    lines.extend(f"  warning: {warning}" for warning in function.warnings)
    if function.error:
        lines.append(f"  error: {function.error}")
    return lines
