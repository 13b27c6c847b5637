from __future__ import annotations

import asyncio
import tomllib

import pytest
from typer.testing import CliRunner

from app_example import routing
from app_example.commands import app
from app_example.routing import CASES, ENDPOINTS, RULES, Routes, RoutingError, ask, served
from app_example.screen import Screen
from llmwire.container import LLMContainer
from llmwire.services import recorded, routed


@pytest.fixture(scope="module")
def site():
    with served() as site:
        yield site


@pytest.fixture
def changed(monkeypatch):
    """Puts other words into the rules: `changed(old, new)`."""

    def changed(old, new):
        assert old in RULES
        rules = RULES.replace(old, new)
        monkeypatch.setattr(routing, "served", lambda: served(rules))

    return changed


def test_every_request_lands_and_the_table_says_where(capsys):
    Routes(Screen()).run()

    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.endswith("  ok")]
    assert [row.split("  ")[1] for row in rows] == [case.about for case in CASES]
    assert shown.count("Nobody was asked.") == 2
    assert shown.endswith("All of it landed as the rules say.\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about)
def test_a_request_lands_where_the_rules_say(site, case):
    before = site.received()

    where = ask(site.container.completion_client(), case)

    asked = {name for name, count in site.received().items() if count > before[name]}
    assert (where.route, where.pool, where.endpoint) == (case.route, case.pool, case.endpoint)
    assert asked - {"short"} == {case.endpoint} - {"short"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about)
def test_the_asynchronous_client_follows_the_same_rules(site, case):
    async def main():
        with routed(tags=case.tags, trust=case.trust), recorded() as calls:
            await site.container.async_completion_client().chat.completions.create(**case.request)
        await site.container.async_completion_client().close()
        return calls[-1]

    assert asyncio.run(main()).endpoint == case.endpoint


def test_every_endpoint_and_every_rule_has_a_request():
    rules = tomllib.loads(RULES)["completion"]

    assert {case.endpoint for case in CASES} == set(ENDPOINTS) == set(rules["endpoints"])
    assert {case.route for case in CASES} == {None, *(route["name"] for route in rules["routes"])}


def test_a_request_for_a_pool_asks_its_server_for_the_model_there(site):
    [case] = [case for case in CASES if case.request["model"] == "vision"]

    ask(site.container.completion_client(), case)

    assert site.completion["vision"].requests[-1].body["model"] == "seeing"


def test_what_is_private_reaches_no_server_but_the_local_one():
    with served() as fresh:
        for case in CASES:
            ask(fresh.container.completion_client(), case)

        others = [server for name, server in fresh.completion.items() if name != "local"]
        seen = b"".join(request.content for server in others for request in server.requests)

    assert seen
    assert routing.IBAN.encode() not in seen
    assert b"diagnosis" not in seen


@pytest.mark.parametrize(
    ("old", "new", "strayed"),
    [
        ("has_images = true", "has_images = false", "a plain question went to vision .*, not to short"),
        ("min_tokens = 2000", "min_tokens = 20000", "a long report went to long .route anything else"),
        ("threshold = 0.4", "threshold = 0.9", "a question of law went to short"),
    ],
)
def test_the_run_fails_where_a_rule_sends_a_request_elsewhere(changed, old, new, strayed):
    changed(old, new)

    with pytest.raises(RoutingError, match=strayed):
        Routes(Screen()).run()


def test_the_run_fails_where_something_private_leaves(changed):
    changed('pool = "local"\ntrust = "local"            # also', 'pool = "local"            # also')

    with pytest.raises(RoutingError, match="This was answered: a picture with an account number"):
        Routes(Screen()).run()


def test_the_command_ends_with_1_and_a_line_where_something_strays(changed):
    changed("has_images = true", "has_images = false")

    ended = CliRunner().invoke(app, ["routes"])

    assert ended.exit_code == 1
    assert "error: Not where the rules say: a plain question went to vision" in ended.stderr
    assert "not short" in ended.stdout


def test_the_command_prints_rules_that_a_container_takes(tmp_path):
    printed = CliRunner().invoke(app, ["routes", "--rules"]).stdout
    addressed = printed.replace("\nmodel =", '\nbase_url = "http://localhost:1/v1"\nmodel =')
    (tmp_path / "rules.toml").write_text(addressed)

    container = LLMContainer.from_toml(tmp_path / "rules.toml")

    assert printed.strip() == RULES.strip()
    assert [route.name for route in container.completion.settings().routes][:2] == ["bank account", "health"]


def test_the_run_minds_no_settings(monkeypatch, capsys):
    monkeypatch.setenv("COMPLETION_ROUTING", "off")
    monkeypatch.setenv("COMPLETION_BASE_URL", "http://192.0.2.1")
    monkeypatch.setenv("EMBEDDING_API_KEY", "a broken key")

    Routes(Screen()).run()

    assert "All of it landed" in capsys.readouterr().out
