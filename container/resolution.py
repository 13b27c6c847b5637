"""From the chains of one function to its endpoint: which server, which dialect, whose key goes there.

Knows the rules of fallback between settings; knows nothing of clients or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dependency_injector import providers

from llmwire.services.errors import ConfigError
from llmwire.services.events import ConfigWarned
from llmwire.services.routing.endpoint import Credential, Dialect, Endpoint, TokenSource, server_of

from .address import Address, UnusableURL, azure_address, is_loopback, openai_address
from .configuration import FirstOf, Found, Level
from .settings import DEFAULT_BASE_URL, NO_KEY
from .spelling import check_spelling

Chains = Mapping[str, FirstOf[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings:
    """All that is settled about one function.

    Attributes:
        model: what the services ask for where the caller names none.
        dimensions: of an embedding, or None where only the server knows.
        warnings: what works, but probably not as meant.
        notes: what was done to make the settings fit, for `explain`.
    """

    function: str
    endpoint: Endpoint
    model: str
    dimensions: int | None
    warnings: tuple[ConfigWarned, ...]
    notes: tuple[str, ...]


def resolve(
    function: str,
    *,
    chains: Chains,
    config: providers.Configuration,
    env: providers.Configuration,
    token_source: Callable[[], TokenSource],
) -> FunctionSettings:
    """Settle one function from its chains.

    Raises:
        ConfigError: a setting is misspelt, impossible or missing; settings of the other functions play no part.
    """
    remarks = check_spelling(function, chains.values(), config, env)
    return _Resolution(function, chains, token_source).result(remarks)


class _ByNeed(dict[str, Found]):
    """What the chains find, looked up when it plays a part: a broken Azure key must not stop an OpenAI server."""

    def __init__(self, chains: Chains) -> None:
        self._chains = chains

    def __missing__(self, name: str) -> Found:
        self[name] = self._chains[name].found()
        return self[name]


class _Resolution:
    """One pass over what was found, which gathers warnings on its way."""

    def __init__(self, function: str, chains: Chains, token_source: Callable[[], TokenSource]) -> None:
        self._function, self._chains, self._token_source = function, chains, token_source
        self._found = _ByNeed(chains)
        self._warnings: list[ConfigWarned] = []
        self._notes: list[str] = []

    def result(self, remarks: tuple[str, ...]) -> FunctionSettings:
        for remark in remarks:
            self._warnings.append(
                ConfigWarned(function=self._function, key="environment", origin="env", message=remark)
            )
        dialect, named_by = self._server()
        address = self._address(dialect, named_by)
        server = server_of(address.base_url)
        found = self._found
        endpoint = Endpoint(
            function=self._function,
            name="default",
            base_url=address.base_url,
            dialect=dialect,
            credential=self._credential(dialect, named_by, server),
            headers=self._headers(dialect, named_by, server),
            deadline_s=found["deadline_s"].value,
            api_version=found["azure_api_version"].value if dialect is Dialect.AZURE else None,
            deployment=found["azure_deployment"].value if dialect is Dialect.AZURE else None,
        )
        self._mind_model(named_by, endpoint)
        self._mind_blanks()
        self._mind_clear_text(endpoint)
        return FunctionSettings(
            function=self._function,
            endpoint=endpoint,
            model=found["model"].value,
            dimensions=found["dimensions"].value if "dimensions" in self._chains else None,
            warnings=tuple(self._warnings),
            notes=tuple(self._notes),
        )

    def _server(self) -> tuple[Dialect, str]:
        """The dialect, and the setting that names the server: the more specific one decides."""
        base, azure, wanted = self._found["base_url"], self._found["azure_endpoint"], self._found["dialect"].value
        if wanted is Dialect.OPENAI:
            return Dialect.OPENAI, "base_url"
        if wanted is Dialect.AZURE:
            if azure.level is Level.UNSET and base.level is Level.DEFAULT:
                raise self._error(
                    "azure_endpoint", "is not set, but the dialect is azure", self._set("AZURE_OPENAI_ENDPOINT")
                )
            return Dialect.AZURE, "azure_endpoint" if azure.level <= base.level else "base_url"
        if base.level is Level.OWN and azure.level is Level.OWN:
            remedy = f"Keep one of {base.origin} and {azure.origin}, or set {self._function.upper()}_DIALECT."
            raise self._error("dialect", "is open: both an OpenAI and an Azure server are named", remedy)
        if azure.level < base.level:
            return Dialect.AZURE, "azure_endpoint"
        if azure.level is Level.SHARED and base.level is Level.SHARED:
            self._warn("base_url", f"{azure.origin} names a server too; {base.origin} is used")
        return Dialect.OPENAI, "base_url"

    def _address(self, dialect: Dialect, named_by: str) -> Address:
        found = self._found[named_by]
        read = azure_address if dialect is Dialect.AZURE else openai_address
        try:
            address = read(found.value, self._found["api_path"].value)
        except UnusableURL as error:
            raise self._error(named_by, error.problem, error.remedy, found.origin) from None
        for note in address.notes:
            self._notes.append(f"{self._key(named_by)}: {note}")
            if "cut off" in note:
                self._warn(named_by, note)
        if named_by == "base_url":
            self._mind_legacy_name(found)
        return address

    def _credential(self, dialect: Dialect, named_by: str, server: str) -> Credential:
        if dialect is Dialect.AZURE:
            return self._azure_credential(named_by, server)
        key = self._found["api_key"]
        if key.value == NO_KEY:
            return None
        if key.value is None:
            if server == server_of(DEFAULT_BASE_URL):
                raise self._error("api_key", "is not set", self._set("API_KEY", "OPENAI_API_KEY"))
            return None
        self._mind_key_travels("api_key", named_by, server)
        return key.value  # type: ignore[no-any-return]  # the key parser gives a Secret

    def _azure_credential(self, named_by: str, server: str) -> Credential:
        # The level decides before the kind: a function's own keyless beats a key that all functions share.
        offers = [
            (self._found[name].level, rank, name)
            for rank, name in enumerate(("azure_ad_token", "azure_api_key", "azure_keyless"))
            if self._found[name].value not in (None, False)
        ]
        if not offers:
            raise self._error(
                "azure_api_key",
                "is not set, nor is azure.ad_token or azure.keyless",
                self._set("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_API_KEY"),
            )
        name = min(offers)[2]
        if name == "azure_keyless":
            return self._token_source()
        if self._found[name].value == NO_KEY:
            return None
        self._mind_key_travels(name, named_by, server)
        value = self._found[name].value
        return _Fixed(value) if name == "azure_ad_token" else value

    def _headers(self, dialect: Dialect, named_by: str, server: str) -> tuple[tuple[str, str], ...]:
        pairs = []
        if dialect is Dialect.OPENAI:
            for name, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
                if self._goes_along(name, named_by, server):
                    pairs.append((header, self._found[name].value))
        if self._goes_along("headers", named_by, server):
            pairs.extend(self._found["headers"].value)
        return tuple(pairs)

    def _goes_along(self, name: str, named_by: str, server: str) -> bool:
        found = self._found[name]
        if found.value is None:
            return False
        if found.level is Level.SHARED and server != self._shared_server(named_by):
            self._notes.append(f"{self._key(name)}: {found.origin} is not sent: it was given for another host")
            return False
        return True

    def _mind_key_travels(self, name: str, named_by: str, server: str) -> None:
        key = self._found[name]
        # Behind a gateway base_url names Azure's server too: an Azure key is at home there and at Azure's endpoint.
        home = "azure_endpoint" if name.startswith("azure_") else "base_url"
        homes = {self._shared_server(named_by), self._shared_server(home)}
        if key.level is not Level.SHARED or server in homes:
            return
        problem = f"the shared key {key.origin} goes to {server}, another host than the one it was given with"
        if self._found["key_fallback"].value == "same-host":
            own = name.upper().replace("AZURE_", "AZURE_OPENAI_")
            remedy = f"{self._set(own)} `none` sends no key."
            raise self._error(name, f"{problem}, which key_fallback = same-host forbids", remedy, key.origin)
        self._warn(name, problem, key.origin)

    def _shared_server(self, named_by: str) -> str | None:
        """The server that the shared settings name, which shared keys and headers were given with."""
        found = self._found[named_by]
        shared = [held.raw for held in found.shadowed if held.level is Level.SHARED]
        if found.level is Level.SHARED:
            shared = [found.value]
        if not shared:
            return server_of(DEFAULT_BASE_URL) if named_by == "base_url" else None
        try:
            return server_of(openai_address(str(shared[0]).strip()).base_url)
        except UnusableURL:
            return None

    def _mind_legacy_name(self, found: Found) -> None:
        for held in found.shadowed:
            is_legacy = held.level is found.level and "OPENAI_API_BASE" in held.origin
            if is_legacy and str(held.raw).strip() != found.value:
                self._warn("base_url", f"{held.origin}, the old name, differs from {found.origin}, which is used")

    def _mind_model(self, named_by: str, endpoint: Endpoint) -> None:
        found = self._found["model"]
        if (
            endpoint.deployment is None
            and found.level is Level.DEFAULT
            and self._found[named_by].level is not Level.DEFAULT
        ):
            message = f"is not set: the services ask for {found.value}, which this server may not know."
            self._notes.append(f"{self._key('model')}: {message} {self._set('MODEL')}")

    def _mind_blanks(self) -> None:
        for name, found in self._found.items():
            self._notes.extend(f"{self._key(name)}: {origin} is blank, and so unset" for origin in found.blank)

    def _mind_clear_text(self, endpoint: Endpoint) -> None:
        is_clear = endpoint.server.startswith("http://") and not is_loopback(endpoint.server)
        if is_clear and endpoint.credential is not None:
            self._warn("base_url", f"the key travels to {endpoint.server} unencrypted; use https")

    def _warn(self, name: str, message: str, origin: str | None = None) -> None:
        event = ConfigWarned(
            function=self._function, key=self._key(name), origin=origin or self._found[name].origin, message=message
        )
        self._warnings.append(event)

    def _error(self, name: str, problem: str, remedy: str, origin: str | None = None) -> ConfigError:
        return ConfigError(problem, key=self._key(name), origin=origin, remedy=remedy)

    def _key(self, name: str) -> str:
        return self._chains[name].key

    def _set(self, own: str, shared: str | None = None) -> str:
        common = f", or {shared} for both functions" if shared else ""
        return f"Set {self._function.upper()}_{own}{common}."


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A token that somebody else renews."""

    secret: Any

    def token(self, *, refused: Any = None) -> Any:  # noqa: ARG002
        return self.secret
