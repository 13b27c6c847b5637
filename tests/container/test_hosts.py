"""Which servers a key may go to, and which no remote document may name: in every spelling."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container.configuration import Unfit
from llmwire.container.hosts import Hosts, forbidden, plain_host
from llmwire.services.routing.endpoint import server_of

METADATA = IPv4Address("169.254.169.254")
LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda label: "--" not in label)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
SCHEMES = st.sampled_from(["http", "https"])
PORTS = st.integers(1, 65_535)
LINK_LOCAL = st.integers(0, 0xFFFF).map(lambda end: IPv4Address(0xA9FE0000 | end))


def refused(raw: Any) -> str:
    with pytest.raises(Unfit) as caught:
        Hosts.parse(raw)
    return f"{caught.value.at}: {caught.value.problem}. {caught.value.remedy}"


def allows(entry: str, url: str) -> bool:
    return Hosts.parse([entry]).allows(server_of(url))


# Allow-lists


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("api.example.com", "https://api.example.com/v1"),
        ("api.example.com", "https://API.Example.COM.:443/v1"),
        ("API.example.com.", "https://api.example.com"),
        ("HTTPS://api.example.com:8443", "https://api.example.com:8443"),
        ("http://localhost", "http://localhost:80"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://llama_1:*", "http://llama_1:8000"),
        ("api.example.com:*", "https://api.example.com:1"),
        ("*.example.com", "https://api.example.com"),
        ("*.example.com", "https://a.b.example.com"),
        ("10.0.0.5", "https://10.0.0.5"),
        ("http://10.0.0.0/8:*", "http://10.255.0.1:8000"),
        ("http://10.0.0.0/8:8000", "http://10.255.0.1:8000"),
        ("10.0.0.0/8", "https://10.0.0.1"),
        ("[fd00::]/8", "https://[fd12::1]"),
        ("http://[fd00::]/8:8000", "http://[fd12::1]:8000"),
        ("[::1]:8000", "https://[0:0:0:0:0:0:0:1]:8000"),
        ("bücher.example", "https://xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "https://BÜCHER.example"),
        ("*.bücher.example", "https://a.xn--bcher-kva.example"),
    ],
)
def test_a_key_goes_to_a_server_of_its_list(entry, url):
    assert allows(entry, url)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("api.example.com", "http://api.example.com"),
        ("api.example.com", "http://api.example.com:443"),
        ("api.example.com", "https://api.example.com:8443"),
        ("api.example.com", "https://api.example.com.evil.example"),
        ("api.example.com", "https://xapi.example.com"),
        ("api.example.com", "https://a.api.example.com"),
        ("http://localhost:8000", "https://localhost:8000"),
        ("*.example.com", "https://example.com"),
        ("*.example.com", "https://badexample.com"),
        ("*.example.com", "https://.example.com"),
        ("*.example.com", "https://a..example.com"),
        ("*.example.com", "https://evil.example/.example.com"),
        ("*.example.com", "https://evil.example%2f.example.com"),
        ("*.example.com", "https://evil.example\\.example.com"),
        ("10.0.0.0/8", "https://11.0.0.1"),
        ("10.0.0.0/8", "https://10.example.com"),
        ("10.0.0.0/8", "https://10.1"),
        ("10.0.0.0/8", "https://012.0.0.1"),
        ("10.0.0.0/8", "https://0xa000001"),
        ("10.0.0.0/8", "https://167772161"),
        ("10.0.0.0/8", "https://[::ffff:10.0.0.1]"),
        ("[::]/1", "https://10.0.0.1"),
        ("[fe80::]/10", "https://[fe80::1%25eth0]"),
        ("127.0.0.1", "https://localhost"),
        ("localhost", "https://127.0.0.1"),
        ("strasse.example", "https://straße.example"),
        ("api.example.com", "https://api。example。com"),
        ("api.example.com", "https://%61pi.example.com"),
        ("api.example.com", ""),
        ("api.example.com", "api.example.com"),
        ("api.example.com", "ftp://api.example.com"),
    ],
)
def test_a_key_goes_to_no_other(entry, url):
    assert not allows(entry, url)


@pytest.mark.parametrize("server", ["https://u:p@a.example:443", "https://a.example:x", "https://[::1:443"])
def test_what_is_no_server_is_not_allowed(server):
    assert not Hosts.parse("a.example").allows(server)


def test_an_empty_list_allows_nothing():
    assert not Hosts().allows("https://api.example.com:443")


@pytest.mark.parametrize(
    "raw",
    [
        "a.example, http://b.example:*\n*.c.example 10.0.0.0/8 [fd00::1]",
        ["A.example.", "http://b.example:*", "*.C.example", "10.0.0.0/8", "[fd00:0::1]"],
        ("a.example", "a.example:443", "http://b.example:*", "*.c.example", "10.0.0.0/8", "[fd00::1]"),
    ],
)
def test_a_list_and_a_text_mean_the_same_and_show_what_is_compared(raw):
    hosts = Hosts.parse(raw)

    assert str(hosts) == (
        "https://a.example:443, http://b.example:*, https://*.c.example:443, https://10.0.0.0/8:443,"
        " https://[fd00::1]:443"
    )
    assert hosts == Hosts.parse(str(hosts))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("", ": names no server. Write it as in api.example.com, "),
        ([], ": names no server. "),
        (5, ": must be a list of servers. "),
        ({"a.example": 1}, ": must be a list of servers. "),
        (["a.example", 5], ": must be a list of servers. "),
        ("*", ": allows every server. Name the servers that may have the key, as in *.example.com."),
        (["a.example", "https://*:*"], "[2]: allows every server. "),
        ("api.*.com", ": has a * in another place than before the first dot. Write it as in *.example.com."),
        ("*example.com", ": has a * in another place "),
        ("*.*.com", ": has a * in another place "),
        ("*.", ": has a * in another place "),
        ("*.0.0.1", ": has a * in another place "),
        ("ftp://a.example", ": has a scheme that is neither http nor https. "),
        ("a.example:0", ": has an impossible port. Write a port from 1 to 65535, or :* for any."),
        ("a.example:65536", ": has an impossible port. "),
        ("a.example:http", ": is no server. "),
        ("https://a.example/v1", ": has a path in it. Remove it: only scheme, host and port are compared."),
        ("https://a.example/", ": has a path in it. "),
        ("u:hunter2@a.example", ": has a user or password in it. "),
        ("https://a.example?hunter2", ": has a query or fragment in it. "),
        ("https://a.example#hunter2", ": has a query or fragment in it. "),
        ("fd00::1", ": is an address of IPv6 without brackets. Write it as in [fd00::1], or [fd00::]/8 for a network."),
        ("fd00::/8", ": is an address of IPv6 without brackets. "),
        ("[fd00::1]/v1", ": has a path in it. "),
        ("https://", ": has a host that is no name and no address. "),
        ("a..example", ": has a host that is no name and no address. "),
        ("-a.example", ": has a host that is no name and no address. "),
        ("2130706433", ": has a host that is no name and no address. "),
        ("0x7f.1", ": has a host that is no name and no address. "),
        (
            "straße.example",
            ": has a host that is no name and no address. Write it in ASCII, as in xn--bcher-kva.example.",
        ),
        ("[10.0.0.1]", ": has a host that is no name and no address. "),
        ("[fe80::1%eth0]", ": has a host that is no name and no address. "),
        ("a.example/8", ": has a network that is none. Write it as in 10.0.0.0/8, or [fd00::]/8."),
        ("[10.0.0.0]/8", ": has a network that is none. "),
        ("10.1/8", ": has a network that is none. "),
        ("10.0.0.0/33", ": has an impossible network. Write a number of bits from 1 to 32 behind the slash."),
        ("0.0.0.0/0", ": has an impossible network. "),
        ("[::]/0", ": has an impossible network. Write a number of bits from 1 to 128 behind the slash."),
        ("10.1.2.3/8", ": has a network with an address of it. Write 10.0.0.0/8 for the network, or leave /8 out "),
        ("[fd00::1]/8", ": has a network with an address of it. Write [fd00::]/8 for the network, "),
    ],
)
def test_an_impossible_list_is_refused_where_it_stands(raw, told):
    assert refused(raw).startswith(told)


@pytest.mark.parametrize("entry", ["u:hunter2@a.example", "hunter2!", "https://a.example/hunter2", "hunter2::x"])
def test_what_is_no_server_is_not_shown(entry):
    assert "hunter2" not in refused(entry)


@given(name=NAMES, scheme=SCHEMES, port=PORTS)
def test_a_server_is_allowed_by_its_own_entry_and_by_that_of_no_other_port(name, scheme, port):
    server = f"{scheme}://{name}:{port}"

    assert Hosts.parse([server]).allows(server_of(server.upper().replace(scheme.upper(), scheme)))
    assert Hosts.parse([f"{scheme}://{name}:*"]).allows(server)
    assert not Hosts.parse([f"{scheme}://{name}:{port % 65_535 + 1}"]).allows(server)


@given(parent=NAMES, below=NAMES, port=PORTS)
def test_a_star_is_for_all_names_below_and_not_for_the_name_itself(parent, below, port):
    hosts = Hosts.parse([f"*.{parent}:*"])

    assert hosts.allows(f"https://{below}.{parent}:{port}")
    assert not hosts.allows(f"https://{parent}:{port}")
    assert not hosts.allows(f"https://x{parent}:{port}")


@given(address=st.ip_addresses(), bits=st.integers(1, 32), other=st.ip_addresses())
def test_a_network_is_for_its_addresses_alone(address, bits, other):
    shift = address.max_prefixlen - bits
    begin = type(address)(int(address) >> shift << shift)
    show = {4: "{}", 6: "[{}]"}
    hosts = Hosts.parse([f"{show[address.version].format(begin)}/{bits}"])

    assert hosts.allows(f"https://{show[address.version].format(address)}:443")
    is_inside = other.version == address.version and int(other) >> shift == int(address) >> shift
    assert hosts.allows(f"https://{show[other.version].format(other)}:443") == is_inside


@given(written=st.text(max_size=30))
def test_whatever_is_written_is_refused_or_means_what_it_shows(written):
    with contextlib.suppress(Unfit):
        hosts = Hosts.parse([written])

        assert Hosts.parse(str(hosts)) == hosts


# Hosts


@given(name=NAMES, dot=st.sampled_from(["", "."]))
def test_a_name_has_one_spelling(name, dot):
    assert plain_host(name.upper() + dot) == plain_host(name) == name


@given(address=st.ip_addresses(v=6))
def test_an_address_of_ipv6_has_one_spelling(address):
    assert plain_host(address.exploded.upper()) == plain_host(str(address)) == address


# Forbidden servers


def spellings(address: IPv4Address) -> st.SearchStrategy[str]:
    """All that inet_aton takes for an address: one to four parts, each decimal, octal or hexadecimal."""

    def part(value: int) -> st.SearchStrategy[str]:
        zeros = st.integers(0, 3).map("0".__mul__)
        return st.one_of(
            st.just(str(value)),
            zeros.map(lambda more: f"0{more}{value:o}"),
            zeros.map(lambda more: f"0x{more}{value:x}"),
            zeros.map(lambda more: f"0X{more}{value:X}"),
        )

    packed, value = address.packed, int(address)
    parts = (
        [value],
        [packed[0], value & 0xFFFFFF],
        [packed[0], packed[1], value & 0xFFFF],
        list(packed),
    )
    return st.one_of(*(st.tuples(*map(part, each)).map(".".join) for each in parts))


def inside_ipv6(address: IPv4Address) -> list[IPv6Address]:
    """The addresses of IPv6 by which gateways or the machine itself reach one of IPv4."""
    value = int(address)
    return [
        IPv6Address(number)
        for number in (
            value,
            0xFFFF << 32 | value,
            0xFFFF << 48 | value,
            0x64FF9B << 96 | value,
            0x64FF9B0001 << 80 | value,
            0x2002 << 112 | value << 80 | 1,
            0x20010000 << 96 | value << 64 | 0xFFFF,
            0x20010000 << 96 | 0x08080808 << 64 | ~value & 0xFFFFFFFF,
            0x20010DB8 << 96 | 0x00005EFE << 32 | value,
            0x20010DB8 << 96 | 0x02005EFE << 32 | value,
        )
    ]


@given(written=LINK_LOCAL.flatmap(spellings), scheme=SCHEMES, dot=st.sampled_from(["", "."]), port=PORTS)
def test_a_link_local_address_is_forbidden_in_all_that_resolvers_take_for_it(written, scheme, dot, port):
    assert forbidden(f"{scheme}://{written}{dot}:{port}/latest")


@given(data=st.data(), address=st.sampled_from(["100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0"]))
def test_so_are_the_addresses_of_single_clouds_and_the_one_of_no_server(data, address):
    written = data.draw(spellings(IPv4Address(address)))

    assert forbidden(f"http://{written}:8000/v1")


@given(data=st.data(), address=LINK_LOCAL)
def test_an_address_that_is_carried_in_one_of_ipv6_is_forbidden_too(data, address):
    carrier = data.draw(st.sampled_from(inside_ipv6(address)))
    written = data.draw(st.sampled_from([str(carrier), carrier.exploded, carrier.exploded.upper()]))

    assert forbidden(f"http://[{written}]:8000/v1") in (
        "is a link-local address, where clouds hand out the keys of a machine",
        "is an address of a network's own gateway to IPv4, which leads anywhere",
    )


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("169.254.169.254", "is a link-local address, where clouds hand out the keys of a machine"),
        ("[::ffff:169.254.169.254]", "is a link-local address, where clouds hand out the keys of a machine"),
        ("[fe80::1]", "is a link-local address, where clouds hand out the keys of a machine"),
        ("[FEBF::1]", "is a link-local address, where clouds hand out the keys of a machine"),
        ("[fd00:ec2::254]", "is an address of AWS's own, where it hands out the keys of a machine"),
        ("[fd20:ce::254]", "is the address where Google hands out the keys of a machine"),
        ("[fd00:42::42]", "is the address where Scaleway hands out the keys of a machine"),
        ("100.100.100.200", "is the address where Alibaba hands out the keys of a machine"),
        ("168.63.129.16", "is the address where Azure speaks to its machines"),
        ("192.0.0.192", "is the address where Oracle hands out the keys of a machine"),
        ("0.0.0.0", "is no address of any one server"),
        ("[::]", "is no address of any one server"),
        ("[::ffff:0.0.0.0]", "is no address of any one server"),
        ("metadata", "is a name where clouds hand out the keys of a machine"),
        ("Metadata.Google.Internal.", "is a name where clouds hand out the keys of a machine"),
        ("metadata.azure.internal", "is a name where clouds hand out the keys of a machine"),
        ("x.metadata.google.internal", "is a name where clouds hand out the keys of a machine"),
        ("instance-data", "is a name where clouds hand out the keys of a machine"),
        ("instance-data.eu-west-1.compute.internal", "is a name where clouds hand out the keys of a machine"),
        ("metadata.goog", "is a name where clouds hand out the keys of a machine"),
    ],
)
def test_it_is_said_why_a_server_is_forbidden(host, why):
    assert forbidden(f"http://{host}/v1") == forbidden(f"https://{host}:8443") == why


def wide(text: str) -> str:
    """In the full-width letters of East Asian type, which IDNA takes for the plain ones."""
    return "".join(chr(ord(letter) + 0xFEE0) for letter in text)


PLAIN = "has a host that is no plain name and no plain address, as in api.example.com or 10.0.0.5"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://%31%36%39.254.169.254", PLAIN),
        ("http://169%2e254%2e169%2e254", PLAIN),
        ("http://%6detadata.google.internal", PLAIN),
        ("http://%256detadata", PLAIN),
        (f"http://{wide('169')}.254.169.254", PLAIN),
        (f"http://169{wide('.')}254{wide('.')}169{wide('.')}254", PLAIN),
        ("http://169。254。169。254", PLAIN),
        ("http://169｡254｡169｡254", PLAIN),
        ("http://①⑥⑨.254.169.254", PLAIN),
        ("http://metadata。google。internal", PLAIN),
        ("http://ⓜetadata.google.internal", PLAIN),
        (f"http://{wide('metadata')}", PLAIN),
        ("http://meta\u00addata.google.internal", "has a character in it that no URL has"),
        ("http://meta\u200bdata.google.internal", "has a character in it that no URL has"),
        ("http://[fe80::1%25eth0]", PLAIN),
        ("http://425.510.425.510", PLAIN),
        ("http://0x", PLAIN),
        ("http://a.example.1", PLAIN),
        ("http://a..example", PLAIN),
        (f"http://{'a' * 64}.example", PLAIN),
        (f"http://{'a.' * 126}aa", PLAIN),
        ("http://127.1", PLAIN),
        ("http://", PLAIN),
        ("http:/169.254.169.254", PLAIN),
        ("http://a.example\\@169.254.169.254", "has a character in it that no URL has"),
        ("http://169.254.\t169.254", "has a character in it that no URL has"),
        (" http://169.254.169.254", "has a character in it that no URL has"),
        ("http://a.example@169.254.169.254", "has a user or password in it"),
        ("http://[::1", "has no valid host"),
    ],
)
def test_a_host_that_is_not_written_plainly_is_forbidden(url, why):
    assert forbidden(url) == why


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "api.localhost",
        "127.0.0.1",
        "127.8.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.5",
        "192.168.1.2",
        "169.253.255.255",
        "169.255.0.0",
        "100.100.100.201",
        "[fd00::5]",
        "[2001:db8::1]",
        "llama_1",
        "a.b.example.",
        f"{'a' * 63}.example",
        f"{'a.' * 126}a",
        "api.openai.com",
        "llama.internal",
        "metadata.example.com",
        "llm-169.254.example",
        "bücher.example",
        "xn--bcher-kva.example",
    ],
)
def test_other_servers_may_be_named_those_of_this_machine_too(host):
    assert forbidden(f"http://{host}:8000/v1") is None


@given(name=NAMES.filter(lambda name: "internal" not in name and "metadata" not in name), port=PORTS)
def test_a_name_of_no_cloud_may_be_named(name, port):
    assert forbidden(f"https://{name}.example:{port}/v1") is None


@given(url=st.text(max_size=40) | st.text(max_size=40).map("http://".__add__))
def test_whatever_a_document_names_is_allowed_or_forbidden_without_an_error(url):
    why = forbidden(url)

    assert why is None or why.startswith(("is ", "has "))
