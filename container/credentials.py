"""Keys that have a name: each is declared here, with the hosts that it may go to, and used by its name elsewhere.

So a document that others may write can say which key an endpoint has, and never learn it, nor send it to a host that
it was not meant for. Knows names, keys and hosts; knows nothing of endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from dependency_injector import providers

from llmwire.services.errors import ConfigError
from llmwire.services.secrets import Secret

from . import hosts, values
from .configuration import Environment, FirstOf, Unfit, option, tree

TABLE: Final = "credentials"
PREFIX: Final = "LLMWIRE_CREDENTIAL_"
PARTS: Final = ("api_key", "hosts")


class Credentials:
    """Those that are declared in code, a configuration file or the environment; never in the document of a source."""

    def __init__(self, config: providers.Configuration, env: Environment) -> None:
        self._config, self._env = config, env

    def key_for(self, name: str, server: str) -> Secret | None:
        """The key of that name, for a server; None where it is declared as `none`.

        Args:
            server: scheme, host and port.
        Raises:
            Unfit: it is not declared, or may not go there.
            ConfigError: its declaration cannot be used.
        """
        table, prefix = f"{TABLE}.{self._as_written(name)}", f"{PREFIX}{values.variable_part(name)}_"
        key = self._chain(f"{table}.api_key", f"{prefix}API_KEY", values.key).found()
        allowed = self._chain(f"{table}.hosts", f"{prefix}HOSTS", hosts.Hosts.parse).found()
        if key.value is None:
            known = ", ".join(self.declared()) or "there are none"
            remedy = f"Declare it here, not in the source: {prefix}API_KEY and {prefix}HOSTS, or [{table}]."
            raise Unfit(f"names {name}, which is none of the credentials of this program ({known})", remedy)
        if allowed.value is None:
            remedy = f"Set {prefix}HOSTS, or hosts in [{table}], as in https://api.vendor.com."
            raise ConfigError("names no host that it may go to", key=table, origin=key.origin, remedy=remedy)
        if not allowed.value.allows(server):
            remedy = f"Correct the server, or add it to {allowed.origin}."
            raise Unfit(f"names {name}, a key that may not go to {server}", remedy)
        return None if key.value == values.NO_KEY else key.value

    def declared(self) -> list[str]:
        """Their names."""
        names = self._tables()
        names += (
            variable.removeprefix(PREFIX).removesuffix("_API_KEY").lower()
            for variable in sorted(tree(self._env))
            if variable.startswith(PREFIX) and variable.endswith("_API_KEY")
        )
        return list(dict.fromkeys(names))

    def paths(self) -> Iterator[str]:
        """What is read of the configuration."""
        for name in self._tables():
            yield from (f"{TABLE}.{name}.{part}" for part in PARTS)

    def _tables(self) -> list[str]:
        table = tree(self._config).get(TABLE)
        return [str(name) for name in table] if isinstance(table, Mapping) else []

    def _as_written(self, name: str) -> str:
        """As the name of its table is written: it counts in any case, as a variable's does."""
        return next((written for written in self._tables() if written.lower() == name), name)

    def _chain(self, path: str, variable: str, parse: Any) -> FirstOf[Any]:
        places = (option(self._config, self._env, place) for place in (f"config.{path}", f"env.{variable}"))
        return FirstOf(*places, key=path, parse=parse)
