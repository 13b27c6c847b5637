"""The command `llmwire route`, as its user runs it: in a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmwire.services.testing import StandIn

COMMAND = [sys.executable, "-c", "from llmwire.container.cli import main; main()"]

RULES = r"""
[completion]
model = "small"
tokenizer = "estimate"

[completion.endpoints.short]
base_url = "http://localhost:1/v1"

[completion.endpoints.long]
base_url = "http://localhost:2/v1"
pools = ["long"]

[completion.endpoints.local]
base_url = "http://localhost:3/v1"
pools = ["local"]
trust = "local"
modalities = ["text"]

[[completion.routes]]
name = "private"
pattern = '\bIBAN\b'
pool = "local"
trust = "local"

[[completion.routes]]
min_tokens = 100
pool = "long"

[[completion.routes]]
name = "cheap"
tags = ["cheap"]
pool = "long"
mode = "shadow"

[[completion.routes]]
name = "structured"
wants_structured_output = true
pool = "long"

[[completion.routes]]
name = "greeting"
system_keywords = ["polite"]
pool = "local"

[[completion.routes]]
name = "all"
pool = "default"
on_context_length = "long"

[embedding.endpoints.plain]
base_url = "http://localhost:4/v1"

[embedding.endpoints.bulk]
base_url = "http://localhost:5/v1"
pools = ["bulk"]

[[embedding.routes]]
name = "longish"
min_input_tokens = 10
pool = "bulk"
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `llmwire route` in a folder with rules; its output goes into a pipe."""
    (tmp_path / "rules.toml").write_text(RULES)

    def run_command(
        *arguments: str, config: str | None = "rules.toml", env: dict[str, str] | None = None, **options: Any
    ) -> Any:
        configured = [] if config is None else ["--config", config]
        return subprocess.run(
            [*COMMAND, "route", *arguments, *configured],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            **options,
        )

    return run_command


# The plain answer.


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["hi"], "default (by all)"),
        (["My IBAN is secret"], "local (by private)"),
        (["word " * 100], "long (by route 2)"),
        (["hi", "--structured"], "long (by structured)"),
        (["hi", "--system", "Be polite."], "local (by greeting)"),
        (["hi", "--tags", "cheap"], "default (by all)"),
        (["hi", "--model", "long"], "long (the request names it)"),
        (["hi", "--tools", "--stream", "--audio", "--file", "--max-tokens", "10"], "default (by all)"),
        (["hi", "--image"], "long (by route 2)"),  # as a picture has some hundred tokens
        (["hi", "--function", "embedding"], "default (no route holds)"),
        (["word " * 20, "--function", "embedding"], "bulk (by longish)"),
    ],
)
def test_it_says_which_pool_and_what_chose_it(run, arguments, answer):
    ended = run(*arguments)

    assert ended.stdout == f"{answer}\n"
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_a_text_may_come_from_a_pipe(run):
    ended = run("-", input="My IBAN is secret")

    assert ended.stdout == "local (by private)\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["IBAN", "--image"], "short is outside of the trust that is demanded (local): it is without a label"),
        (["hi", "--trust", "mars"], "short is outside of the trust that is demanded (mars): it is without a label"),
    ],
)
def test_where_nobody_may_have_it_it_ends_with_1_and_says_why(run, arguments, why):
    ended = run(*arguments)

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("no completion endpoint of the pool default may have this request: ")
    assert why in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_sends_nothing_to_a_completion_endpoint(run):
    with StandIn() as server:
        env = {"COMPLETION_BASE_URL": server.base_url, "EMBEDDING_BASE_URL": server.base_url}
        ended = run("hi", config=None, env=env)

        assert server.requests == []

    assert ended.stdout == "default (no route holds)\n"


# The whole explanation.


def test_explain_shows_what_each_route_said_and_who_may_answer(run):
    ended = run("hi", "--tags", "cheap", "--explain")

    lines = [re.sub(r" {2,}", " ", line.strip()) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0
    assert lines[0].startswith("completion: pool default (by all), about ")
    assert lines[1:] == [
        "route private -> local: missed: pattern = \\bIBAN\\b",
        "route route 2 -> long: missed: min_tokens = 100",
        "route cheap -> long: holds, in shadow mode",
        "route structured -> long: missed: wants_structured_output = True",
        "route greeting -> local: missed: system_keywords = polite",
        "route all -> default: chosen",
        "candidate short: ok",
        "too long for it: pool long",
    ]


def test_explain_says_why_nobody_may_have_it(run):
    ended = run("My IBAN", "--image", "--explain")

    assert ended.returncode == 1
    assert re.search(r"not short: it is outside of the trust that is demanded \(local\)", ended.stdout)
    assert "error: no completion endpoint of the pool default may have this request" in ended.stdout


def test_json_is_the_same_for_other_programs(run):
    ended = run("My IBAN", "--json")

    read = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert (read["function"], read["pool"], read["route"], read["is_named"]) == (
        "completion",
        "local",
        "private",
        False,
    )
    assert read["rules"][0] == {
        "route": "private",
        "pool": "local",
        "verdict": "chosen",
        "reason": "",
        "score": None,
        "is_shadow": False,
    }
    assert read["candidates"] == {"local": "ok"}
    assert (read["problem"], read["larger"]) == (None, None)


def test_json_is_printed_too_where_nobody_may_have_it(run):
    ended = run("My IBAN", "--image", "--json")

    read = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert read["pool"] is None
    assert set(read["left_out"]) == {"short"}
    assert read["problem"].startswith("no completion endpoint")


# A whole request.


def test_a_whole_request_may_be_given_in_a_file(run, tmp_path):
    messages = [{"role": "system", "content": "Be polite."}, {"role": "user", "content": "hi"}]
    request = {"model": "m", "messages": messages, "extra_headers": {"x-llmwire-tags": "cheap"}}
    (tmp_path / "request.json").write_text(json.dumps(request))

    ended = run("--request", "request.json", "--json")

    read = json.loads(ended.stdout)
    verdicts = {rule["route"]: rule["verdict"] for rule in read["rules"]}
    assert read["pool"] == "local"
    assert (verdicts["greeting"], verdicts["cheap"]) == ("chosen", "holds")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"model": "m", "input": "My IBAN"}, "local (by private)"),
        ({"model": "m", "input": "hi", "instructions": "Be polite."}, "local (by greeting)"),
        ({"model": "m", "prompt": "My IBAN"}, "local (by private)"),
        (
            {"messages": [{"role": "user", "content": "hi"}], "extra_body": {"model": "long"}},
            "long (the request names it)",
        ),
    ],
    ids=["responses", "instructions", "completions", "extra body"],
)
def test_a_request_of_any_api_is_understood_and_may_come_from_a_pipe(run, request_, answer):
    ended = run("--request", "-", input=json.dumps(request_))

    assert (ended.stdout, ended.returncode) == (f"{answer}\n", 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file"), ("{", "is no JSON"), ("[1]", "is no JSON object")],
    ids=["missing", "broken", "a list"],
)
def test_a_file_that_is_no_request_is_told_and_ends_with_2(run, tmp_path, content, problem):
    if content is not None:
        (tmp_path / "request.json").write_text(content)

    ended = run("--request", "request.json")

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"llmwire: request.json: {problem}")
    assert "Traceback" not in ended.stderr


# Settings that do not fit.


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"'\bIBAN\b'", "'(IBAN'", "completion.routes[1].pattern"),
        ("min_tokens = 100", "min_token = 100", "min_tokens"),
        ('pool = "local"\ntrust', 'pool = "locl"\ntrust', "completion.routes[1].pool"),
        ("min_tokens = 100", "min_tokens = 100\nmax_tokens = 5", "completion.routes[2].min_tokens"),
    ],
    ids=["pattern", "misspelt", "unknown pool", "impossible"],
)
def test_a_rule_that_cannot_be_used_is_named_and_ends_with_2(run, tmp_path, old, new, said):
    assert old in RULES
    (tmp_path / "wrong.toml").write_text(RULES.replace(old, new, 1))

    ended = run("hi", config="wrong.toml")

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("llmwire: completion.routes[")
    assert said in ended.stderr
    assert "wrong.toml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_any_settings_it_says_what_to_set(run):
    ended = run("hi", config=None)

    assert ended.returncode == 2
    assert "COMPLETION_API_KEY" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_option_that_is_none_ends_with_2(run):
    assert run("hi", "--function", "translation").returncode == 2
    assert run("hi", "--max-tokens", "0").returncode == 2


# The meaning of a text.


@pytest.fixture
def by_meaning(tmp_path: Path) -> Callable[[str], None]:
    """Puts a rule by meaning into the file, over an embedding endpoint."""

    def by_meaning(base_url: str, **settings: str) -> None:
        (tmp_path / "meaning.toml").write_text(f"""
