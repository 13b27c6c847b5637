"""The forms in which people write a URL, and what each of them means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container.address import UnusableURL, azure_address, is_loopback, masked, openai_address
from llmwire.services.secrets import MASK

#: passwords of all kinds, of letters that stand in no host below
SECRETS = st.text(alphabet="XYZ@:/?#=%\n ", min_size=1).map(lambda text: f"X{text}Z")


@pytest.mark.parametrize(
    "written",
    ["http://localhost:8000", "http://localhost:8000/", "http://localhost:8000//", "HTTP://localhost:8000"],
)
def test_a_url_without_a_path_gets_the_standard_one(written):
    address = openai_address(written)

    assert address.base_url == "http://localhost:8000/v1"
    assert address.notes == ("/v1 was added",)


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v2", "/api/openai/v1", "/models/v1"])
def test_a_url_with_a_path_stays_as_it_is(path):
    address = openai_address(f"https://llm.example.com{path}")

    assert address.base_url == f"https://llm.example.com{path}".rstrip("/")
    assert address.notes == ()


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("pasted", ["/chat/completions", "/completions", "/embeddings", "/responses", "/models"])
@pytest.mark.parametrize(("path", "expected"), [("", "/v1"), ("/v1", "/v1"), ("/api/v3", "/api/v3")])
def test_a_pasted_path_of_the_api_is_cut_off_and_noted(path, expected, pasted, end):
    address = openai_address(f"https://llm.example.com{path}{pasted}{end}")

    assert address.base_url == f"https://llm.example.com{expected}"
    assert address.notes == (f"{pasted} was cut off: the client adds it",)


@pytest.mark.parametrize(
    ("api_path", "expected"),
    [("/v2", "/v2"), ("v2", "/v2"), ("/v2/", "/v2"), ("/", ""), ("/models", "/models"), ("a/b", "/a/b")],
)
@pytest.mark.parametrize("read", [openai_address, azure_address])
def test_an_api_path_takes_the_place_of_the_whole_path(read, api_path, expected):
    address = read("https://llm.example.com/v1/embeddings", api_path)

    assert address.base_url == f"https://llm.example.com{expected}"
    assert address.notes == ()


@pytest.mark.parametrize(
    ("path", "expected", "cut"),
    [
        ("", "/openai", None),
        ("/", "/openai", None),
        ("/openai", "/openai", None),
        ("/openai/", "/openai", None),
        ("/gateway", "/gateway/openai", None),
        ("/gateway/openai", "/gateway/openai", None),
        ("/openai-proxy", "/openai-proxy/openai", None),
        ("/openai/deployments/gpt/chat/completions", "/openai", "/openai/deployments/gpt/chat/completions"),
    ],
)
def test_an_azure_address_ends_in_openai(path, expected, cut):
    address = azure_address(f"https://mine.openai.azure.com{path}")

    assert address.base_url == f"https://mine.openai.azure.com{expected}"
    assert address.notes == ((f"{cut} was cut off: the client adds it",) if cut else ())


@pytest.mark.parametrize(
    ("url", "problem", "remedy"),
    [
        ("localhost:8000", "no scheme", "Write http://localhost:8000."),
        ("127.0.0.1:8000/v1", "no scheme", "Write http://127.0.0.1:8000/v1."),
        ("[::1]:8000", "no scheme", "Write http://[::1]:8000."),
        ("llm.example.com", "no scheme", "Write https://llm.example.com."),
        ("ftp://llm.example.com", "scheme 'ftp'", "http or https"),
        ("http://", "no host", "http://localhost:8000"),
        ("http:///v1", "no host", "http://localhost:8000"),
        ("http://:8000", "no host", "http://localhost:8000"),
        ("http://local host", "blank", "Remove it"),
        ("http://localhost\n", "line break", "Remove it"),
        ("http://localhost\x00", "blank or a line break", "Remove it"),
        ("http://localhost?a=b", "query", "Remove"),
        ("http://localhost#part", "fragment", "Remove"),
        ("http://user:word@localhost", "user or password", "api_key"),
        ("http://user@localhost", "user or password", "api_key"),
        ("http://localhost:99999", "port", "1 to 65535"),
        ("http://localhost:0", "port", "1 to 65535"),
        ("http://localhost:port", "port", "1 to 65535"),
        ("http://[::1", "no valid host", "http://localhost:8000"),
        ("http://exa\u2100mple.com", "no valid host", "http://localhost:8000"),
    ],
)
@pytest.mark.parametrize("read", [openai_address, azure_address])
def test_what_can_be_no_base_url_is_refused_with_what_to_do(read, url, problem, remedy):
    with pytest.raises(UnusableURL) as refused:
        read(url)

    assert problem in refused.value.problem
    assert remedy in refused.value.remedy


@given(secret=SECRETS, host=st.sampled_from(["localhost:1", "llm.example.com/v1", "[::1]:8000"]))
@pytest.mark.parametrize(
    "form",
    [
        "https://{secret}@{host}",
        "https://me:{secret}@{host}",
        "{secret}@{host}",
        "http://{host}?a={secret}",
        "{host}#{secret}",
    ],
)
def test_neither_a_masked_url_nor_an_error_shows_a_password(form, secret, host):
    url = form.format(secret=secret, host=host)

    with pytest.raises(UnusableURL) as refused:
        openai_address(url)

    assert not set("XYZ").intersection(masked(url))
    assert not set("XYZ").intersection(str(refused.value))


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "https://llm.example.com", "localhost:8000", "[::1]/a/b"])
def test_a_url_without_a_secret_is_shown_whole(url):
    assert masked(url) == url


@pytest.mark.parametrize("key", ["sk-proj-1", "sk/1", "sk:1", "Bearer sk-1.2", "c2stMQ=="])
def test_a_key_in_the_place_of_a_url_is_not_shown(key):
    assert masked(key) == MASK
    with pytest.raises(UnusableURL) as refused:
        openai_address(key)
    assert "1" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000/v1", True),
        ("https://LOCALHOST", True),
        ("http://my.localhost", True),
        ("http://127.0.0.1", True),
        ("http://127.1.2.3:8000", True),
        ("http://[::1]:8000", True),
        ("http://127.example.com", False),
        ("http://localhost.example.com", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://[fe80::1]", False),
    ],
)
def test_loopback_is_this_machine_by_name(url, expected):
    assert is_loopback(url) is expected


@given(
    host=st.sampled_from(["localhost", "LLM.example.com", "[::1]", "127.0.0.1"]),
    port=st.none() | st.integers(min_value=1, max_value=65535),
    segments=st.lists(st.sampled_from(["v1", "api", "openai", "a%20b"]), max_size=3),
)
@pytest.mark.parametrize("read", [openai_address, azure_address])
def test_an_address_is_its_own_address(read, host, port, segments):
    address = read("/".join([f"https://{host}" + (f":{port}" if port else ""), *segments]))

    assert read(address.base_url).base_url == address.base_url
    assert not address.base_url.endswith("/")


@pytest.mark.parametrize("url", ["http://[v1.x]", "http://a/" + "b" * 2048])
def test_what_no_client_takes_is_no_address(url):
    with pytest.raises(UnusableURL):
        openai_address(url)
