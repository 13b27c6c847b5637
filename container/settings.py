"""What an operator may write: every setting, its places, what it can take.

One line of a chain is one place, most specific first. Knows names and values; knows nothing of clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Final

from dependency_injector import providers

from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.endpoint import Timeouts
from llmwire.services.routing.failover import CallSpec
from llmwire.services.routing.route import Mode

from . import routes, sources, values
from .configuration import Environment, FirstOf, Level, option
from .documents import Documents

FUNCTIONS: Final = ("completion", "embedding")

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"


class Reach(Enum):
    """Whether a setting is of a function, of its endpoints, or of both."""

    FUNCTION = "of the function as a whole"
    ENDPOINT = "of an endpoint alone"
    INHERITED = "of an endpoint; where that does not say, its function's"
    APART = "of both, with a meaning of its own at each"


class Writers(Enum):
    """Who may write a setting, beside code, a configuration file and the environment."""

    ANY_SOURCE = "a document of any source"
    LOCAL_SOURCE = "a file of this machine: it is a key, goes with one, or guards what others say"
    NO_SOURCE = "nobody: it is settled before a source is asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: its places as templates over the function's name, its default, its parser.

    Attributes:
        own: the function's own places. An endpoint's are the same one step further, as in
            `config.completion.endpoints.backup.api_key` and `env.COMPLETION_BACKUP_API_KEY`.
        only: the functions that have it.
        is_quiet: `explain` shows its default only where the function has several endpoints.
        writers: who may write it.
    """

    name: str
    own: tuple[str, ...]
    shared: tuple[str, ...] = ()
    default: Mapping[str, Any] | None = None
    parse: Callable[[Any], Any] = values.text
    only: tuple[str, ...] = FUNCTIONS
    reach: Reach = Reach.INHERITED
    is_quiet: bool = False
    writers: Writers = Writers.ANY_SOURCE

    @property
    def at_endpoint(self) -> tuple[str, ...]:
        """Of its own places those that an endpoint has too. RAFT's spelling, {FUNCTION}_OPENAI_..., knows functions."""
        return _at_endpoint(self.own)

    def chain(
        self, function: str, config: providers.Configuration, env: Environment, documents: Documents | None = None
    ) -> FirstOf[Any]:
        """The chain of this setting for one function, over the layers."""
        own = [place.format(function=function, FUNCTION=function.upper()) for place in self.own]
        return FirstOf(
            *(option(config, env, place) for place in own),
            shared=tuple(option(config, env, place) for place in self.shared),
            documents=self._read_by(documents),
            default=(self.default or {}).get(function),
            key=own[0].removeprefix("config."),
            parse=self.parse,
        )

    def chain_at(
        self,
        function: str,
        endpoint: str,
        *,
        inherited: FirstOf[Any] | None,
        config: providers.Configuration,
        env: Environment,
        documents: Documents | None = None,
    ) -> FirstOf[Any]:
        """The chain of this setting for one endpoint; `inherited` is its function's, if that has one of this name."""
        table, prefix = f"{function}.endpoints.{endpoint}", f"{function.upper()}_{values.variable_part(endpoint)}"
        places = [place.format(function=table, FUNCTION=prefix) for place in self.at_endpoint]
        return FirstOf(
            *(option(config, env, place) for place in places),
            documents=self._read_by(documents),
            key=places[0].removeprefix("config."),
            parse=self.parse,
            level=Level.ENDPOINT,
            inherited=inherited if self.reach is Reach.INHERITED else None,
        )

    def _read_by(self, documents: Documents | None) -> Documents | None:
        return None if self.writers is Writers.NO_SOURCE else documents


