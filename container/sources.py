"""Where endpoints come from beside the settings: what is written of config centres and files, and what it means.

Knows URLs, their options and the variables of the centres' own tools; asks no centre.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable
from urllib.parse import SplitResult, quote, unquote, unquote_plus, urlencode, urlsplit

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

FORMS: Final = (
    "Write it as in consul://127.0.0.1:8500/llmwire/prod, consul+service://127.0.0.1:8500/llama,"
    " etcd://127.0.0.1:2379/llmwire/prod, or /etc/llmwire.toml."
)


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
_TOOLS: Final[Mapping[Kind, _Tool]] = {Kind.CONSUL: _CONSUL, Kind.INSTANCES: _CONSUL, Kind.ETCD: _ETCD}


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
            ca_file = _said(env, _TOOLS[self.kind].ca_file) or None
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
        tool = _TOOLS[self.kind]
        written = _said(env, tool.address).replace(",", " ").split()
        return not written or any(_names(server, self.url, tool.ports) for server in written)

    def _warnings(self, env: Mapping[str, str]) -> Iterator[str]:
        tool = _TOOLS[self.kind]
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


def sources(raw: Any) -> tuple[Named, ...]:
    """Sources in their order, from a text, or a list of URLs, paths, tables and objects. Raises Unfit.

    Several in one text are divided by commas or blanks. A table holds the URL as `url`, and options of it beside that.
    """
    written = raw.replace(",", " ").split() if isinstance(raw, str) else raw
    if not isinstance(written, list | tuple):
        return (_source(written, ""),)
    if not written:
        raise Unfit("names no source", FORMS)
    if isinstance(raw, str) and len(written) == 1:
        return (_source(written[0], ""),)
    made = tuple(_source(each, f"[{place}]") for place, each in enumerate(written, start=1))
    taken: dict[str, int] = {}
    for place, source in enumerate(made, start=1):
        if (other := taken.setdefault(source.name, place)) != place:
            raise Unfit(f"is the same as source {other}", "Keep one of them.", at=f"[{place}]")
    return made


class _Place(NamedTuple):
    """What a URL says before its options. Host and port are blank of a file."""

    kind: Kind
    path: str
    query: str = ""
    host: str = ""
    port: int | None = None
    is_tls: bool = False


def _source(written: Any, at: str) -> Named:
    """Shows nothing of what was written but what it has understood: the wrong thing may be a token."""
    if isinstance(written, Named):
        return written
    try:
        if not isinstance(written, Mapping):
            return _assembled(_place(written), {})
        if written.get("url") is None:
            raise Unfit("is not set", FORMS, at=".url")
        return _assembled(_parsed(_place, written["url"], ".url"), {**written, "url": None})
    except Unfit as error:
        raise Unfit(error.problem, error.remedy, at=f"{at}{error.at}") from None


def _parsed(parse: Callable[[Any], Any], raw: Any, at: str) -> Any:
    try:
        return parse(raw)
    except Unfit as error:
        raise Unfit(error.problem, error.remedy, at=f"{at}{error.at}") from None


def _place(written: Any) -> _Place:
    url = os.fspath(written) if isinstance(written, Path) else written
    if not isinstance(url, str):
        raise Unfit(f"must be a URL, a path or a table, not {type(written).__name__}", FORMS)
    url = url.strip()
    if "://" not in url:
        return _file(url)
    if any(character.isspace() or not character.isprintable() for character in url):
        raise Unfit("has a blank or a line break in it", "Remove it, or write %20 for a blank.")
    scheme, _, rest = url.partition("://")
    kind, is_tls = _kind(scheme)
    if "#" in rest:
        raise Unfit("has a fragment in it", "Remove what follows the #, or write %23.")
    if kind is not Kind.FILE and "@" in rest.partition("?")[0]:  # also in the path: passwords have slashes in them
        raise Unfit("has a user or password in it", f"Remove it. {_SECRET_REMEDIES[kind]} An @ in a key is %40.")
    parts = _split(url)
    if parts is None:
        raise Unfit("has no valid host", FORMS)
    path = _decoded(unquote, parts.path)
    if kind is Kind.FILE:
        if parts.netloc not in ("", "localhost"):
            raise Unfit("names a host", "Write three slashes before the path, as in file:///etc/llmwire.toml.")
        return _Place(kind, path=_absolute(path), query=parts.query)
    host, port = _server(parts)
    return _Place(kind, path=_path(kind, path), query=parts.query, host=host, port=port, is_tls=is_tls)


def _kind(scheme: str) -> tuple[Kind, bool]:
    is_tls = scheme.lower().endswith("+https")
    name = scheme.lower().removesuffix("+https")
    if name in list(Kind) and not (is_tls and name == Kind.FILE):
        return Kind(name), is_tls
    if name in ("http", "https"):
        tls = "+https" if name == "https" else ""
        raise Unfit(f"has the scheme {name}, which says no centre's kind", f"Write consul{tls}:// or etcd{tls}://.")
    near = get_close_matches(name, list(Kind), n=1)
    remedy = f"Did you mean {near[0]}{'+https' * is_tls}://?" if near else FORMS
    raise Unfit("has a scheme that no source has", remedy)


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # its text shows the URL
        return None


def _server(parts: SplitResult) -> tuple[str, int | None]:
    """Host, an address of IPv6 in brackets, and port."""
    host = plain_host(parts.hostname or "")
    if host is None:
        raise Unfit("has no valid host", FORMS)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise Unfit("has an impossible port", "Write a port from 1 to 65535.")
    return f"[{host}]" if isinstance(host, IPv6Address) else str(host), port


def _path(kind: Kind, path: str) -> str:
    """The key or the service. A key of etcd's may begin with a slash, which is then the second."""
    named = path.removeprefix("/").rstrip("/") if kind is Kind.ETCD else path.strip("/")
    if not named:
        what = "service" if kind is Kind.INSTANCES else "key"
        raise Unfit(f"names no {what}", FORMS)
    if not named.isprintable():
        raise Unfit("has a character in its path that no key has", "Remove it.")
    if kind is Kind.INSTANCES and "/" in named:
        raise Unfit("names a service with a slash in it", "Write the service alone, as in consul+service://host/llama.")
    if kind is Kind.CONSUL and not {"", ".", ".."}.isdisjoint(named.split("/")):
        raise Unfit("has a blank part, or one of dots alone, in its key", "Write it as in llmwire/prod.")
    return named


