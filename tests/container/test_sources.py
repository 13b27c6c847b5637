"""What may be written of sources, what is made of it, and which secret goes where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container.configuration import Unfit
from llmwire.container.sources import Kind, Source, sources
from llmwire.container.values import NO_KEY
from llmwire.services.discovery import etcd, http
from llmwire.services.discovery.consul import ConsulDocument
from llmwire.services.discovery.file import FileCatalogue
from llmwire.services.discovery.instances import ConsulInstances
from llmwire.services.errors import DiscoveryError
from llmwire.services.secrets import Secret

TOKEN = "5ec2e7-0f-mine"
CENTRE = "consul://centre.example/llmwire/prod"
STORE = "etcd://centre.example/llmwire/prod"


def one(raw: Any) -> Source:
    (source,) = sources(raw)
    return source


def refused(raw: Any) -> str:
    with pytest.raises(Unfit) as caught:
        sources(raw)
    return f"{caught.value.at}: {caught.value.problem}. {caught.value.remedy}"


# What is written


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (
            "consul://127.0.0.1/llmwire/prod",
            Source(
                kind=Kind.CONSUL,
                name="consul://127.0.0.1:8500/llmwire/prod",
                path="llmwire/prod",
                url="http://127.0.0.1:8500",
            ),
        ),
        (
            "CONSUL+HTTPS://Centre.Example.:1234/llmwire/prod/?dc=eu&ns=team&token_file=/t&ca_file=/ca&cert_file=/c&key_file=/k",
            Source(
                kind=Kind.CONSUL,
                name="consul+https://centre.example:1234/llmwire/prod?dc=eu&ns=team",
                path="llmwire/prod",
                url="https://centre.example:1234",
                datacenter="eu",
                namespace="team",
                secret_file="/t",
                ca_file="/ca",
                cert_file="/c",
                key_file="/k",
            ),
        ),
        (
            "consul+service://[::1]/llama?tag=eu&tag=gpu&dc=eu",
            Source(
                kind=Kind.INSTANCES,
                name="consul+service://[::1]:8500/llama?dc=eu&tag=eu&tag=gpu",
                path="llama",
                url="http://[::1]:8500",
                datacenter="eu",
                tags=("eu", "gpu"),
            ),
        ),
        (
            "consul://centre.example/a%20b%3F%25%40%C3%BC",
            Source(
                kind=Kind.CONSUL,
                name="consul://centre.example:8500/a%20b%3F%25%40%C3%BC",
                path="a b?%@ü",
                url="http://centre.example:8500",
            ),
        ),
        (
            "consul+service+https://centre.example/llama",
            Source(
                kind=Kind.INSTANCES,
                name="consul+service+https://centre.example:8501/llama",
                path="llama",
                url="https://centre.example:8501",
            ),
        ),
        (
            "etcd://127.0.0.1/llmwire/prod?user=root&password_file=/run/password",
            Source(
                kind=Kind.ETCD,
                name="etcd://127.0.0.1:2379/llmwire/prod",
                path="llmwire/prod",
                url="http://127.0.0.1:2379",
                user="root",
                secret_file="/run/password",
            ),
        ),
        (
            "etcd+https://centre.example//llmwire/prod/",
            Source(
                kind=Kind.ETCD,
                name="etcd+https://centre.example:2379//llmwire/prod",
                path="/llmwire/prod",
                url="https://centre.example:2379",
            ),
        ),
        (
            "file:///etc/llm%20wire.conf",
            Source(kind=Kind.FILE, name="file:///etc/llm%20wire.conf", path="/etc/llm wire.conf"),
        ),
        (
            "file://localhost/etc/llmwire.toml",
            Source(kind=Kind.FILE, name="file:///etc/llmwire.toml", path="/etc/llmwire.toml"),
        ),
        ("/etc/llmwire.JSON", Source(kind=Kind.FILE, name="file:///etc/llmwire.JSON", path="/etc/llmwire.JSON")),
    ],
)
def test_a_url_says_where_a_source_is(url, source):
    assert sources(url) == sources([url]) == sources({"url": url}) == (source,)


def test_a_relative_path_is_of_the_working_directory(tmp_path):
    source = one("conf/llm.toml")

    assert (source.path, source.name) == (f"{tmp_path}/conf/llm.toml", f"file://{tmp_path}/conf/llm.toml")
    assert source == one("./conf/llm.toml") == one(Path("conf/llm.toml")) == one([Path("conf/llm.toml")])


def test_a_path_with_a_blank_or_a_comma_is_written_in_a_list():
    assert one(["/etc/a, b.toml"]).path == "/etc/a, b.toml"


@pytest.mark.parametrize("scheme", ["consul", "consul+service", "etcd"])
def test_tls_may_be_said_by_scheme_or_option(scheme):
    by_scheme = one(f"{scheme}+https://centre.example/a")

    assert by_scheme == one(f"{scheme}://centre.example/a?tls=true")
    assert by_scheme == one({"url": f"{scheme}://centre.example/a", "tls": True})
    assert by_scheme == one(f"{scheme}+https://centre.example/a?tls=yes")
    assert by_scheme != one(f"{scheme}://centre.example/a?tls=false") == one(f"{scheme}://centre.example/a")


def test_what_is_blank_or_null_is_not_said():
    plain = one(CENTRE)

    assert plain == one(f"{CENTRE}?dc=&ns=&tls=&token_file=&&")
    assert plain == one({"url": CENTRE, "dc": "", "ns": None, "token": " "})


def test_a_table_holds_the_options_beside_the_url():
    table = {"url": "consul+service://centre.example/llama?ns=team", "dc": "eu", "tag": ["b", "c"], "token": TOKEN}

    source = one(table)

    assert source.name == "consul+service://centre.example:8500/llama?dc=eu&ns=team&tag=b&tag=c"
    assert (source.datacenter, source.namespace, source.tags) == ("eu", "team", ("b", "c"))
    assert source.secret == Secret(TOKEN)


def test_a_secret_of_code_is_taken_as_it_is():
    assert one({"url": CENTRE, "token": Secret(TOKEN)}).secret == Secret(TOKEN)
    assert one({"url": STORE, "user": "root", "password": Secret("a b")}).secret == Secret("a b")
    assert one({"url": STORE, "user": "root", "password": " a b"}).secret == Secret(" a b")


@pytest.mark.parametrize("between", [",", " ", "\n", " ,\n "])
def test_several_sources_stand_in_their_order(between):
    urls = ["etcd://b/k", "consul://a/k", "/etc/c.toml"]

    assert sources(f" {between.join(urls)}{between}") == sources(urls) == tuple(map(one, urls))


@pytest.mark.parametrize("different", ["?dc=eu", "?ns=eu", "/more", "?tls=true"])
def test_other_places_at_one_server_are_other_sources(different):
    assert len(sources([CENTRE, f"{CENTRE}{different}"])) == 2


SAME = ": is the same as source 1. Keep one of them."


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        # The whole
        ("", ": names no source. Write it as in consul://127.0.0.1:8500/llmwire/prod, "),
        ([], ": names no source. "),
        (5, ": must be a URL, a path or a table, not int. "),
        ([CENTRE, 5], "[2]: must be a URL, a path or a table, not int. "),
        ([[CENTRE]], "[1]: must be a URL, a path or a table, not list. "),
        ({}, ".url: is not set. "),
        ([CENTRE, {"dc": "eu"}], "[2].url: is not set. "),
        ({"url": 5}, ".url: must be a URL, a path or a table, not int. "),
        ([CENTRE, CENTRE], f"[2]{SAME}"),
        (f"{CENTRE} {STORE} CONSUL://Centre.Example.:8500/llmwire/prod/?token_file=x", f"[3]{SAME}"),
        (["a.toml", "./a.toml"], f"[2]{SAME}"),
        ([{"url": CENTRE, "dc": "eu"}, f"{CENTRE}?dc=eu"], f"[2]{SAME}"),
        (["consul+service://h/a?tag=b&tag=c", "consul+service://h/a?tag=c&tag=b&tag=c"], f"[2]{SAME}"),
        # Schemes
        ("centre.example:8500/llmwire", ": is no source. Write it as in consul://"),
        ("/etc/llmwire", ": is no source. "),
        ("http://centre.example/k", ": has the scheme http, which says no centre's kind. Write consul:// or etcd://."),
        ("https://centre.example/k", ": has the scheme https, which says no centre's kind. Write consul+https:// or e"),
        ("consol://centre.example/k", ": has a scheme that no source has. Did you mean consul://?"),
        ("ectd+https://centre.example/k", ": has a scheme that no source has. Did you mean etcd+https://?"),
        ("zookeeper://centre.example/k", ": has a scheme that no source has. Write it as in consul://"),
        ("file+https:///etc/a.toml", ": has a scheme that no source has. "),
        # Servers
        ("consul:///k", ": has no valid host. "),
        ("consul://[::1/k", ": has no valid host. "),
        ("consul://[fe80::1%25eth0]/k", ": has no valid host. "),
        ("consul://a..b/k", ": has no valid host. "),
        ("consul://127.1/k", ": has no valid host. "),
        ("consul://centre.example:0/k", ": has an impossible port. Write a port from 1 to 65535."),
        ("consul://centre.example:65536/k", ": has an impossible port. "),
        ("consul://centre.example:x/k", ": has an impossible port. "),
        (f"consul://u:{TOKEN}@centre.example/k", ": has a user or password in it. Remove it. Name a file that holds t"),
        (f"etcd://u:{TOKEN}@centre.example/k", ": has a user or password in it. Remove it. Write user and password_fi"),
        ([{"url": CENTRE}, {"url": f"consul://{TOKEN}@h/k"}], "[2].url: has a user or password in it. "),
        ([f"{CENTRE}\n/x"], "[1]: has a blank or a line break in it. "),
        (f"{CENTRE}#x", ": has a fragment in it. Remove what follows the #, or write %23."),
        # Paths
        ("consul://centre.example", ": names no key. "),
        ("consul://centre.example//", ": names no key. "),
        ("etcd://centre.example/", ": names no key. "),
        ("consul+service://centre.example/", ": names no service. "),
        ("consul+service://centre.example/a/b", ": names a service with a slash in it. Write the service alone, "),
        ("consul+service://centre.example/a%2Fb", ": names a service with a slash in it. "),
        ("consul://centre.example/a//b", ": has a blank part, or one of dots alone, in its key. "),
        ("consul://centre.example/a/../b", ": has a blank part, or one of dots alone, in its key. "),
        ("consul://centre.example/a/%2E%2e/b", ": has a blank part, or one of dots alone, in its key. "),
        ("consul://centre.example/a%0Ab", ": has a character in its path that no key has. "),
        ("consul://centre.example/%ff", ": has a percent sign that stands for no text. "),
        ("file://", ": names no file. Write it as in file:///etc/llmwire.toml."),
        ("file:///%00.toml", ": names no file. "),
        ("file://etc/llmwire.toml", ": names a host. Write three slashes before the path, "),
        ("file:///etc/llmwire.toml?dc=eu", ".dc: is no setting. Leave it out: a file has none."),
        ({"url": "/etc/a.toml", "dc": "eu"}, ".dc: is no setting. Leave it out: a file has none."),
        # Options
        (f"{CENTRE}?tokenfile=x", ".tokenfile: is no setting. Did you mean token_file?"),
        (f"{CENTRE}?tag=x", ".tag: is no setting. Known are ca_file, cert_file, dc, key_file, ns, tls, token_file."),
        (f"{CENTRE}?password_file=x", ".password_file: is no setting. "),
        (f"{STORE}?zzz=x", ".zzz: is no setting. Known are ca_file, cert_file, key_file, password_file, tls, user."),
        (f"{CENTRE}?{TOKEN}", ": has an option that is none. "),
        (f"{CENTRE}?{TOKEN}=1", ": has an option that is none. "),
        (f"{CENTRE}?dc=%ff", ": has a percent sign that stands for no text. "),
        (f"{CENTRE}?dc=a&dc=a", ".dc: stands in the URL twice. Keep one of them."),
        (f"{CENTRE}?dc=a+b", ".dc: must be one word, not 'a b'. "),
        (f"{CENTRE}?tls=maybe", ".tls: must be true or false, not 'maybe'. "),
        (f"{CENTRE}?token_file=a%0Ab", ".token_file: has a line break or another control character in it. "),
        ([CENTRE, {"url": STORE, "usr": "a"}], "[2].usr: is no setting. Did you mean user?"),
        ({"url": CENTRE, "Token": TOKEN}, ".Token: is no setting. Did you mean token?"),
        ({"url": CENTRE, 5: "a"}, ".5: is no setting. "),
        ({"url": f"{CENTRE}?dc=a", "dc": "b"}, ".dc: stands in the URL and beside it. Keep one of them."),
        ({"url": CENTRE, "token_file": 5}, ".token_file: must be text, not int. "),
        ({"url": CENTRE, "token": 5}, ".token: must be text, not int. "),
        ({"url": CENTRE, "token": f"Bearer {TOKEN}"}, ".token: has a blank or a line break in it. "),
        ({"url": STORE, "user": "a", "password": 5}, ".password: must be text, not int. "),
        ({"url": "consul+service://h/a", "tag": [5]}, ".tag: must be a list of words. "),
        ("consul+https://h/k?tls=false", ".tls: is false, and the URL says +https. Keep one of them."),
        (f"{CENTRE}?ca_file=/a", ".ca_file: is for TLS alone. Write consul+https://, or leave it out."),
        (f"{STORE}?cert_file=/a", ".cert_file: is for TLS alone. Write etcd+https://, "),
        (f"{CENTRE}?tls=true&key_file=/a", ".key_file: is the key of no certificate. Name the certificate as cert_f"),
        (f"{STORE}?user=root", ".user: has no password. Write user and password_file, or leave both out and set ETCD"),
        (f"{STORE}?password_file=/a", ".user: is not set, and a password is. "),
        # Secrets in URLs
        (
            f"{CENTRE}?token={TOKEN}",
            ": has a secret in it. Remove it. Name a file that holds the token as token_file, ",
        ),
        (f"{CENTRE}?TOKEN={TOKEN}", ": has a secret in it. "),
        (f"consul+service://h/a?tok%65n={TOKEN}", ": has a secret in it. "),
        (f"{STORE}?user=root&password={TOKEN}", ": has a secret in it. Remove it. Write user and password_file, or s"),
    ],
)
def test_what_no_source_can_be_is_refused_where_it_stands(raw, told):
    said = refused(raw)

    assert said.startswith(told)
    assert said.endswith((".", "?"))
    assert TOKEN not in said


@pytest.mark.parametrize(
    "written",
    [
        TOKEN,
        f"consul:{TOKEN}",
        f"consul://{TOKEN}_/",
        f"consul://root:{TOKEN}@h/k",
        f"consul://root:8500/{TOKEN}@h/k",
        f"consul://root:8500?{TOKEN}@h/k",
        f"consul://root:8500#{TOKEN}@h/k",
        f"consul://root:{TOKEN}]@h/k",
        f"consul://root:{TOKEN}\u2100@h/k",
        f"consul://h/k?acl_token={TOKEN}",
        f"{TOKEN}://h/k",
        f"file://{TOKEN}/x",
    ],
)
@pytest.mark.parametrize("form", [str, lambda url: [CENTRE, url], lambda url: {"url": url}])
def test_a_secret_at_a_wrong_place_is_not_shown(written, form):
    with pytest.raises(Unfit) as caught:
        sources(form(written))

    error: BaseException | None = caught.value
    while error is not None:
        assert TOKEN not in f"{error!r} {error}"
        error = error.__context__


@given(raw=st.text(max_size=40) | st.text(max_size=40).map("consul://a/".__add__) | st.text().map("etcd://".__add__))
def test_whatever_is_written_is_refused_or_has_a_name_that_means_the_same(raw):
    try:
        source = one([raw])
    except Unfit:
        return

    again = one([source.name])
    assert (again.name, again.kind, again.path, again.url) == (source.name, source.kind, source.path, source.url)


# Secrets are not seen


def test_no_secret_is_in_a_name_or_what_is_shown(tmp_path):
    consul = one({"url": CENTRE, "token": TOKEN, "token_file": TOKEN})
    store = one({"url": STORE, "user": "root", "password": TOKEN})
    env = {"CONSUL_HTTP_TOKEN": TOKEN, "ETCDCTL_USER": f"root:{TOKEN}"}

    for source in (consul, store, one(CENTRE), one(STORE)):
        shown = f"{source!r} {source} {source.name} {source.warnings(env)} {source.catalogue('completion', env)!r}"
        assert TOKEN not in shown


# What is made of it


@pytest.mark.parametrize(
    ("raw", "kind", "name", "is_remote", "is_whole"),
    [
        (f"{CENTRE}?dc=eu", ConsulDocument, "consul://centre.example:8500/llmwire/prod/embedding?dc=eu", True, False),
        ("consul+service://h/a", ConsulInstances, "consul+service://h:8500/a", True, False),
        (STORE, etcd.EtcdDocument, "etcd://centre.example:2379/llmwire/prod/embedding", True, False),
        ("/etc/llmwire.toml", FileCatalogue, "file:///etc/llmwire.toml", False, True),
    ],
)
def test_a_source_is_asked_for_the_document_of_one_function(raw, kind, name, is_remote, is_whole):
    catalogue = one(raw).catalogue("embedding", {})

    assert type(catalogue) is kind
    assert (catalogue.name, catalogue.is_remote, catalogue.is_whole) == (name, is_remote, is_whole)


class Made:
    """What would be asked: the access of the last session, and what the catalogue was made with."""

    access: http.Access
    said: dict[str, Any]

    def session(self, access: http.Access) -> Made:
        self.access = access
        return self

    def catalogue(self, session: Made, **said: Any) -> Made:
        self.said = said
        return self

    def of(self, raw: Any, env: dict[str, str] | None = None) -> Made:
        assert one(raw).catalogue("completion", env or {}) is self
        return self

    @property
    def token(self) -> str | None:
        return dict(self.access.headers()).get("X-Consul-Token")

    @property
    def password(self) -> str | None:
        return None if self.said["password"] is None else self.said["password"]().reveal()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    monkeypatch.setattr(http, "Session", made.session)
    for module, name in (
        ("consul", "ConsulDocument"),
        ("instances", "ConsulInstances"),
        ("etcd", "EtcdDocument"),
    ):
        monkeypatch.setattr(f"llmwire.services.discovery.{module}.{name}", made.catalogue)
    return made


def test_a_document_is_asked_for_by_its_key_and_place(made):
    made.of(f"{CENTRE}?dc=eu&ns=team&tls=true&ca_file=/ca&cert_file=/cert&key_file=/key")

    assert made.said == {
        "key": "llmwire/prod/completion",
        "name": "consul+https://centre.example:8501/llmwire/prod/completion?dc=eu&ns=team",
        "datacenter": "eu",
        "namespace": "team",
    }
    assert made.access.url == "https://centre.example:8501"
    assert (made.access.ca_file, made.access.cert_file, made.access.key_file) == ("/ca", "/cert", "/key")


def test_instances_are_asked_for_by_service_and_tags(made):
    made.of("consul+service://h/a?tag=eu&tag=gpu")

    assert made.said == {
        "service": "a",
        "function": "completion",
        "name": "consul+service://h:8500/a?tag=eu&tag=gpu",
        "tag": ("eu", "gpu"),
        "datacenter": None,
        "namespace": None,
    }


def test_a_key_of_etcd_may_begin_with_a_slash(made):
    made.of("etcd://h//llmwire/prod")

    assert made.said == {
        "key": "/llmwire/prod/completion",
        "name": "etcd://h:2379//llmwire/prod/completion",
        "user": None,
        "password": None,
    }


# Which secret goes where


def test_the_token_that_is_written_nearest_is_sent(made, tmp_path):
    (tmp_path / "own").write_text("of-own-file\n")
    (tmp_path / "shared").write_text("of-shared-file\n")
    env = {"CONSUL_HTTP_TOKEN": " of-env ", "CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "shared")}
    only_file = {**env, "CONSUL_HTTP_TOKEN": " "}

    assert made.of({"url": CENTRE, "token": "of-table", "token_file": "own"}, env).token == "of-table"
    assert made.of({"url": CENTRE, "token_file": "own"}, env).token == "of-own-file"
    assert made.of({"url": CENTRE, "token_file": Path("own")}, env).token == "of-own-file"
    assert made.of(f"{CENTRE}?token_file=own", env).token == "of-own-file"
    assert made.of(CENTRE, env).token == "of-env"
    assert made.of("consul+service://h/a", env).token == "of-env"
    assert made.of(CENTRE, only_file).token == "of-shared-file"
    assert made.of(CENTRE).token is None


def test_none_sends_no_token_whatever_the_environment_says(made):
    source = {"url": CENTRE, "token": "none"}

    assert made.of(source, {"CONSUL_HTTP_TOKEN": TOKEN}).token is None
    assert one(source).secret == NO_KEY


def test_the_process_environment_is_looked_at_where_no_other_is_given(made, monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", TOKEN)
    monkeypatch.delenv("CONSUL_HTTP_ADDR", raising=False)

    one(CENTRE).catalogue("completion")

    assert made.token == TOKEN
    assert one(CENTRE).warnings() == one(CENTRE).warnings({"CONSUL_HTTP_TOKEN": TOKEN}) != ()


def test_a_secret_that_is_renewed_is_sent_from_then_on(made, tmp_path):
    file, env = tmp_path / "secret", {"CONSUL_HTTP_TOKEN": "old", "ETCDCTL_USER": "root:old"}
    file.write_text("old")
    by_file = made.of(f"{CENTRE}?token_file={file}").access.headers
    by_env = made.of(CENTRE, env).access.headers
    password_by_file = made.of(f"{STORE}?user=root&password_file={file}").said["password"]
    password_by_env = made.of(STORE, env).said["password"]

    file.write_text("\ufeffnew\r\n", encoding="utf-8")
    env.update(CONSUL_HTTP_TOKEN="new", ETCDCTL_USER="root:new")

    assert by_file() == by_env() == {"X-Consul-Token": "new"}
    assert password_by_file() == password_by_env() == Secret("new")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "is empty"),
        (b"\xff" + TOKEN.encode(), "is no text in UTF-8"),
    ],
)
@pytest.mark.parametrize(
    ("place", "raw", "variable"),
    [
        ("token_file", {"url": CENTRE, "token_file": "{}"}, None),
        ("password_file", {"url": STORE, "user": "root", "password_file": "{}"}, None),
        ("CONSUL_HTTP_TOKEN_FILE", CENTRE, "CONSUL_HTTP_TOKEN_FILE"),
    ],
)
def test_a_file_that_holds_no_secret_is_an_error_that_names_it(made, tmp_path, content, problem, place, raw, variable):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    raw = raw if isinstance(raw, str) else {name: value.format(file) for name, value in raw.items()}
    made.of(raw, {} if variable is None else {variable: str(file)})

    with pytest.raises(DiscoveryError) as caught:
        made.access.headers() or made.said["password"]()

    assert str(caught.value) == (
        f"{one(raw).name}: {place} {file} {problem}. Name a file that can be read and holds the bare secret."
    )
    assert caught.value.__context__ is None


def test_a_token_in_the_place_of_its_file_is_not_shown(made):
    made.of({"url": CENTRE, "token_file": TOKEN})

    with pytest.raises(DiscoveryError) as caught:
        made.access.headers()

    assert caught.value.problem == "token_file cannot be read: No such file or directory"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (f"Bearer {TOKEN}", "has a blank or a line break in it"),
        (f"{TOKEN}ä", "has a character in it that no HTTP header can carry"),
    ],
)
def test_a_token_that_no_header_can_carry_is_not_sent_and_not_shown(made, tmp_path, token, problem):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    for raw, env, place in (
        (CENTRE, {"CONSUL_HTTP_TOKEN": token}, "CONSUL_HTTP_TOKEN"),
        (f"{CENTRE}?token_file=token", {}, "token_file"),
    ):
        made.of(raw, env)

        with pytest.raises(DiscoveryError) as caught:
            made.access.headers()

        assert caught.value.problem.split()[0] == place
        assert TOKEN not in f"{caught.value} {caught.value!r} {caught.value.__context__!r}"


@pytest.mark.parametrize(
    ("source", "address", "is_sent"),
    [
        ("consul://a.example/k", None, True),
        ("consul://a.example/k", " ", True),
        ("consul://a.example/k", "a.example:8500", True),
        ("consul://a.example/k", "A.Example.:8500", True),
        ("consul://a.example/k", "http://a.example:8500", True),
        ("consul://a.example:80/k", "a.example", True),
        ("consul://[::1]/k", "[0:0::1]:8500", True),
        ("consul+https://a.example/k", "https://a.example:8501", True),
        ("consul+https://a.example:443/k", "https://a.example", True),
        ("consul+https://a.example/k", "a.example:8501", True),
        ("consul+service://a.example/k", "a.example:8500", True),
        ("consul://b.example/k", "a.example:8500", False),
        ("consul://a.example/k", "a.example:8501", False),
        ("consul://a.example/k", "a.example", False),
        ("consul://a.example:8501/k", "https://a.example:8501", False),
        ("consul://a.example:8501/k", "HTTPS://a.example:8501", False),
        ("consul://a.example.evil/k", "a.example:8500", False),
        ("consul://localhost/k", "127.0.0.1:8500", False),
        ("consul://a.example/k", "unix:///run/consul.sock", False),
        ("consul://a.example/k", "a.example:port", False),
        ("consul://a.example/k", "[a.example:8500", False),
        ("consul+service://b.example/k", "a.example:8500", False),
    ],
)
def test_a_token_of_the_environment_goes_to_no_server_that_it_was_not_meant_for(made, source, address, is_sent):
    env = {"CONSUL_HTTP_TOKEN": TOKEN, **({} if address is None else {"CONSUL_HTTP_ADDR": address})}

    assert made.of(source, env).token == (TOKEN if is_sent else None)
    told = [warning for warning in one(source).warnings(env) if "is not used" in warning]
    url = one(source).url
    assert told == (
        [] if is_sent else [f"CONSUL_HTTP_TOKEN is not used: CONSUL_HTTP_ADDR names another server than {url}"]
    )


def test_a_token_of_the_source_itself_goes_to_its_server_whatever_the_environment_names(made):
    env = {"CONSUL_HTTP_ADDR": "other.example:8500", "CONSUL_HTTP_TOKEN": "others"}

    assert made.of({"url": CENTRE, "token": TOKEN}, env).token == TOKEN


@pytest.mark.parametrize(
    ("env", "user", "password"),
    [
        ({}, None, None),
        ({"ETCDCTL_USER": "root:a:b"}, "root", "a:b"),
        ({"ETCDCTL_USER": "root", "ETCDCTL_PASSWORD": "a:b"}, "root", "a:b"),
        ({"ETCDCTL_USER": "root:a", "ETCDCTL_ENDPOINTS": "b.example:2379,http://centre.example:2379"}, "root", "a"),
        ({"ETCDCTL_USER": "root:a", "ETCDCTL_ENDPOINTS": "centre.example"}, "root", "a"),
        ({"ETCDCTL_USER": "root:a", "ETCDCTL_ENDPOINTS": "b.example:2379,c.example:2379"}, None, None),
        ({"ETCDCTL_USER": "root:a", "ETCDCTL_ENDPOINTS": "https://centre.example:2379"}, None, None),
    ],
)
def test_user_and_password_of_the_environment_go_to_the_server_that_it_names(made, env, user, password):
    made.of(STORE, env)

    assert (made.said["user"], made.password) == (user, password)
    assert made.access.headers() == {}


def test_user_and_password_of_the_source_come_before_those_of_the_environment(made, tmp_path):
    (tmp_path / "password").write_text("of file\n")
    env = {"ETCDCTL_USER": "other:others"}

    made.of(f"{STORE}?user=root&password_file=password", env)
    assert (made.said["user"], made.password) == ("root", "of file")

    made.of({"url": STORE, "user": "root", "password": "of table"}, env)
    assert (made.said["user"], made.password) == ("root", "of table")


@pytest.mark.parametrize(
    ("scheme", "variable", "address"),
    [("consul", "CONSUL_CACERT", "CONSUL_HTTP_ADDR"), ("etcd", "ETCDCTL_CACERT", "ETCDCTL_ENDPOINTS")],
)
def test_the_authority_of_the_environment_is_for_the_server_that_it_names_and_tls(made, scheme, variable, address):
    env = {variable: "/env/ca.pem"}
    url = f"{scheme}+https://centre.example:1234/k"

    assert made.of(url, env).access.ca_file == "/env/ca.pem"
    assert made.of(url, {**env, address: "centre.example:1234"}).access.ca_file == "/env/ca.pem"
    assert made.of(f"{url}?ca_file=/own", env).access.ca_file == "/own"
    assert made.of(f"{scheme}://centre.example/k", env).access.ca_file is None
    elsewhere = {**env, address: "other.example:1234"}
    assert made.of(url, elsewhere).access.ca_file is None
    assert one(url).warnings(elsewhere) == (
        f"{variable} is not used: {address} names another server than https://centre.example:1234",
    )


# Warnings


@pytest.mark.parametrize(
    ("raw", "env"),
    [
        ({"url": CENTRE, "token": TOKEN}, {}),
        (f"{CENTRE}?token_file=/run/token", {}),
        (CENTRE, {"CONSUL_HTTP_TOKEN": TOKEN}),
        (CENTRE, {"CONSUL_HTTP_TOKEN_FILE": "/run/token"}),
    ],
)
def test_a_token_over_plain_http_is_a_warning(raw, env):
    assert one(raw).warnings(env) == (
        "the token travels to http://centre.example:8500 unencrypted; write consul+https://",
    )


@pytest.mark.parametrize(
    ("raw", "env"),
    [(f"{STORE}?user=root&password_file=/run/password", {}), (STORE, {"ETCDCTL_USER": f"root:{TOKEN}"})],
)
def test_so_is_a_password(raw, env):
    assert one(raw).warnings(env) == (
        "the password travels to http://centre.example:2379 unencrypted; write etcd+https://",
    )


@pytest.mark.parametrize(
    "raw",
    [
        "consul://localhost/k",
        "consul://127.0.0.1/k",
        "consul+service://[::1]/k",
        "consul+https://centre.example/k",
        "etcd://127.0.0.1/k",
        {"url": CENTRE, "token": "none"},
        "/etc/llmwire.toml",
    ],
)
def test_nothing_is_warned_of_on_this_machine_and_over_tls_and_without_a_secret(raw):
    env = {"CONSUL_HTTP_TOKEN": TOKEN, "ETCDCTL_USER": f"root:{TOKEN}"}

    assert one(raw).warnings(env) == one(raw).warnings({}) == ()
