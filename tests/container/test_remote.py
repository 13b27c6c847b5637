from __future__ import annotations

import base64
import socket

import pytest

from llmwire.container import ConfigError, remote
from llmwire.container.remote import Source

from .processes import Process, attempt, report


def test_a_report_comes_as_it_was_told():
    told = report(attempt())
    with Process(told) as process:
        assert Source.parse(process.url).fetch() == told


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000/x", "file:///etc/passwd", "ftp://a/x", "http://", "http://a:x/", "http://a:99999/", ""),
        *("http://[::1/x", "http://a/ b", "http://a/\nb"),
    ],
)
def test_only_urls_of_http_and_https_are_asked(url):
    with pytest.raises(ConfigError, match=r"no URL of http or https\. Write it as in http://"):
        Source.parse(url)


def test_nothing_there_says_so_and_what_to_do():
    with Process(report()) as process:
        url = process.url

    with pytest.raises(ConfigError) as raised:
        Source.parse(url).fetch()

    assert str(raised.value) == (
        f"{url}: does not answer: Connection refused. Start the program that serves it, or correct the URL."
    )


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff\xfe", b"[" * 100_000])
def test_an_answer_that_is_no_json_says_what_to_serve(body):
    with Process(body) as process, pytest.raises(ConfigError) as raised:
        Source.parse(process.url).fetch()

    assert "no JSON. Serve there, as JSON: container.report().as_dict()" in str(raised.value)


def changed(**fields):
    """A report whose function has other things in the place of its own."""
    told = report(attempt()).as_dict()
    told["functions"][0] |= fields
    return told


@pytest.mark.parametrize(
    "answer",
    [
        *([], {}, None, 1, "text", {"functions": 1}, {"functions": [1]}, {"functions": [{}]}, {"status": "ok"}),
        changed(figures=None),
        changed(sources=[{"source": "consul://a/b"}]),
        changed(endpoints=[{"name": "a"}]),
        changed(endpoints=[{**changed()["functions"][0]["endpoints"][0], "health": "splendid"}]),
        changed(figures={**changed()["functions"][0]["figures"], "series": [{"pool": "a"}]}),
        changed(figures={**changed()["functions"][0]["figures"], "at_s": None}),
    ],
)
def test_json_that_is_no_report_says_what_to_serve(answer):
    with Process(answer) as process, pytest.raises(ConfigError) as raised:
        Source.parse(process.url).fetch()

    assert "JSON that is no report. Serve there, as JSON: container.report().as_dict()" in str(raised.value)


@pytest.mark.parametrize(("status", "remedy"), [(404, "Correct the URL"), (500, "Correct the URL"), (401, "password")])
def test_a_refusal_is_told_with_its_status(status, remedy):
    with Process(b"", status=status) as process, pytest.raises(ConfigError, match=f"answers {status} .*{remedy}"):
        Source.parse(process.url).fetch()


def test_another_server_is_not_followed_to():
    elsewhere = {"location": "http://127.0.0.1:9/figures"}
    with Process(b"", status=302, headers=elsewhere) as process, pytest.raises(ConfigError) as raised:
        Source.parse(process.url).fetch()

    assert "sends on to http://127.0.0.1:9/figures. Name the URL where that ends." in str(raised.value)


def test_another_path_of_the_same_server_is_followed_to():
    with Process(b"", status=302, headers={"location": "/elsewhere"}) as process:
        with pytest.raises(ConfigError):  # it sends there for ever
            Source.parse(process.url).fetch()

        assert ("/elsewhere", None) in process.asked


def test_user_and_password_of_a_url_are_sent_and_never_shown():
    with Process(b"", status=401) as process:
        source = Source.parse(process.url.replace("//", "//me:se%20cret@"))
        with pytest.raises(ConfigError) as raised:
            source.fetch()

    [(_, authorization)] = process.asked
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"me:se cret"
    assert "cret" not in f"{raised.value} {source!r} {source.url}"


def test_a_password_in_a_url_that_cannot_be_used_is_not_shown():
    with pytest.raises(ConfigError) as raised:
        Source.parse("http://me:secret@a:99999/x")

    assert "secret" not in str(raised.value)


def test_an_endless_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "MOST_BYTES", 1_000)

    with Process(b" " * 1_001) as process, pytest.raises(ConfigError, match="answers more than 1,000 bytes"):
        Source.parse(process.url).fetch()


def test_an_answer_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConfigError) as raised:
        Source.parse(f"http://127.0.0.1:{silent.getsockname()[1]}/").fetch()

    assert "does not answer: no answer within 0.05 s" in str(raised.value)