[embedding]
base_url = "{base_url}"
api_key = "none"
model = "m"

[completion]
model = "small"
routing_timeout_s = {settings.get("routing_timeout_s", "10")}

[completion.endpoints.short]
base_url = "http://localhost:1/v1"

[completion.endpoints.long]
base_url = "http://localhost:2/v1"
pools = ["long"]

[[completion.routes]]
name = "law"
examples = ["Is this clause of the contract legally binding?"]
threshold = 0.3
pool = "long"
""")

    return by_meaning


@pytest.mark.parametrize(
    ("text", "pool", "verdict"),
    [
        ("Is this clause binding for the landlord?", "long", "chosen"),
        ("Name three rivers.", "default", "missed"),
    ],
)
def test_the_embedding_endpoint_is_asked_where_meaning_decides_and_scores_are_shown(
    run, by_meaning, text, pool, verdict
):
    with StandIn(functions=("embedding",)) as server:
        by_meaning(server.base_url)
        ended = run(text, "--json", config="meaning.toml")

        sent = [request.body["input"] for request in server.requests]

    [rule] = json.loads(ended.stdout)["rules"]
    assert [text] in sent
    assert (json.loads(ended.stdout)["pool"], rule["verdict"]) == (pool, verdict)
    assert (rule["score"] >= 0.3) is (verdict == "chosen")


def test_explain_shows_the_score_of_a_route(run, by_meaning):
    with StandIn(functions=("embedding",)) as server:
        by_meaning(server.base_url)
        ended = run("Name three rivers.", "--explain", config="meaning.toml")

    assert re.search(r"route law -> long: missed: threshold = 0\.3 \(score -?0\.\d{3}\)", ended.stdout)


def test_where_no_embedding_comes_in_time_the_route_is_undecided(run, by_meaning):
    with StandIn(functions=("embedding",)) as gone:
        by_meaning(gone.base_url)

    ended = run("hi", "--explain", config="meaning.toml")

    assert ended.returncode == 0
    assert "pool default (no route holds)" in ended.stdout
    assert re.search(r"route law -> long: undecided: the embedding", ended.stdout)
