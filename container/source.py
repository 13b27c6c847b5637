"""A place outside of the program that says where its endpoints are, and the secrets with which it is asked.

Knows the variables of the centres' own tools, and which server these are meant for; asks no centre.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

from llmwire.services.errors import DiscoveryError
from llmwire.services.forking import no_fork_meanwhile
from llmwire.services.secrets import Secret

from . import values
from .address import is_loopback
from .configuration import Unfit
from .hosts import plain_host
from .values import NO_KEY

if TYPE_CHECKING:
    from llmwire.services.discovery.catalogue import Catalogue
    from llmwire.services.discovery.http import Session


class Kind(StrEnum):
    """What a source is."""

    CONSUL = "consul"  #: a key of Consul's store
    INSTANCES = "consul+service"  #: the healthy instances of a service of Consul's
    ETCD = "etcd"
    FILE = "file"


class _Tool(NamedTuple):
    """What a centre's own tool reads of the environment, and where it finds its centre."""

    address: str
    ca_file: str
    secrets: tuple[str, ...]
    ports: Mapping[str, int]  #: where its address names none, by its scheme
    port: int
    tls_port: int


_CONSUL: Final = _Tool(
    address="CONSUL_HTTP_ADDR",
    ca_file="CONSUL_CACERT",
    secrets=("CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"),
    ports={"": 80, "http": 80, "https": 443},
    port=8500,
    tls_port=8501,
)
_ETCD: Final = _Tool(
    address="ETCDCTL_ENDPOINTS",
    ca_file="ETCDCTL_CACERT",
    secrets=("ETCDCTL_USER",),
    ports={"": 2379, "http": 2379, "https": 2379},
    port=2379,
    tls_port=2379,
)
TOOLS: Final[Mapping[Kind, _Tool]] = {Kind.CONSUL: _CONSUL, Kind.INSTANCES: _CONSUL, Kind.ETCD: _ETCD}