def _file(path: str) -> _Place:
    if not path.lower().endswith((".toml", ".json")):
        raise Unfit("is no source", FORMS)
    return _Place(Kind.FILE, path=_absolute(path))


def _absolute(path: str) -> str:
    if not path.strip("/") or not path.isprintable():
        raise Unfit("names no file", "Write it as in file:///etc/llmwire.toml.")
    return str(Path(path).absolute())


def _decoded(decode: Callable[..., str], written: str) -> str:
    try:
        return decode(written, errors="strict")
    except UnicodeDecodeError:
        pass  # not as the context of what is raised: it holds all that was written
    raise Unfit("has a percent sign that stands for no text", "Write bytes of UTF-8, and %25 for the sign itself.")


def _assembled(place: _Place, table: Mapping[Any, Any]) -> Source:
    read = _options(place, table)
    if place.kind is Kind.FILE:
        return Source(kind=place.kind, name=Path(place.path).as_uri(), path=place.path)
    says_tls = read.pop("tls", None)
    is_tls = place.is_tls if says_tls is None else says_tls
    if place.is_tls and not is_tls:
        raise Unfit("is false, and the URL says +https", "Keep one of them.", at=".tls")
    _check_complete(place.kind, read, is_tls)
    tool = _TOOLS[place.kind]
    server = f"{place.host}:{place.port or (tool.tls_port if is_tls else tool.port)}"
    scheme = f"{place.kind}{'+https' * is_tls}"
    name = f"{scheme}://{server}/{quote(place.path)}{_told(read)}"
    url = f"{'https' if is_tls else 'http'}://{server}"
    return Source(kind=place.kind, name=name, path=place.path, url=url, **read)


def _told(read: Mapping[str, Any]) -> str:
    """The options that tell one source from another at the same path, as in `?dc=eu`."""
    pairs = [("dc", read.get("datacenter")), ("ns", read.get("namespace"))]
    pairs += [("tag", tag) for tag in sorted(read.get("tags", ()))]
    query = urlencode([(name, value) for name, value in pairs if value is not None])
    return f"?{query}" if query else ""


def _check_complete(kind: Kind, read: Mapping[str, Any], is_tls: bool) -> None:
    for option in ("ca_file", "cert_file", "key_file"):
        if option in read and not is_tls:
            raise Unfit("is for TLS alone", f"Write {kind}+https://, or leave it out.", at=f".{option}")
    if "key_file" in read and "cert_file" not in read:
        raise Unfit("is the key of no certificate", "Name the certificate as cert_file.", at=".key_file")
    has_secret = "secret" in read or "secret_file" in read
    if kind is Kind.ETCD and ("user" in read) != has_secret:
        problem = "is not set, and a password is" if has_secret else "has no password"
        remedy = "Write user and password_file, or leave both out and set ETCDCTL_USER=user:password."
        raise Unfit(problem, remedy, at=".user")


