"""What goes along to an endpoint's server: a key or token, organisation, project, headers.

Knows which host each was given with; knows nothing of how it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from llmwire.services.routing.endpoint import Credential, Dialect, TokenSource, server_of

from .address import UnusableURL, is_loopback, openai_address
from .configuration import Found, Level, Unfit
from .credentials import Credentials
from .endpoints import ConfiguredEndpoint
from .server import Server
from .settings import DEFAULT_BASE_URL
from .values import NO_KEY


class _Standing(Enum):
    """How a value and a server are related."""

    AT_HOME = "it was given with this server, or for it"
    UNBOUND = "the function gave it without any server; it has several"
    FOREIGN = "it was given with another server"


class Belongings:
    """What one endpoint sends of its own.

    Args:
        hosts: of the endpoints of the function, but those that a remote document names.
        same_host: a key may go only to the host that it was given with; else it goes, and that is a warning.
        token_source: asked where Azure is used without a key.
        credentials: the keys that have a name.
    """

    def __init__(
        self,
        endpoint: ConfiguredEndpoint,
        server: Server,
        *,
        hosts: Collection[str],
        same_host: Callable[[], bool],
        token_source: Callable[[], TokenSource],
        credentials: Credentials,
    ) -> None:
        self._endpoint, self._server, self._hosts = endpoint, server, hosts
        self._same_host, self._token_source, self._credentials = same_host, token_source, credentials

    def credential(self) -> Credential:
        """Raises ConfigError where one is needed and missing, or may not go to this server."""
        found = self._credential()
        if found is not None and self._server.host.startswith("http://") and not is_loopback(self._server.host):
            self._endpoint.warn("base_url", f"the key travels to {self._server.host} unencrypted; use https")
        return found

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Names and values. What was given with another host stays behind, which is a note."""
        found, pairs = self._endpoint.found, []
        if self._server.is_remote:
            for name in ("organization", "project", "headers"):
                if found[name].value:
                    self._endpoint.note(name, f"{found[name].origin} is not sent: a remote document names the server")
            return ()
        if self._server.dialect is Dialect.OPENAI:
            for name, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
                if self._goes_along(name):
                    pairs.append((header, found[name].value))
        if self._goes_along("headers"):
            pairs.extend(found["headers"].value)
        return tuple(pairs)

    def _credential(self) -> Credential:
        is_azure = self._server.dialect is Dialect.AZURE
        keys = ("azure_ad_token", "azure_api_key", "azure_keyless") if is_azure else ("api_key",)
        by_name = self._endpoint.found["credential"]
        has_nearer = any(self._endpoint.found[name].level < by_name.level for name in keys)
        if by_name.value is not None and (self._server.is_remote or not has_nearer):
            return self._named(by_name)
        if self._server.is_remote:
            self._mind_no_key(keys)
            return None
        return self._azure_credential() if is_azure else self._key("api_key")

    def _named(self, by_name: Found) -> Credential:
        try:
            return self._credentials.key_for(by_name.value, self._server.host)
        except Unfit as error:
            raise self._endpoint.error("credential", error.problem, error.remedy, by_name.origin) from None

    def _mind_no_key(self, keys: Iterable[str]) -> None:
        """A key of these settings was not given for a server that others may name."""
        origin = self._endpoint.found[self._server.named_by].origin
        remedy = "Name a `credential` in the document, which is declared here with the hosts that it may go to."
        if self._server.dialect is Dialect.AZURE or self._server.host == server_of(DEFAULT_BASE_URL):
            problem = f"is not set, and {self._server.host}, which a remote document names, asks for a key"
            raise self._endpoint.error("credential", problem, remedy, origin)
        for name in keys:
            if self._endpoint.found[name].value not in (None, False, NO_KEY):
                held = self._endpoint.found[name].origin
                self._endpoint.note(name, f"{held} is not sent: a remote document names the server. {remedy}")

    def _key(self, name: str) -> Credential:
        value = self._endpoint.found[name].value
        if value is None and self._server.host == server_of(DEFAULT_BASE_URL):
            raise self._endpoint.error(name, "is not set", self._endpoint.to_set("API_KEY", "OPENAI_API_KEY"))
        if value is None or value == NO_KEY:
            return None
        self._mind_key_travels(name)
        return value  # type: ignore[no-any-return]  # the parser of keys gives a Secret

    def _azure_credential(self) -> Credential:
        # The level decides before the kind: a function's own keyless beats a key that all functions share.
        found = self._endpoint.found
        offers = [
            (found[name].level, rank, name)
            for rank, name in enumerate(("azure_ad_token", "azure_api_key", "azure_keyless"))
            if found[name].value not in (None, False)
        ]
        if not offers:
            problem = "is not set, nor is azure.ad_token or azure.keyless"
            remedy = self._endpoint.to_set("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_API_KEY")
            raise self._endpoint.error("azure_api_key", problem, remedy)
        name = min(offers)[2]
        if name == "azure_keyless":
            return self._token_source()
        key = self._key(name)
        return _Fixed(key) if name == "azure_ad_token" and key is not None else key

    def _goes_along(self, name: str) -> bool:
        found = self._endpoint.found[name]
        if found.value is None:
            return False
        standing = self._standing(name)
        if standing is _Standing.FOREIGN:
            self._endpoint.note(name, f"{found.origin} is not sent: it was given for another host")
            return False
        if standing is _Standing.UNBOUND and self._same_host():
            self._endpoint.note(name, f"{found.origin} is not sent: it was given without a host, and there are several")
            return False
        return True

    def _mind_key_travels(self, name: str) -> None:
        standing = self._standing(name)
        if standing is _Standing.AT_HOME:
            return
        found, host = self._endpoint.found[name], self._server.host
        whose = "shared" if found.level is Level.SHARED else "function's"
        given = {
            _Standing.UNBOUND: "one of several hosts; it was given with none",
            _Standing.FOREIGN: "another host than the one it was given with",
        }[standing]
        problem = f"the {whose} key {found.origin} goes to {host}, {given}"
        if self._same_host():
            own = self._endpoint.prefix + name.upper().replace("AZURE_", "AZURE_OPENAI_")
            problem = f"{problem}, which key_fallback = same-host forbids"
            raise self._endpoint.error(name, problem, f"Set {own}. `none` sends no key.", found.origin)
        if standing is _Standing.UNBOUND:  # plainly meant for these endpoints
            self._endpoint.note(name, problem)
        else:
            self._endpoint.warn(name, problem)

    def _standing(self, name: str) -> _Standing:
        level = self._endpoint.found[name].level
        # What is given as near as the server, or nearer, was given for it.
        if level <= self._server.level or self._server.host in self._homes(name, level):
            return _Standing.AT_HOME
        if level is Level.OWN and not self._function_names_server():
            return _Standing.AT_HOME if len(self._hosts) == 1 else _Standing.UNBOUND
        return _Standing.FOREIGN

    def _homes(self, name: str, level: Level) -> set[str | None]:
        """The hosts that the level's values are at home at: its own server's, or that of what it falls back to.

        What a remote document names is nobody's home.
        """
        if level is Level.OWN and not self._function_names_server():
            level = Level.SHARED
        # Behind a gateway base_url names Azure's server too: an Azure key is at home there and at Azure's endpoint.
        home = "azure_endpoint" if name.startswith("azure_") else "base_url"
        return {self._host_at(level, setting) for setting in (self._server.named_by, home)}

    def _function_names_server(self) -> bool:
        return any(self._urls_at(Level.OWN, setting) for setting in ("base_url", "azure_endpoint"))

    def _host_at(self, level: Level, setting: str) -> str | None:
        """The host that the setting names at exactly this level; shared settings stand beside the default server."""
        urls = self._urls_at(level, setting)
        if not urls:
            return server_of(DEFAULT_BASE_URL) if setting == "base_url" and level is Level.SHARED else None
        try:
            return server_of(openai_address(urls[0]).base_url)
        except UnusableURL:
            return None

    def _urls_at(self, level: Level, setting: str) -> list[str]:
        found = self._endpoint.found[setting]
        held = [(found.level, found.is_remote, found.value)]
        held += [(each.level, each.is_remote, each.raw) for each in found.shadowed]
        return [str(url).strip() for its, is_remote, url in held if its is level and not is_remote]


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A token that somebody else renews."""

    secret: Any

    def token(self, *, refused: Any = None) -> Any:  # noqa: ARG002
        return self.secret