@cache
def _at_endpoint(own: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(place for place in own if "{FUNCTION}_OPENAI_" not in place)


def _each(value: object) -> dict[str, object]:
    return dict.fromkeys(FUNCTIONS, value)


_CALLS: Final = CallSpec()
_TIMEOUTS: Final = Timeouts()

SETTINGS: Final = (
    Setting(
        name="base_url",
        own=(
            "config.{function}.base_url",
            "env.{FUNCTION}_BASE_URL",
            "env.{FUNCTION}_OPENAI_BASE_URL",
            "env.{FUNCTION}_OPENAI_API_BASE",
        ),
        shared=("config.openai.base_url", "env.OPENAI_BASE_URL", "env.OPENAI_API_BASE"),
        default=_each(DEFAULT_BASE_URL),
    ),
    Setting(
        name="api_key",
        own=("config.{function}.api_key", "env.{FUNCTION}_API_KEY", "env.{FUNCTION}_OPENAI_API_KEY"),
        shared=("config.openai.api_key", "env.OPENAI_API_KEY"),
        parse=values.key,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="credential",
        own=("config.{function}.credential", "env.{FUNCTION}_CREDENTIAL"),
        parse=values.credential_name,
    ),
    Setting(
        name="model",
        own=("config.{function}.model", "env.{FUNCTION}_MODEL", "env.{FUNCTION}_OPENAI_MODEL"),
        default={"completion": "gpt-5.4-mini", "embedding": "text-embedding-3-small"},
        reach=Reach.APART,
    ),
    Setting(
        name="organization",
        own=(
            "config.{function}.organization",
            "env.{FUNCTION}_ORG_ID",
            "env.{FUNCTION}_ORGANIZATION",
            "env.{FUNCTION}_OPENAI_ORG_ID",
        ),
        shared=("config.openai.organization", "env.OPENAI_ORG_ID"),
        parse=values.header_text,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="project",
        own=(
            "config.{function}.project",
            "env.{FUNCTION}_PROJECT_ID",
            "env.{FUNCTION}_PROJECT",
            "env.{FUNCTION}_OPENAI_PROJECT_ID",
        ),
        shared=("config.openai.project", "env.OPENAI_PROJECT_ID"),
        parse=values.header_text,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="headers",
        own=(
            "config.{function}.headers",
            "env.{FUNCTION}_HEADERS",
            "env.{FUNCTION}_CUSTOM_HEADERS",
            "env.{FUNCTION}_OPENAI_CUSTOM_HEADERS",
        ),
        shared=("config.openai.headers", "env.OPENAI_CUSTOM_HEADERS"),
        parse=values.headers,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="deadline_s",
        own=("config.{function}.deadline_s", "env.{FUNCTION}_DEADLINE_S"),
        default={"completion": 120.0, "embedding": 30.0},
        parse=values.seconds,
        reach=Reach.FUNCTION,
    ),
    Setting(
        name="max_attempts",
        own=("config.{function}.max_attempts", "env.{FUNCTION}_MAX_ATTEMPTS"),
        default=_each(_CALLS.max_attempts),
        parse=values.count,
        reach=Reach.FUNCTION,
        is_quiet=True,
    ),
    Setting(
        name="failover_after_send",
        own=("config.{function}.failover_after_send", "env.{FUNCTION}_FAILOVER_AFTER_SEND"),
        default=_each(_CALLS.after_send),
        parse=values.after_send,
        reach=Reach.FUNCTION,
        is_quiet=True,
    ),
    Setting(
        name="strategy",
        own=("config.{function}.strategy", "env.{FUNCTION}_STRATEGY"),
        default=_each(Strategy.P2C),
        parse=values.strategy,
        reach=Reach.FUNCTION,
        is_quiet=True,
    ),
    Setting(
        name="endpoints",
        own=("config.{function}.endpoints", "env.{FUNCTION}_ENDPOINTS"),
        parse=values.endpoint_names,
        reach=Reach.FUNCTION,
    ),
    Setting(
        name="weight",
        own=("config.{function}.weight", "env.{FUNCTION}_WEIGHT"),
        default=_each(1.0),
        parse=values.weight,
        is_quiet=True,
    ),
    Setting(
        name="tier",
        own=("config.{function}.tier", "env.{FUNCTION}_TIER"),
        default=_each(0),
        parse=values.tier,
        is_quiet=True,
    ),
    Setting(name="tags", own=("config.{function}.tags", "env.{FUNCTION}_TAGS"), parse=values.tags),
    Setting(name="price", own=("config.{function}.price", "env.{FUNCTION}_PRICE"), parse=values.price),
    Setting(
        name="budget",
        own=("config.{function}.budget", "env.{FUNCTION}_BUDGET"),
        parse=values.budgets,
        reach=Reach.APART,
    ),
    Setting(
        name="budget_ledger",
        own=("config.{function}.budget_ledger", "env.{FUNCTION}_BUDGET_LEDGER"),
        shared=("config.budget_ledger", "env.LLMWIRE_BUDGET_LEDGER"),
        parse=values.ledger,
        reach=Reach.FUNCTION,
        is_quiet=True,
        writers=Writers.NO_SOURCE,
    ),
    Setting(
        name="stream_usage",
        own=("config.{function}.stream_usage", "env.{FUNCTION}_STREAM_USAGE"),
        default=_each(True),
        parse=values.switch,
        only=("completion",),
        is_quiet=True,
    ),
    # At an endpoint a list of names, at a function a table of options: two settings, and one word of the operator's.
    Setting(
        name="pools",
        own=("config.{function}.pools", "env.{FUNCTION}_POOLS"),
        parse=values.pool_names,
        reach=Reach.ENDPOINT,
    ),
    Setting(name="pools", own=("config.{function}.pools",), parse=routes.pools, reach=Reach.FUNCTION),
    Setting(name="routes", own=("config.{function}.routes",), parse=routes.routes, reach=Reach.FUNCTION),
    Setting(
        name="routing",
        own=("config.{function}.routing", "env.{FUNCTION}_ROUTING"),
        default=_each(Mode.ON),
        parse=values.mode,
        reach=Reach.FUNCTION,
        is_quiet=True,
    ),
    Setting(
        name="tokenizer",
        own=("config.{function}.tokenizer", "env.{FUNCTION}_TOKENIZER"),
        default=_each("auto"),
        parse=values.tokenizer,
        reach=Reach.FUNCTION,
        is_quiet=True,
    ),
    Setting(
        name="routing_timeout_s",
        own=("config.{function}.routing_timeout_s", "env.{FUNCTION}_ROUTING_TIMEOUT_S"),
        default=_each(0.15),  #: a short text is embedded in less; a request that waits longer is better off without
        parse=values.seconds,
        only=("completion",),
        reach=Reach.FUNCTION,
        is_quiet=True,
    ),
    Setting(name="trust", own=("config.{function}.trust", "env.{FUNCTION}_TRUST"), parse=values.word),
    Setting(
        name="context_length",
        own=("config.{function}.context_length", "env.{FUNCTION}_CONTEXT_LENGTH"),
        parse=values.count,
    ),
    Setting(
        name="modalities",
        own=("config.{function}.modalities", "env.{FUNCTION}_MODALITIES"),
        parse=values.modalities,
        only=("completion",),
    ),
    Setting(
        name="tools",
        own=("config.{function}.tools", "env.{FUNCTION}_TOOLS"),
        parse=values.switch,
        only=("completion",),
    ),
    Setting(
        name="structured_output",
        own=("config.{function}.structured_output", "env.{FUNCTION}_STRUCTURED_OUTPUT"),
        parse=values.switch,
        only=("completion",),
    ),
    Setting(name="space", own=("config.{function}.space", "env.{FUNCTION}_SPACE"), only=("embedding",)),
    Setting(name="revision", own=("config.{function}.revision", "env.{FUNCTION}_REVISION"), only=("embedding",)),
    Setting(
        name="canary",
        own=("config.{function}.canary", "env.{FUNCTION}_CANARY"),
        default=_each(True),
        parse=values.switch,
        only=("embedding",),
        reach=Reach.FUNCTION,
        is_quiet=True,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="hedge",
        own=("config.{function}.hedge", "env.{FUNCTION}_HEDGE"),
        default=_each(0.0),
        parse=values.share,
        only=("embedding",),
        reach=Reach.FUNCTION,
        is_quiet=True,
    ),
    Setting(
        name="connect_timeout_s",
        own=("config.{function}.connect_timeout_s", "env.{FUNCTION}_CONNECT_TIMEOUT_S"),
        default=_each(_TIMEOUTS.connect_s),
        parse=values.seconds,
        is_quiet=True,
    ),
    Setting(
        name="first_byte_timeout_s",
        own=("config.{function}.first_byte_timeout_s", "env.{FUNCTION}_FIRST_BYTE_TIMEOUT_S"),
        parse=values.seconds,  # by default resolution.py lets it follow the deadline
    ),
    Setting(
        name="chunk_timeout_s",
        own=("config.{function}.chunk_timeout_s", "env.{FUNCTION}_CHUNK_TIMEOUT_S"),
        default=_each(_TIMEOUTS.chunk_s),
        parse=values.seconds,
        is_quiet=True,
    ),
    Setting(name="api_path", own=("config.{function}.api_path", "env.{FUNCTION}_API_PATH"), parse=values.path),
    Setting(name="dialect", own=("config.{function}.dialect", "env.{FUNCTION}_DIALECT"), parse=values.dialect),
    Setting(
        name="dimensions",
        own=("config.{function}.dimensions", "env.{FUNCTION}_DIMENSIONS"),
        parse=values.count,
        only=("embedding",),
        reach=Reach.FUNCTION,
    ),
    Setting(
        name="azure_endpoint",
        own=("config.{function}.azure.endpoint", "env.{FUNCTION}_AZURE_OPENAI_ENDPOINT"),
        shared=("config.azure.endpoint", "env.AZURE_OPENAI_ENDPOINT"),
    ),
    Setting(
        name="azure_api_key",
        own=(
            "config.{function}.azure.api_key",
            "env.{FUNCTION}_AZURE_OPENAI_API_KEY",
            "env.{FUNCTION}_AZURE_OPENAI_KEY",
            "config.{function}.api_key",
            "env.{FUNCTION}_API_KEY",
        ),
        shared=("config.azure.api_key", "env.AZURE_OPENAI_API_KEY", "env.AZURE_OPENAI_KEY"),
        parse=values.key,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="azure_api_version",
        own=(
            "config.{function}.azure.api_version",
            "env.{FUNCTION}_AZURE_OPENAI_API_VERSION",
            "env.{FUNCTION}_OPENAI_API_VERSION",
        ),
        shared=("config.azure.api_version", "env.AZURE_OPENAI_API_VERSION", "env.OPENAI_API_VERSION"),
        default=_each("2024-10-21"),  #: the newest version that Azure calls generally available
    ),
    Setting(
        name="azure_deployment",
        own=("config.{function}.azure.deployment", "env.{FUNCTION}_AZURE_OPENAI_DEPLOYMENT"),
    ),
    Setting(
        name="azure_ad_token",
        own=("config.{function}.azure.ad_token", "env.{FUNCTION}_AZURE_OPENAI_AD_TOKEN"),
        shared=("config.azure.ad_token", "env.AZURE_OPENAI_AD_TOKEN"),
        parse=values.key,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="azure_keyless",
        own=("config.{function}.azure.keyless", "env.{FUNCTION}_AZURE_OPENAI_KEYLESS"),
        shared=("config.azure.keyless", "env.AZURE_OPENAI_KEYLESS"),
        default=_each(False),
        parse=values.switch,
        writers=Writers.LOCAL_SOURCE,
    ),
    Setting(
        name="key_fallback",
        own=("config.key_fallback", "env.LLMWIRE_KEY_FALLBACK"),
        default=_each("warn"),
        parse=values.key_fallback,
        reach=Reach.FUNCTION,
        writers=Writers.NO_SOURCE,
    ),
    Setting(
        name="source",
        own=("config.{function}.source", "env.{FUNCTION}_SOURCE"),
        shared=("config.source", "env.LLMWIRE_SOURCE"),
        parse=sources.sources,
        reach=Reach.FUNCTION,
        writers=Writers.NO_SOURCE,
    ),
    Setting(
        name="startup",
        own=("config.{function}.startup", "env.{FUNCTION}_STARTUP"),
        shared=("config.startup", "env.LLMWIRE_STARTUP"),
        default=_each(values.Startup.STATIC),
        parse=values.startup,
        reach=Reach.FUNCTION,
        is_quiet=True,
        writers=Writers.NO_SOURCE,
    ),
    Setting(
        name="source_cache",
        own=("config.source_cache", "env.LLMWIRE_SOURCE_CACHE"),
        reach=Reach.FUNCTION,
        is_quiet=True,
        writers=Writers.NO_SOURCE,
    ),
)


#: who may write what stands at a path below the table of its function or endpoint, or from the root
WRITERS: Final = {
    place.removeprefix("config.").removeprefix("{function}."): setting.writers
    for setting in SETTINGS
    for place in (*setting.own, *setting.shared)
    if place.startswith("config.")
}


def chains(
    function: str, config: providers.Configuration, env: Environment, documents: Documents | None = None
) -> dict[str, FirstOf[Any]]:
    """The fallback chain of every setting that a function has, by the setting's name."""
    settings = [each for each in SETTINGS if function in each.only and each.reach is not Reach.ENDPOINT]
    return {setting.name: setting.chain(function, config, env, documents) for setting in settings}
