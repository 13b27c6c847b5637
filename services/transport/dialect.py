"""How a request of the SDK is written for one server. Pure: the same for sync and async.

The client speaks to a façade URL; here its path becomes the endpoint's, its credentials give way to the endpoint's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from urllib.parse import quote, unquote

import httpx2

from ..routing.endpoint import Dialect, Endpoint, TokenSource
from ..secrets import Secret

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
        self._pairs: set[tuple[str, str]] = set()

    def pairs(self) -> AbstractSet[tuple[str, str]]:
        """Names in lower case, with their values."""
        text = self._environment.get("OPENAI_CUSTOM_HEADERS", "")
        if text not in self._read:
            split = (line.partition(":") for line in text.split("\n") if ":" in line)
            self._pairs.update((name.strip().lower(), value.strip()) for name, _, value in split)
            self._read.add(text)
        return self._pairs


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


def url_for(endpoint: Endpoint, operation: str, request: httpx2.Request) -> httpx2.URL:
    """Where the endpoint serves the operation, with the request's query."""
    if endpoint.dialect is Dialect.AZURE and operation in _DEPLOYED:
        deployment = endpoint.deployment or _model_in(request)
        operation = f"deployments/{_segment(deployment)}/{operation}" if deployment else operation
    url = httpx2.URL(f"{endpoint.base_url}/{operation}")
    if request.url.query:
        url = url.copy_with(query=request.url.query)
    if endpoint.dialect is Dialect.AZURE and endpoint.api_version and "api-version" not in url.params:
        url = url.copy_merge_params({"api-version": endpoint.api_version})
    return url


def _segment(deployment: str) -> str:
    """The name as one segment of a path. A step upwards in it would lead away from the deployments."""
    if deployment == "." or _climbs(deployment):
        raise ForeignURL(f"refused to send to the deployment {deployment!r}: set `model` to the name of a deployment")
    return quote(deployment, safe="")


def headers_for(
    endpoint: Endpoint, headers: httpx2.Headers, *, host: str, ambient: Ambient, token: Secret | None
) -> list[tuple[str, str]]:
    """The request's headers without any credential but the endpoint's own."""
    # The last one of a name wins: no header of the settings takes the place of the credential.
    own = {name.lower(): (name, value) for name, value in _own_headers(endpoint, host, token)}
    foreign = ambient.pairs()
    kept = [
        (name, value)
        for name, value in headers.multi_items()
        if name.lower() not in CREDENTIAL_HEADERS | own.keys() and (name.lower(), value) not in foreign
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


def _model_in(request: httpx2.Request) -> str | None:
    """The model that the body asks for: a JSON body's, or the field of a form beside its files."""
    if isinstance(request.stream, httpx2.ByteStream):
        return _text_or_none(_json_or_none(request.read()), "model")
    fields = {field.name: getattr(field, "value", None) for field in getattr(request.stream, "fields", ())}
    return _text_or_none(fields, "model")


def _json_or_none(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _text_or_none(table: object, name: str) -> str | None:
    value = table.get(name) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None
