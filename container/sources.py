"""Where endpoints come from beside the settings: what is written of config centres and files, and what it means.

Knows URLs and their options; knows nothing of how a centre is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, quote, unquote, unquote_plus, urlencode, urlsplit

from llmwire.services.secrets import Secret

from . import values
from .configuration import Unfit
from .hosts import plain_host
from .source import TOOLS, Kind, Named, Source

if TYPE_CHECKING:
    pass

FORMS: Final = (
    "Write it as in consul://127.0.0.1:8500/llmwire/prod, consul+service://127.0.0.1:8500/llama,"
    " etcd://127.0.0.1:2379/llmwire/prod, or /etc/llmwire.toml."
)


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
    tool = TOOLS[place.kind]
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
