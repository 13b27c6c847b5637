"""The endpoints of a function: what they are called, and the chain of each of their settings.

Knows names and places; knows nothing of servers and keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from dependency_injector import providers

from llmwire.services.errors import ConfigError
from llmwire.services.events import ConfigWarned

from .configuration import Environment, FirstOf, Found, Place
from .settings import SETTINGS, Reach, Setting
from .values import variable_part

Chains = Mapping[str, FirstOf[Any]]

DEFAULT_NAME: Final = "default"  #: the one endpoint of a function that names none: it inherits everything

RESERVED: Final = {
    DEFAULT_NAME: "that is the endpoint of a function which names none",
    "pools": "the word is kept for a table",
    "routes": "the word is kept for a table",
}


class Findings(dict[str, Found]):
    """What the chains find, looked up when it plays a part: a broken Azure key must not stop an OpenAI server."""

    def __init__(self, chains: Chains) -> None:
        self._chains = chains

    def __missing__(self, name: str) -> Found:
        self[name] = self._chains[name].found()
        return self[name]

    def blanks(self) -> Iterator[str]:
        """What to note of places that are set, but blank."""
        for found in self.values():
            yield from (f"{held.key}: {held.origin} is blank, and so unset" for held in found.blank)


class ConfiguredEndpoint:
    """One endpoint as it is configured. Gathers what is to be said of it.

    Attributes:
        name: unique in its function, in lower case.
        prefix: how its variables begin, as in `COMPLETION_BACKUP_`.
        chains: of every setting that an endpoint has.
        found: what these find.
    """

    def __init__(self, function: str, name: str, prefix: str, chains: Chains) -> None:
        self.function, self.name, self.prefix, self.chains = function, name, prefix, chains
        self.found = Findings(chains)
        self.warnings: list[ConfigWarned] = []
        self.notes: list[str] = []

    @property
    def is_named(self) -> bool:
        """Whether the operator named it; else it is the function's only one."""
        return self.name != DEFAULT_NAME

    def warn(self, setting: str, message: str) -> None:
        found = self.found[setting]
        warning = ConfigWarned(function=self.function, key=self.key(setting), origin=found.origin, message=message)
        self.warnings.append(warning)

    def note(self, setting: str, message: str) -> None:
        self.notes.append(f"{self.key(setting)}: {message}")

    def error(self, setting: str, problem: str, remedy: str, origin: str | None = None) -> ConfigError:
        return ConfigError(problem, key=self.key(setting), origin=origin, remedy=remedy)

    def key(self, setting: str) -> str:
        """What the setting is called in messages."""
        return self.chains[setting].key

    def to_set(self, own: str, shared: str | None = None) -> str:
        """The sentence that names what to set: the endpoint's variable, or one that serves more than it."""
        ways = [f"{self.prefix}{own}"]
        if self.is_named:
            ways.append(f"{self.function.upper()}_{own} for every endpoint of {self.function}")
        if shared:
            ways.append(f"{shared} for both functions")
        *first, last = ways
        return f"Set {', '.join(first)}, or {last}." if first else f"Set {last}."


def endpoints_of(
    function: str, chains: Chains, config: providers.Configuration, env: Environment
) -> tuple[ConfiguredEndpoint, ...]:
    """The endpoints of a function in their order: those that it names, or the one called `default`.

    Raises:
        ConfigError: a name is impossible, or collides with a setting or with another name.
    """
    settings = [setting for setting in SETTINGS if function in setting.only and setting.reach is not Reach.FUNCTION]
    names = chains["endpoints"].found()
    if not names.value:
        return (_default(function, settings, chains),)
    endpoints = tuple(_named(function, written, settings, chains, config, env) for written in names.value)
    _check_names(function, chains, endpoints, names.origin)
    return endpoints


def _default(function: str, settings: Iterable[Setting], chains: Chains) -> ConfiguredEndpoint:
    inherited: dict[str, FirstOf[Any]] = {
        setting.name: chains[setting.name] if setting.reach is Reach.INHERITED else FirstOf() for setting in settings
    }
    return ConfiguredEndpoint(function, DEFAULT_NAME, f"{function.upper()}_", inherited)


def _named(
    function: str,
    written: str,
    settings: Iterable[Setting],
    chains: Chains,
    config: providers.Configuration,
    env: Environment,
) -> ConfiguredEndpoint:
    own = {
        setting.name: setting.chain_at(
            function,
            written,
            inherited=chains.get(setting.name),
            config=config,
            env=env,
            documents=chains["endpoints"].documents,
        )
        for setting in settings
    }
    return ConfiguredEndpoint(function, written.lower(), f"{function.upper()}_{variable_part(written)}_", own)


def collision(prefix: str, chains: Chains) -> str | None:
    """The variable of a function's own setting that begins with an endpoint's prefix, or is all of it."""
    for variable in variables_of(place for chain in chains.values() for place in chain.places):
        if f"{variable}_".startswith(prefix):
            return variable
    return None


def variables_of(places: Iterable[Place]) -> Iterator[str]:
    """The environment variables among the places."""
    return (place.variable for place in places if place.variable is not None)


def _check_names(function: str, chains: Chains, endpoints: Iterable[ConfiguredEndpoint], origin: str) -> None:
    taken: dict[str, str] = {}
    for endpoint in endpoints:
        if reason := RESERVED.get(endpoint.name):
            raise _refused(function, f"{endpoint.name} cannot be an endpoint's name: {reason}", origin)
        if variable := collision(endpoint.prefix, chains):
            problem = (
                f"{endpoint.name} cannot be an endpoint's name: {variable}, a setting of {function}, begins with it"
            )
            raise _refused(function, problem, origin)
        for variable in variables_of(place for chain in endpoint.chains.values() for place in chain.own):
            if (other := taken.setdefault(variable, endpoint.name)) != endpoint.name:
                problem = f"{other} and {endpoint.name} cannot both be endpoints: {variable} would be of either"
                raise _refused(function, problem, origin)


def _refused(function: str, problem: str, origin: str) -> ConfigError:
    remedy = "Choose another name, in its variables too."
    return ConfigError(problem, key=f"{function}.endpoints", origin=origin, remedy=remedy)
