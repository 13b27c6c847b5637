"""Which servers a key may go to, and which a remote document may not name at all.

Knows the spellings of hosts, and takes the plain ones alone; looks no name up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from .configuration import Unfit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

STANDARD_PORTS: Final = {"http": 80, "https": 443}

ENTRY: Final = "Write it as in api.example.com, *.example.com, http://10.0.0.5:8000, or http://10.0.0.0/8:*."

_ENTRY: Final = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?"
    r"(?P<host>\[[^\[\]/@?#]*\](?:/[0-9]+)?|[^\[\]/:@?#]*(?:/[0-9]+)?)"
    r"(?::(?P<port>[0-9]{1,5}|\*))?",
    re.IGNORECASE | re.ASCII,
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what inet_aton, and so a resolver, takes for part of an address
_LONGEST: Final = 253  #: of a name, by RFC 1035

#: an address, and why no remote document may name it
_FORBIDDEN: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), reason)
    for network, reason in (
        ("169.254.0.0/16", "a link-local address, where clouds hand out the keys of a machine"),
        ("fe80::/10", "a link-local address, where clouds hand out the keys of a machine"),
        ("fd00:ec2::/32", "an address of AWS's own, where it hands out the keys of a machine"),
        ("fd20:ce::/32", "the address where Google hands out the keys of a machine"),
        ("fd00:42::42/128", "the address where Scaleway hands out the keys of a machine"),
        ("100.100.100.200/32", "the address where Alibaba hands out the keys of a machine"),
        ("168.63.129.16/32", "the address where Azure speaks to its machines"),
        ("192.0.0.192/32", "the address where Oracle hands out the keys of a machine"),
        ("64:ff9b:1::/48", "an address of a network's own gateway to IPv4, which leads anywhere"),
        ("0.0.0.0/8", "no address of any one server"),
        ("::/128", "no address of any one server"),
    )
)

#: the names that clouds give to those addresses; beside them all below .internal that have such a label
_METADATA_NAMES: Final = frozenset(
    [
        "metadata",
        "instance-data",
        "rancher-metadata",
        "metadata.goog",
        "metadata.tencentyun.com",
        "metadata.packet.net",
        "metadata.platformequinix.com",
    ]
)
_METADATA_LABELS: Final = frozenset({"metadata", "instance-data"})

#: networks whose addresses carry one of IPv4 inside, and by how many bits it stands from the right
_CARRIERS: Final[tuple[tuple[IPv6Network, int], ...]] = tuple(
    (IPv6Network(network), shift)
    for network, shift in (
        ("::/96", 0),  # IPv4-compatible
        ("::ffff:0:0/96", 0),  # IPv4-mapped
        ("::ffff:0:0:0/96", 0),  # IPv4-translated, RFC 2765
        ("64:ff9b::/96", 0),  # NAT64, RFC 6052
        ("2002::/16", 80),  # 6to4
        ("2001::/32", 64),  # Teredo: its server
    )
)
_TEREDO: Final = IPv6Network("2001::/32")  # its client stands in the last 32 bits, inverted
_ISATAP: Final = 0x00005EFE  # before an address in the last 32 bits, of any network; the bit 0x02000000 may be set


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One line of an allow-list. Either `name`, `parent` or `network` is set.

    Attributes:
        parent: of `*.example.com` the part behind the star with its dot.
        port: None for any.
    """

    scheme: str
    port: int | None
    name: str | None = None
    parent: str | None = None
    network: Network | None = None

    def allows(self, scheme: str, host: str | Address, port: int) -> bool:
        if scheme != self.scheme or self.port not in (None, port):
            return False
        if not isinstance(host, str):
            return self.network is not None and host in self.network
        return host == self.name or (self.parent is not None and host.endswith(self.parent))

    def __str__(self) -> str:
        port = "*" if self.port is None else self.port
        return f"{self.scheme}://{self._host()}:{port}"

    def _host(self) -> str:
        if self.network is None:
            return self.name or f"*{self.parent}"
        address, bits = self.network.network_address, self.network.prefixlen
        host = f"[{address}]" if address.version == 6 else str(address)
        return host if bits == address.max_prefixlen else f"{host}/{bits}"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The servers that a key may go to."""

    _entries: tuple[_Entry, ...] = ()

    @classmethod
    def parse(cls, raw: Any) -> Hosts:
        """An allow-list, from a list or a text divided by commas or blanks. Raises Unfit.

        An entry is `[scheme://]host[:port]`: without a scheme it is https, without a port that of the scheme, `:*` is
        any port. The host is a name, `*.example.com` for all names below one (but not itself), an address, or a
        network as in `10.0.0.0/8` or `[fd00::]/8`. A name is never looked up: no network allows it.
        """
        each = raw.replace(",", " ").split() if isinstance(raw, str) else raw
        if not isinstance(each, list | tuple) or not all(isinstance(entry, str) for entry in each):
            raise Unfit("must be a list of servers", ENTRY)
        if not each:
            raise Unfit("names no server", ENTRY)
        at = (f"[{place}]" if len(each) > 1 else "" for place in range(1, len(each) + 1))
        return cls(tuple(dict.fromkeys(map(_entry, each, at))))

    def allows(self, server: str) -> bool:
        """Whether a key may go there.

        Args:
            server: scheme, host and port, as in `https://api.example.com:443`.
        """
        try:
            parts = urlsplit(server)
            host, port = plain_host(parts.hostname or ""), parts.port
        except ValueError:
            return False
        port = STANDARD_PORTS.get(parts.scheme) if port is None else port
        if host is None or port is None or "@" in parts.netloc:
            return False
        return any(entry.allows(parts.scheme, host, port) for entry in self._entries)

    def __str__(self) -> str:
        return ", ".join(map(str, self._entries))


def forbidden(url: str) -> str | None:
    """Why a remote document may not name this server, as in `is a link-local address`; None where it may.

    Forbidden are the addresses and names where clouds hand out the keys of a machine to whoever asks from it, and each
    host that is not written plainly: what it means is then for the resolver to say. A name that leads to such an
    address is not seen, as nothing is looked up: keys are safe from it by their allow-lists.
    """
    if any(character.isspace() or not character.isprintable() for character in url) or "\\" in url:
        return "has a character in it that no URL has"
    try:
        parts = urlsplit(url)
        written = parts.hostname or ""
    except ValueError:
        return "has no valid host"
    if "@" in parts.netloc:
        return "has a user or password in it"
    host = plain_host(written)
    if host is None:
        return "has a host that is no plain name and no plain address, as in api.example.com or 10.0.0.5"
    if isinstance(host, str):
        return "is a name where clouds hand out the keys of a machine" if _is_metadata(host) else None
    return next((f"is {why}" for address in (host, *_carried(host)) if (why := _why_not(address))), None)


def plain_host(written: str) -> str | Address | None:
    """A host in its one spelling: a name in lower case and ASCII without a dot at its end, or an address.

    None where it is neither: also where others may read an address in it (`127.1`, `0x7f000001`, `010.0.0.1`), or
    another name than it shows (`%61.example.com`, full-width letters).

    Args:
        written: without brackets, as in `api.example.com` or `fd00::1`.
    """
    host = written.lower().removesuffix(".")
    if "%" in host:
        return None  # also the zone of an address, which is of this machine alone
    try:
        return ip_address(host)
    except ValueError:
        name = _in_ascii(host)
    labels = name.split(".")
    if len(name) > _LONGEST or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        return None
    return name


def _in_ascii(host: str) -> str:
    """The name as it is asked for; blank where the rules of 2003 and of 2008, which clients follow, may differ."""
    if host.isascii():
        return host
    try:
        name = host.encode("idna")
        return name.decode("ascii") if name.decode("idna") == host else ""
    except UnicodeError:
        return ""


def _entry(written: str, at: str) -> _Entry:
    found = _ENTRY.fullmatch(written.strip())
    if found is None:
        raise Unfit(*_misread(written), at=at)
    scheme = (found["scheme"] or "https").lower()
    if scheme not in STANDARD_PORTS:
        raise Unfit("has a scheme that is neither http nor https", ENTRY, at=at)
    port = None if found["port"] == "*" else int(found["port"] or STANDARD_PORTS[scheme])
    if port is not None and not 0 < port < 65_536:
        raise Unfit("has an impossible port", "Write a port from 1 to 65535, or :* for any.", at=at)
    host, slash, bits = found["host"].partition("/")
    if slash:
        return _Entry(scheme=scheme, port=port, network=_network(host, int(bits), at))
    if "*" in host:
        return _Entry(scheme=scheme, port=port, parent=_parent(host, at))
    plain = plain_host(host.strip("[]"))
    if plain is None or host.startswith("[") != isinstance(plain, IPv6Address):
        remedy = ENTRY if host.isascii() else "Write it in ASCII, as in xn--bcher-kva.example."
        raise Unfit("has a host that is no name and no address", remedy, at=at)
    if isinstance(plain, str):
        return _Entry(scheme=scheme, port=port, name=plain)
    return _Entry(scheme=scheme, port=port, network=ip_network(plain))


def _misread(written: str) -> tuple[str, str]:
    """What is wrong with what has not the form of an entry, and what to do."""
    if "@" in written:
        return "has a user or password in it", "Remove it: only scheme, host and port are compared."
    if "?" in written or "#" in written:
        return "has a query or fragment in it", "Remove it: only scheme, host and port are compared."
    after = written.rpartition("://")[2]
    if after.count(":") > 1 and "[" not in after:
        return "is an address of IPv6 without brackets", "Write it as in [fd00::1], or [fd00::]/8 for a network."
    if "/" in after:
        return "has a path in it", "Remove it: only scheme, host and port are compared."
    return "is no server", ENTRY


def _network(host: str, bits: int, at: str) -> Network:
    address = plain_host(host.strip("[]"))
    if address is None or isinstance(address, str) or host.startswith("[") != isinstance(address, IPv6Address):
        raise Unfit("has a network that is none", "Write it as in 10.0.0.0/8, or [fd00::]/8.", at=at)
    if not 0 < bits <= address.max_prefixlen:
        remedy = f"Write a number of bits from 1 to {address.max_prefixlen} behind the slash."
        raise Unfit("has an impossible network", remedy, at=at)
    network = ip_network((address, bits), strict=False)
    if network.network_address != address:
        meant = str(network.network_address) if network.version == 4 else f"[{network.network_address}]"
        remedy = f"Write {meant}/{bits} for the network, or leave /{bits} out for the one address."
        raise Unfit("has a network with an address of it", remedy, at=at)
    return network


def _parent(host: str, at: str) -> str:
    if host == "*":
        raise Unfit("allows every server", "Name the servers that may have the key, as in *.example.com.", at=at)
    parent = plain_host(host.removeprefix("*."))
    if not host.startswith("*.") or not isinstance(parent, str):
        raise Unfit("has a * in another place than before the first dot", "Write it as in *.example.com.", at=at)
    return f".{parent}"


def _is_metadata(name: str) -> bool:
    labels = name.split(".")
    return name in _METADATA_NAMES or (labels[-1] == "internal" and not _METADATA_LABELS.isdisjoint(labels))


def _why_not(address: Address) -> str | None:
    return next((reason for network, reason in _FORBIDDEN if address in network), None)


def _carried(address: Address) -> Iterator[Address]:
    """The addresses of IPv4 inside one of IPv6: a gateway, or the machine itself, may go there."""
    if isinstance(address, IPv4Address) or address.is_loopback:
        return  # ::1 has the form of an IPv4-compatible one
    value = int(address)
    for network, shift in _CARRIERS:
        if address in network:
            yield IPv4Address(value >> shift & 0xFFFF_FFFF)
    if address in _TEREDO:
        yield IPv4Address(~value & 0xFFFF_FFFF)
    if value >> 32 & 0xFDFF_FFFF == _ISATAP:
        yield IPv4Address(value & 0xFFFF_FFFF)
