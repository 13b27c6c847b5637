"""How a request of the SDK is written for one server. Pure: the same for sync and async.

The client speaks to a façade URL; here its path becomes the endpoint's, its credentials give way to the endpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from urllib.parse import quote, unquote

import httpcore2
import httpx2

from ..routing.endpoint import Dialect, Endpoint, expires
from ..secrets import Secret
from .call import Call
from .written import Headers

#: what may tell a server who is calling: never passed on, whoever set it
CREDENTIAL_HEADERS = frozenset(
    {
        "authorization",
        "api-key",
        "x-api-key",
        "openai-organization",
        "openai-project",
        "proxy-authorization",
        "cookie",
        "host",
    }
)
ONLY_HEADER = "x-llmwire-only"  #: names the one endpoint that a request is for, as a check of each does
TAGS_HEADER = "x-llmwire-tags"  #: words that routes may choose by, divided by commas
TRUST_HEADER = "x-llmwire-trust"  #: labels of which an endpoint must have one
_NOT_SENT = frozenset(name.encode("ascii") for name in CREDENTIAL_HEADERS)
#: where a body lies in memory its length is ours to tell, whatever a caller passes on
_NOT_SENT_WITH_CONTENT = _NOT_SENT | {b"content-length", b"transfer-encoding"}

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


class Ambient:
    """Headers that the SDK reads from the environment on its own, and that were not meant for this server.

    The SDK reads OPENAI_CUSTOM_HEADERS, lines of `Name: value`, for every client and again for every copy of one. So
    the variable is looked at for each request, and what it once held is remembered.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._read: set[str] = set()
        self._pairs: set[tuple[bytes, bytes]] = set()

    def pairs(self) -> AbstractSet[tuple[bytes, bytes]]:
        """Names in lower case, with their values."""
        text = self._environment.get("OPENAI_CUSTOM_HEADERS", "")
        if text not in self._read:
            split = (line.partition(":") for line in text.split("\n") if ":" in line)
            pairs = ((name.strip().lower().encode(), value.strip().encode()) for name, _, value in split)
            self._pairs.update(pairs)
            self._read.add(text)
        return self._pairs

    def leave(self, request: httpx2.Request) -> None:
        """Take them out of a request: the SDK keeps it in its errors, and whoever pickles one sends it on."""
        if foreign := self.pairs():
            kept = [pair for pair in request.headers.raw if (pair[0].lower(), pair[1]) not in foreign]
            request.headers = httpx2.Headers(kept)


def operation_of(url: httpx2.URL, facade: httpx2.URL) -> str:
    """The path below the façade's base URL, as in `chat/completions`, with the caller's own percent-encoding.

    Raises:
        ForeignURL: the URL leaves the façade: a redirect, or an absolute URL of the caller.
    """
    same_origin = (url.scheme, url.host, url.port) == (facade.scheme, facade.host, facade.port)
    base, path = (_path_of(one) for one in (facade, url))
    base = base.rstrip("/") + "/"
    if not same_origin or not path.startswith(base) or _climbs(path):
        raise ForeignURL(f"refused to send to {url.scheme}://{url.host}{path}: this client is bound to {facade}")
    return path.removeprefix(base)


def _path_of(url: httpx2.URL) -> str:
    return url.raw_path.partition(b"?")[0].decode("ascii")


def _climbs(path: str) -> bool:
    """Whether any server, however often it decodes, could see a step upwards in the path."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return any(segment.partition(";")[0] == ".." for segment in path.replace("\\", "/").split("/"))


def url_for(endpoint: Endpoint, call: Call) -> httpcore2.URL:
    """Where the endpoint serves the call, with the request's query."""
    query = call.request.url.query
    if endpoint.dialect is Dialect.AZURE:
        return _azure_url(endpoint, call, query)
    return _url(endpoint.base_url, call.operation, query)


@lru_cache(maxsize=1024)
def _url(base_url: str, operation: str, query: bytes) -> httpcore2.URL:
    url = httpx2.URL(f"{base_url}/{operation}")
    return _raw(url.copy_with(query=query) if query else url)


def _azure_url(endpoint: Endpoint, call: Call, query: bytes) -> httpcore2.URL:
    operation = call.operation
    if operation in _DEPLOYED and (deployment := endpoint.deployment or endpoint.model or call.model):
        operation = f"deployments/{_segment(deployment)}/{operation}"
    url = httpx2.URL(f"{endpoint.base_url}/{operation}")
    if query:
        url = url.copy_with(query=query)
    if endpoint.api_version and "api-version" not in url.params:
        url = url.copy_merge_params({"api-version": endpoint.api_version})
    return _raw(url)


def _raw(url: httpx2.URL) -> httpcore2.URL:
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _segment(deployment: str) -> str:
    """The name as one segment of a path. A step upwards in it would lead away from the deployments."""
    if deployment == "." or _climbs(deployment):
        raise ForeignURL(f"refused to send to the deployment {deployment!r}: set `model` to the name of a deployment")
    return quote(deployment, safe="")


def headers_for(endpoint: Endpoint, call: Call, *, ambient: Ambient, token: Secret | None) -> Headers:
    """The request's headers without any credential but the endpoint's own."""
    # The last one of a name wins: no header of the settings takes the place of the credential.
    own = {pair[0].lower(): pair for pair in _own_headers(endpoint, token)}
    foreign = ambient.pairs()
    unsent = _NOT_SENT if call.content is None else _NOT_SENT_WITH_CONTENT
    kept = [
        pair
        for pair in call.headers
        if (name := pair[0].lower()) not in unsent and name not in own and (name, pair[1]) not in foreign
    ]
    return [*own.values(), *kept]


@lru_cache(maxsize=1024)
def _host(base_url: str) -> tuple[bytes, bytes]:
    return b"Host", httpx2.URL(base_url).netloc


def _own_headers(endpoint: Endpoint, token: Secret | None) -> Headers:
    headers = [_host(endpoint.base_url)]
    headers += [(name.encode("ascii"), value.encode("ascii")) for name, value in endpoint.headers]
    if token is not None:
        headers.append(_authorization(endpoint, token.reveal().encode("ascii")))
    return headers


def _authorization(endpoint: Endpoint, token: bytes) -> tuple[bytes, bytes]:
    if endpoint.dialect is Dialect.AZURE and not expires(endpoint.credential):
        return b"api-key", token
    return b"Authorization", b"Bearer " + token