def _options(place: _Place, table: Mapping[Any, Any]) -> dict[str, Any]:
    """What the options say, by the attributes of a Source; and `tls`. What is blank or null is not said."""
    known = {**_OPTIONS[place.kind], **_SECRETS[place.kind]}
    said = _queried(place)
    for name, raw in table.items():
        if raw is None:
            continue
        if name not in known:
            raise Unfit("is no setting", _suggestion(str(name), known), at=f".{name}")
        if name in said:
            raise Unfit("stands in the URL and beside it", "Keep one of them.", at=f".{name}")
        if not isinstance(raw, str) or raw.strip():
            said[name] = raw
    return {known[name].attribute: _parsed(known[name].parse, raw, f".{name}") for name, raw in said.items()}


def _queried(place: _Place) -> dict[str, Any]:
    """The options in the URL, as written; tags, of which there may be several, as a list."""
    said: dict[str, Any] = {}
    for pair in filter(None, place.query.split("&")):
        written, equals, value = pair.partition("=")
        name, value = _decoded(unquote_plus, written), _decoded(unquote_plus, value).strip()
        if name.lower() in ("token", "password", "passwd", "secret"):
            raise Unfit("has a secret in it", f"Remove it. {_SECRET_REMEDIES[place.kind]}")
        if name not in _OPTIONS[place.kind]:
            at = f".{name}" if equals and _SHOWABLE.fullmatch(name) else ""
            problem = "is no setting" if at else "has an option that is none"
            raise Unfit(problem, _suggestion(name, _OPTIONS[place.kind]), at=at)
        if name in said and name != "tag":
            raise Unfit("stands in the URL twice", "Keep one of them.", at=f".{name}")
        if value:
            said[name] = [*said.get(name, ()), value] if name == "tag" else value
    return said


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    if near := get_close_matches(name, names, n=1, cutoff=0.5):
        return f"Did you mean {near[0]}?"
    return f"Known are {', '.join(names)}." if names else "Leave it out: a file has none."


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


def _line(raw: Any) -> str:
    if not values.text(raw).isprintable():
        raise Unfit("has a line break or another control character in it", "Remove it.")
    return values.text(raw).strip()


def _file_name(raw: Any) -> str:
    return _line(os.fspath(raw) if isinstance(raw, Path) else raw)


def _password(raw: Any) -> Secret:
    return raw if isinstance(raw, Secret) else Secret(values.text(raw))


class _Option(NamedTuple):
    attribute: str  #: of a Source
    parse: Callable[[Any], Any]


_OF_TLS: Final[Mapping[str, _Option]] = {
    "tls": _Option("tls", values.switch),
    "ca_file": _Option("ca_file", _file_name),
    "cert_file": _Option("cert_file", _file_name),
    "key_file": _Option("key_file", _file_name),
}
_OF_CONSUL: Final[Mapping[str, _Option]] = {
    "dc": _Option("datacenter", values.word),
    "ns": _Option("namespace", values.word),
    "token_file": _Option("secret_file", _file_name),
    **_OF_TLS,
}
#: what may stand in the URL, or beside it in a table
_OPTIONS: Final[Mapping[Kind, Mapping[str, _Option]]] = {
    Kind.CONSUL: _OF_CONSUL,
    Kind.INSTANCES: {"tag": _Option("tags", values.words), **_OF_CONSUL},
    Kind.ETCD: {"user": _Option("user", _line), "password_file": _Option("secret_file", _file_name), **_OF_TLS},
    Kind.FILE: {},
}
#: what may stand in a table alone: URLs are shown and logged
_SECRETS: Final[Mapping[Kind, Mapping[str, _Option]]] = {
    Kind.CONSUL: {"token": _Option("secret", values.key)},
    Kind.INSTANCES: {"token": _Option("secret", values.key)},
    Kind.ETCD: {"password": _Option("secret", _password)},
    Kind.FILE: {},
}
_CONSUL_REMEDY: Final = "Name a file that holds the token as token_file, or set CONSUL_HTTP_TOKEN."
_SECRET_REMEDIES: Final[Mapping[Kind, str]] = {
    Kind.CONSUL: _CONSUL_REMEDY,
    Kind.INSTANCES: _CONSUL_REMEDY,
    Kind.ETCD: "Write user and password_file, or set ETCDCTL_USER=user:password.",
    Kind.FILE: "A file needs none.",
}
_SHOWABLE: Final = re.compile(r"[a-z_]{1,20}", re.IGNORECASE | re.ASCII)
