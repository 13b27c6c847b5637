from __future__ import annotations

import asyncio

import pytest

from app_example import demo
from app_example.demo import Demo, DemoError
from app_example.screen import Screen


def test_the_demo_shows_each_function_working_without_the_other(capsys):
    asyncio.run(Demo(Screen()).run())

    shown = capsys.readouterr().out
    assert shown.count("   ok: ") == 22
    assert shown.endswith("All of it happened as told.\n")


def test_the_demo_needs_no_settings_and_minds_none(monkeypatch, capsys):
    for function in ("COMPLETION", "EMBEDDING"):
        monkeypatch.setenv(f"{function}_BASE_URL", "http://192.0.2.1")
        monkeypatch.setenv(f"{function}_API_KEY", "a broken key")
    monkeypatch.setenv("EMBEDDING_DIMENSIONS", "7")

    asyncio.run(Demo(Screen()).run())

    assert "192.0.2.1" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("unstoppable", "claim"),
    [("embedding", "without embeddings a question fails"), ("completion", "without completions the answer fails")],
)
def test_the_demo_fails_where_an_endpoint_did_not_really_stop(monkeypatch, unstoppable, claim):
    stop = demo._Run.stop
    monkeypatch.setattr(demo._Run, "stop", lambda run, name: None if name == unstoppable else stop(run, name))

    with pytest.raises(DemoError, match=f"This did not happen: {claim}"):
        asyncio.run(Demo(Screen()).run())


def test_the_demo_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))

    asyncio.run(Demo(Screen()).run())

    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]
