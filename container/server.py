"""Which server an endpoint has, and how that is spoken to. Knows the rules between settings; knows nothing of keys."""

from __future__ import annotations

from dataclasses import dataclass

from llmwire.services.routing.endpoint import Dialect, server_of

from .address import Address, UnusableURL, azure_address, openai_address
from .configuration import Level
from .endpoints import ConfiguredEndpoint
from .hosts import forbidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where an endpoint's requests go.

    Attributes:
        named_by: the setting that names it, `base_url` or `azure_endpoint`.
        level: how near to the endpoint it was named.
        is_remote: a document names it that others may write: no key goes there but one that is declared for it.
    """

    base_url: str
    dialect: Dialect
    named_by: str
    level: Level
    is_remote: bool = False

    @property
    def host(self) -> str:
        """Scheme, host and port: what keys are bound to."""
        return server_of(self.base_url)


def server_for(endpoint: ConfiguredEndpoint) -> Server:
    """The server of an endpoint: the most specific level that names one also decides the dialect.

    Raises:
        ConfigError: none is named, two are on one level, or the URL cannot be used.
    """
    dialect, named_by = _named(endpoint)
    level = endpoint.found[named_by].level
    if endpoint.is_named and level >= Level.DEFAULT:
        raise endpoint.error("base_url", f"is not set: {endpoint.name} names no server", endpoint.to_set("BASE_URL"))
    is_remote = endpoint.found[named_by].is_remote
    if not is_remote:
        _check_untouched(endpoint)
    address = _address(endpoint, dialect, named_by)
    if is_remote and (reason := forbidden(address.base_url)):
        remedy = "Name another server: a document that others may write cannot lead there."
        raise endpoint.error(named_by, reason, remedy, endpoint.found[named_by].origin)
    return Server(base_url=address.base_url, dialect=dialect, named_by=named_by, level=level, is_remote=is_remote)


def _check_untouched(endpoint: ConfiguredEndpoint) -> None:
    """A server that these settings name, perhaps with a key, is spoken to as they say: at another path or in another
    dialect the key would go to somebody else.
    """
    for name in ("dialect", "api_path"):
        if endpoint.found[name].is_remote:
            problem = "is said by a remote document of a server that the settings of this program name"
            remedy = "Have the document name the server too, with a `credential` where it asks for a key."
            raise endpoint.error(name, problem, remedy, endpoint.found[name].origin)


def _named(endpoint: ConfiguredEndpoint) -> tuple[Dialect, str]:
    """The dialect, and the setting that names the server."""
    base, azure, wanted = (endpoint.found[name] for name in ("base_url", "azure_endpoint", "dialect"))
    # An Azure server that is named nearer than this word of its function is no OpenAI server.
    if wanted.value is Dialect.OPENAI and min(base.level, wanted.level) <= azure.level:
        return Dialect.OPENAI, "base_url"
    if wanted.value is Dialect.AZURE:
        if azure.level is Level.UNSET and base.level is Level.DEFAULT:
            remedy = endpoint.to_set("AZURE_OPENAI_ENDPOINT")
            raise endpoint.error("azure_endpoint", "is not set, but the dialect is azure", remedy)
        return Dialect.AZURE, "azure_endpoint" if azure.level <= base.level else "base_url"
    if base.level is azure.level and base.level < Level.SHARED:
        remedy = f"Keep one of {base.origin} and {azure.origin}, or set {endpoint.prefix}DIALECT."
        raise endpoint.error("dialect", "is open: both an OpenAI and an Azure server are named", remedy)
    if azure.level < base.level:
        return Dialect.AZURE, "azure_endpoint"
    if azure.level is base.level:
        endpoint.warn("base_url", f"{azure.origin} names a server too; {base.origin} is used")
    return Dialect.OPENAI, "base_url"


def _address(endpoint: ConfiguredEndpoint, dialect: Dialect, named_by: str) -> Address:
    found = endpoint.found[named_by]
    read = azure_address if dialect is Dialect.AZURE else openai_address
    try:
        address = read(found.value, endpoint.found["api_path"].value)
    except UnusableURL as error:
        remedy = error.remedy
        if found.is_remote and "api_key" in remedy:
            remedy = "Remove it, and name the key as a `credential`."
        raise endpoint.error(named_by, error.problem, remedy, found.origin) from None
    for note in address.notes:
        endpoint.note(named_by, note)
        if "cut off" in note:
            endpoint.warn(named_by, note)
    if named_by == "base_url":
        _mind_legacy_name(endpoint)
    return address


def _mind_legacy_name(endpoint: ConfiguredEndpoint) -> None:
    found = endpoint.found["base_url"]
    for held in found.shadowed:
        is_legacy = held.level is found.level and "OPENAI_API_BASE" in held.origin
        if is_legacy and str(held.raw).strip() != found.value:
            message = f"{held.origin}, the old name, differs from {found.origin}, which is used"
            endpoint.warn("base_url", message)
