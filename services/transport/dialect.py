"""How a request of the SDK is written for one server. Pure: the same for sync and async.

The client speaks to a façade URL; here its path becomes the endpoint's, its credentials give way to the endpoint's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx2

from ..routing.endpoint import Dialect, Endpoint, TokenSource
from ..secrets import Secret

#: what may tell a server who is calling: never passed on, whoever set it
CREDENTIAL_HEADERS = frozenset(
    {"authorization", "api-key", "x-api-key", "openai-organization", "openai-project", "cookie", "host"}
)

#: the paths that Azure serves below a deployment, as the SDK's own AzureOpenAI has them
_DEPLOYED = frozenset(
    {
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
        "chat/completions",
        "completions",
        "embeddings",
        "images/edits",
        "images/generations",
    }
)


class ForeignURL(httpx2.UnsupportedProtocol):
    """A request to another place than the client's own server: refused, nothing was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambient:
    """Headers that the SDK reads from the environment on its own, and that were not meant for this server."""

    pairs: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Ambient:
        """What the SDK will read from OPENAI_CUSTOM_HEADERS: lines of `Name: value`."""
        lines = environment.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        split = (line.partition(":") for line in lines if ":" in line)
        return cls(pairs=frozenset((name.strip().lower(), value.strip()) for name, _, value in split))


def operation_of(url: httpx2.URL, facade: httpx2.URL) -> str:
    """The path below the façade's base URL, as in `chat/completions`.

    Raises:
        ForeignURL: the URL leaves the façade: a redirect, or an absolute URL of the caller.
    """
    same_origin = (url.scheme, url.host, url.port) == (facade.scheme, facade.host, facade.port)
    base = facade.path.rstrip("/") + "/"
    if not same_origin or not url.path.startswith(base) or "/../" in f"{url.path}/":
        raise ForeignURL(f"refused to send to {url.scheme}://{url.host}{url.path}: this client is bound to {facade}")
    return url.path.removeprefix(base)


def url_for(endpoint: Endpoint, operation: str, query: bytes, body: bytes) -> httpx2.URL:
    """Where the endpoint serves the operation."""
    if endpoint.dialect is Dialect.AZURE:
        return _azure_url(endpoint, operation, query, body)
    url = httpx2.URL(f"{endpoint.base_url}/{operation}")
    return url.copy_with(query=query) if query else url


def headers_for(
    endpoint: Endpoint, headers: httpx2.Headers, *, host: str, ambient: Ambient, token: Secret | None
) -> list[tuple[str, str]]:
    """The request's headers without any credential but the endpoint's own."""
    # The last one of a name wins: no header of the settings takes the place of the credential.
    own = {name.lower(): (name, value) for name, value in _own_headers(endpoint, host, token)}
    kept = [
        (name, value)
        for name, value in headers.multi_items()
        if name.lower() not in CREDENTIAL_HEADERS | own.keys() and (name.lower(), value) not in ambient.pairs
    ]
    return [*kept, *own.values()]


def _own_headers(endpoint: Endpoint, host: str, token: Secret | None) -> Iterable[tuple[str, str]]:
    return [("Host", host), *endpoint.headers, *_authorization(endpoint, token)]


def _authorization(endpoint: Endpoint, token: Secret | None) -> Iterable[tuple[str, str]]:
    if token is None:
        return []
    if endpoint.dialect is Dialect.AZURE and not isinstance(endpoint.credential, TokenSource):
        return [("api-key", token.reveal())]
    return [("Authorization", f"Bearer {token.reveal()}")]


def _azure_url(endpoint: Endpoint, operation: str, query: bytes, body: bytes) -> httpx2.URL:
    path = operation
    if operation in _DEPLOYED and (deployment := endpoint.deployment or _model_in(body)):
        path = f"deployments/{quote(deployment, safe='')}/{operation}"
    url = httpx2.URL(f"{endpoint.base_url}/{path}")
    if query:
        url = url.copy_with(query=query)
    if endpoint.api_version and "api-version" not in url.params:
        url = url.copy_merge_params({"api-version": endpoint.api_version})
    return url


def _model_in(body: bytes) -> str | None:
    try:
        model = json.loads(body).get("model")
    except (ValueError, AttributeError):  # multipart, or no object
        return None
    return model if isinstance(model, str) else None
