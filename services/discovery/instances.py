"""The healthy instances of a service in Consul, as a document of endpoints.

Knows what a registration says of an endpoint, and how to name one; an instance that says something impossible is left
out, as the others must not suffer from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final
from urllib.parse import quote

from .catalogue import Snapshot
from .consul import WAIT_S, Agent, Reply
from .http import Session

SHOWN: Final = 3  #: instances that were left out and are named in a version; of more only the number

#: the words of which settings' variables are made, as in COMPLETION_AZURE_OPENAI_ENDPOINT: those of an endpoint whose
#: name has no others may be its function's own. And the names that are kept for tables.
_WORDS: Final = (
    "default pools routes "
    "ad after api attempts azure base budget byte cache canary chunk completion connect context credential custom "
    "deadline deployment dialect dimensions embedding endpoint endpoints failover fallback first headers hedge id key "
    "keyless length ledger max modalities model openai org organization output path price project revision routing s "
    "send source space startup strategy stream structured tags tier timeout token tokenizer tools trust url usage "
    "version weight"
)
SETTING_WORDS: Final = frozenset(_WORDS.split())

_HOST_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9_.-]*[a-z0-9.])?", re.IGNORECASE | re.ASCII)
_PATH: Final = re.compile(r"/?[!$&'()*+,;=:%A-Za-z0-9._~/-]*")
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*", re.IGNORECASE | re.ASCII)


class _Unusable(ValueError):  # noqa: N818  # it never leaves this module
    """An instance says something of itself that cannot be."""


class ConsulInstances:
    """A catalogue: one endpoint for each healthy instance. See `catalogue.Catalogue`.

    Args:
        service: its name in Consul.
        function: `completion` or `embedding`.
        name: what it is called in messages; no token in it.
        tag: an instance must have them all.
        datacenter, namespace, wait_s: as of a `consul.Agent`.
    """

    is_remote: Final = True
    is_whole: Final = False
    is_divisible: Final = True

    def __init__(
        self,
        session: Session,
        *,
        service: str,
        function: str,
        name: str,
        tag: tuple[str, ...] = (),
        datacenter: str | None = None,
        namespace: str | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self._agent = Agent(session, name=name, datacenter=datacenter, namespace=namespace, wait_s=wait_s)
        self._name, self._function = name, function
        self._path = f"/v1/health/service/{quote(service, safe='')}"
        self._params = {"passing": "1", **({"tag": tag} if tag else {})}
        self._rule = f'service "{service}" {{ policy = "read" }} and node_prefix "" {{ policy = "read" }}'

    @property
    def name(self) -> str:
        """As it was given."""
        return self._name

    async def fetch(self) -> Snapshot:
        """The healthy instances as a document; no content where there is none. Raises DiscoveryError."""
        reply = await self._agent.read(self._path, params=self._params, rule=self._rule)
        instances, left_out = self._instances(reply)
        if not instances and reply.is_filtered:
            raise self._agent.refused(self._rule)
        # Old servers do not tell that their ACLs kept all of them back.
        healthy = "no healthy instance to be seen" if not instances else f"{len(instances)} healthy"
        return Snapshot(
            origin=self._name,
            content=_document(instances) if instances else None,
            version=", ".join([f"index {reply.index}", healthy, *_told(left_out)]),
            index=reply.index,
        )

    async def watch(self, since: Snapshot) -> None:
        """Return when there may be others. Raises DiscoveryError."""
        await self._agent.wait(self._path, params=self._params, rule=self._rule, since=since.index)

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._agent.aclose()

    def _instances(self, reply: Reply) -> tuple[list[_Instance], list[str]]:
        """Those that can be used, and of the others which and why; both in an order of their own, not the answer's."""
        entries = self._agent.parsed(reply.content or b"null")
        if not isinstance(entries, list):
            raise self._agent.error("its answer is no list of instances", "Look whether Consul answers there.")
        found, left_out = [], []
        for entry in entries:
            try:
                found.append(_instance(entry, self._function))
            except _Unusable as error:
                left_out.append(f"{_id_of(entry)} {error}")
        return sorted(found, key=repr), sorted(left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    """One instance: what it is called in Consul, and its endpoint's table."""

    id: str
    service: str
    node: str
    table: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.id, self.node, str(self.table["base_url"])

    def names(self) -> Iterator[str]:
        """What its endpoint may be called, the best first. Each is of the instance alone, whatever others there are."""
        plain = _cleaned(self.id)
        if not _NAME.match(plain):
            plain = "-".join(part for part in (_cleaned(self.service), plain) if part)
        if not _NAME.match(plain):
            plain = "-".join(part for part in ("instance", plain) if part)
        # An id that was not given is the service's name: the same on every node.
        is_telling = plain != _cleaned(self.service) and not SETTING_WORDS.issuperset(re.split("[-_]", plain))
        at_node = f"{plain}-{_cleaned(self.node)}".rstrip("-")
        if is_telling:
            yield plain
        if not SETTING_WORDS.issuperset(re.split("[-_]", at_node)):
            yield at_node
        yield f"{at_node}-{hashlib.sha256(repr(self.identity).encode()).hexdigest()[:8]}"


def _document(instances: Iterable[_Instance]) -> bytes:
    endpoints = {name: instance.table for name, instance in _named(list(instances))}
    return json.dumps({"endpoints": endpoints}, sort_keys=True, ensure_ascii=False).encode()


def _named(instances: list[_Instance]) -> Iterator[tuple[str, _Instance]]:
    """Each with the first of its names that no other has as its first; nobody's depends on the order."""
    pending, taken = [(instance, list(instance.names())) for instance in instances], set[str]()
    while pending:
        wanted = Counter(_folded(names[0]) for _, names in pending)
        unlucky = []
        for instance, names in pending:
            folded = _folded(names[0])
            is_free = folded not in taken and (wanted[folded] == 1 or len(names) == 1)
            if is_free:
                taken.add(folded)
                yield names[0], instance
            elif len(names) > 1:
                unlucky.append((instance, names[1:]))
        pending = unlucky


def _instance(entry: Any, function: str) -> _Instance:
    match entry:
        case {
            "Service": {"ID": str() as id_, "Service": str() as service, "Port": int() as port} as registered,
            "Node": {"Node": str() as node} as place,
        }:
            address = registered.get("Address") or place.get("Address")
            told = _mapping(registered.get("Meta")).items()
            meta = {key: value.strip() for key, value in told if isinstance(value, str) and value.strip()}
            table = {"base_url": _base_url(address, port, meta), "weight": _weight(registered, meta)}
            if tags := _tags(registered.get("Tags")):
                table["tags"] = tags
            for key, read in {**_READ, **(_READ_OF_EMBEDDING if function == "embedding" else {})}.items():
                if key in meta:
                    table[key] = read(key, meta[key])
            return _Instance(id=id_, service=service, node=node, table=table)
    raise _Unusable("is not described as Consul does")


def _base_url(address: Any, port: int, meta: Mapping[str, str]) -> str:
    if not 0 < port < 65536:
        raise _Unusable("has no port")
    scheme, path = meta.get("scheme", "http").lower(), meta.get("base_path", "")
    if scheme not in ("http", "https"):
        raise _Unusable(f"has scheme {_shown(scheme)}")
    if not _PATH.fullmatch(path) or "//" in path:
        raise _Unusable(f"has base_path {_shown(path)}")
    return f"{scheme}://{_host(address)}:{port}/{path.lstrip('/')}".rstrip("/")


def _host(address: Any) -> str:
    if not isinstance(address, str) or not address:
        raise _Unusable("has no address")
    try:
        ip = ip_address(address)
    except ValueError:
        ip = None
    if isinstance(ip, IPv6Address) and not ip.scope_id:  # a zone is of one machine alone
        return f"[{ip}]"
    if not _HOST_NAME.fullmatch(address):
        raise _Unusable(f"has address {_shown(address)}")
    return address.lower()


def _weight(registered: Mapping[str, Any], meta: Mapping[str, str]) -> float:
    raw = meta.get("weight") or _mapping(registered.get("Weights")).get("Passing", 1)
    try:
        weight = float(raw)
    except (TypeError, ValueError, OverflowError):
        weight = -1
    if not 0 < weight < math.inf:
        raise _Unusable(f"has weight {_shown(raw)}")
    return weight


def _tags(raw: Any) -> list[str]:
    words = raw if isinstance(raw, list) else []
    # Those that are no text are others' as well: what is asked of an endpoint cannot name them.
    return sorted({word.strip() for word in words if isinstance(word, str) and word.strip() and word.isprintable()})


def _text(key: str, value: str) -> str:
    if not value.isprintable():
        raise _Unusable(f"has {key} {_shown(value)}")
    return value


def _word(key: str, value: str) -> str:
    if "," in value or value.split() != [value]:
        raise _Unusable(f"has {key} {_shown(value)}")
    return _text(key, value)


def _name(key: str, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise _Unusable(f"has {key} that is no name")  # not shown: it may be the key itself
    return value.lower()


def _dialect(key: str, value: str) -> str:
    if value.lower() not in ("openai", "azure"):
        raise _Unusable(f"has {key} {_shown(value)}")
    return value.lower()


def _whole(least: int) -> Callable[[str, str], int]:
    def read(key: str, value: str) -> int:
        if not (value.isascii() and value.isdecimal()) or len(value) > 12 or int(value) < least:
            raise _Unusable(f"has {key} {_shown(value)}")
        return int(value)

    return read


_READ: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "model": _text,
    "tier": _whole(0),
    "credential": _name,
    "trust": _word,
    "context_length": _whole(1),
    "dialect": _dialect,
}
_READ_OF_EMBEDDING: Final[Mapping[str, Callable[[str, str], Any]]] = {"space": _text, "revision": _text}


def _told(left_out: list[str]) -> Iterator[str]:
    if left_out:
        number = "1 instance" if len(left_out) == 1 else f"{len(left_out)} instances"
        more = [f"and {len(left_out) - SHOWN} more"] if len(left_out) > SHOWN else []
        yield f"{number} left out: {'; '.join([*left_out[:SHOWN], *more])}"


def _id_of(entry: Any) -> str:
    id_ = _mapping(_mapping(entry).get("Service")).get("ID")
    return _cleaned(id_)[:60] if isinstance(id_, str) and id_ else "one without an id"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _cleaned(text: str) -> str:
    return re.sub("[^a-z0-9_-]", "-", text.lower()).strip("-_")


def _folded(name: str) -> str:
    """As the environment has it, where there is no hyphen."""
    return name.replace("-", "_")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