@runtime_checkable
class Named(Protocol):
    """A place that holds a document for each function: a `Source`, or a user's own, given in code."""

    @property
    def name(self) -> str:
        """What it is called in messages; no token in it."""

    def catalogue(self, function: str, env: Mapping[str, str]) -> Catalogue:
        """Itself, as it is asked for one function. The variables may hold what its centre demands."""

    def warnings(self, env: Mapping[str, str]) -> tuple[str, ...]:
        """What is allowed, and hardly meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place that holds a document for each function.

    Attributes:
        name: what it is called in messages, as in `consul://127.0.0.1:8500/llmwire/prod`; two of one name are the same.
        path: the key above those of the functions, the service, or the file.
        url: the centre's scheme, host and port; blank of a file.
        secret: Consul's token or the user's password, as it was written; NO_KEY sends none, None looks elsewhere.
        secret_file: the file that holds it; read for each request, as it may be renewed.
    """

    kind: Kind
    name: str
    path: str
    url: str = ""
    datacenter: str | None = None
    namespace: str | None = None
    tags: tuple[str, ...] = ()
    user: str | None = None
    secret: Secret | None = field(default=None, repr=False)
    secret_file: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def catalogue(self, function: str, env: Mapping[str, str] = os.environ) -> Catalogue:
        """The source as it is asked for one function. Nothing is opened or read before that.

        Args:
            env: where the variables of the centre's own tool are looked up, as in CONSUL_HTTP_TOKEN.
        """
        with no_fork_meanwhile():
            return self._catalogue(function, env)

    def warnings(self, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """What is allowed, and hardly meant."""
        return tuple(self._warnings(env)) if self.url else ()

    def _catalogue(self, function: str, env: Mapping[str, str]) -> Catalogue:
        if self.kind is Kind.FILE:
            from llmwire.services.discovery.file import FileCatalogue

            return FileCatalogue(self.path)
        if self.kind is Kind.ETCD:
            return self._etcd_document(function, env)
        session = self._session(env, headers=lambda: self._token_header(env))
        if self.kind is Kind.CONSUL:
            from llmwire.services.discovery.consul import ConsulDocument

            return ConsulDocument(
                session,
                key=f"{self.path}/{function}",
                name=self._document(function),
                datacenter=self.datacenter,
                namespace=self.namespace,
            )
        from llmwire.services.discovery.instances import ConsulInstances

        return ConsulInstances(
            session,
            service=self.path,
            function=function,
            name=self.name,
            tag=self.tags,
            datacenter=self.datacenter,
            namespace=self.namespace,
        )

    def _etcd_document(self, function: str, env: Mapping[str, str]) -> Catalogue:
        from llmwire.services.discovery.etcd import EtcdDocument

        user = self.user or self._user_in(env)[0] or None
        return EtcdDocument(
            self._session(env),
            key=f"{self.path}/{function}",
            name=self._document(function),
            user=user,
            password=None if user is None else lambda: self._password(env),
        )

    def _document(self, function: str) -> str:
        """The full name of a function's document."""
        name, mark, options = self.name.partition("?")
        return f"{name}/{function}{mark}{options}"

    def _session(self, env: Mapping[str, str], *, headers: Callable[[], Mapping[str, str]] = dict) -> Session:
        from llmwire.services.discovery.http import Access, Session

        ca_file = self.ca_file
        if ca_file is None and self.url.startswith("https:") and self._is_meant(env):
            ca_file = _said(env, TOOLS[self.kind].ca_file) or None
        access = Access(
            name=self.name,
            url=self.url,
            headers=headers,
            ca_file=ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
        )
        return Session(access)

    def _token_header(self, env: Mapping[str, str]) -> Mapping[str, str]:
        token = self._token(env)
        return {} if token == NO_KEY else {"X-Consul-Token": token.reveal()}

    def _token(self, env: Mapping[str, str]) -> Secret:
        if self.secret is not None:
            return self.secret
        if self.secret_file is not None:
            return self._key(self._content(self.secret_file, "token_file"), "token_file")
        if not self._is_meant(env):
            return NO_KEY
        if token := _said(env, "CONSUL_HTTP_TOKEN"):
            return self._key(token, "CONSUL_HTTP_TOKEN")
        if file := _said(env, "CONSUL_HTTP_TOKEN_FILE"):
            return self._key(self._content(file, "CONSUL_HTTP_TOKEN_FILE"), "CONSUL_HTTP_TOKEN_FILE")
        return NO_KEY

    def _password(self, env: Mapping[str, str]) -> Secret:
        if self.secret is not None:
            return self.secret
        if self.secret_file is not None:
            return Secret(self._content(self.secret_file, "password_file"))
        return Secret(self._user_in(env)[1])

    def _user_in(self, env: Mapping[str, str]) -> tuple[str, str]:
        """User and password of etcd's own tool; blank where they are for another server."""
        if not self._is_meant(env):
            return "", ""
        user, password = _said(env, "ETCDCTL_USER"), _said(env, "ETCDCTL_PASSWORD")
        if not password:
            user, _, password = user.partition(":")
        return user, password

    def _key(self, token: str, place: str) -> Secret:
        try:
            return values.key(token)
        except Unfit as error:
            raise DiscoveryError(f"{place} {error.problem}", source=self.name, remedy=error.remedy) from None

    def _content(self, file: str, place: str) -> str:
        """What a file holds that has nothing but a secret in it."""
        text, problem = _read(file)
        if problem:
            shown = f" {file}" if os.sep in file else ""  # else it may be the secret itself
            remedy = "Name a file that can be read and holds the bare secret."
            raise DiscoveryError(f"{place}{shown} {problem}", source=self.name, remedy=remedy)
        return text

    def _is_meant(self, env: Mapping[str, str]) -> bool:
        """Whether the variables of the centre's own tool are for this server: so they are where they name none."""
        tool = TOOLS[self.kind]
        written = _said(env, tool.address).replace(",", " ").split()
        return not written or any(_names(server, self.url, tool.ports) for server in written)

    def _warnings(self, env: Mapping[str, str]) -> Iterator[str]:
        tool = TOOLS[self.kind]
        what = "password" if self.kind is Kind.ETCD else "token"
        is_own = self.secret is not None or self.secret_file is not None
        given = [name for name in tool.secrets if _said(env, name) and not is_own]
        if not self._is_meant(env):
            unused = given[:1]
            if self.ca_file is None and self.url.startswith("https:") and _said(env, tool.ca_file):
                unused.append(tool.ca_file)
            yield from (f"{name} is not used: {tool.address} names another server than {self.url}" for name in unused)
            given = []
        has_secret = bool(given) or (is_own and self.secret != NO_KEY)
        if has_secret and self.url.startswith("http:") and not is_loopback(self.url):
            yield f"the {what} travels to {self.url} unencrypted; write {self.kind}+https://"


def _read(file: str) -> tuple[str, str]:
    """The text of a file, and what is wrong with it. Raises nothing: errors hold names and contents."""
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        return "", f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
    text = content.decode("utf-8-sig", errors="replace").strip()
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "", "is no text in UTF-8"
    return text, "" if text else "is empty"


def _said(env: Mapping[str, str], variable: str) -> str:
    return (env.get(variable) or "").strip()


def _names(written: str, url: str, ports: Mapping[str, int]) -> bool:
    """Whether a tool's address, with or without a scheme, is that of a server; over TLS where it says so."""
    scheme, _, rest = written.lower().rpartition("://")
    wanted = urlsplit(url)
    if scheme == "https" and wanted.scheme != "https":
        return False
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port or ports.get(scheme)
    except ValueError:
        return False
    host = plain_host(parts.hostname or "")
    return host is not None and host == plain_host(wanted.hostname or "") and port == wanted.port
