"""What sources say is in force where it can be, and else what they said before: a program never has less than that."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import ConfigError, DiscoveryError, LLMContainer, clients, overriding, watching
from llmwire.services.discovery.cache import Cache
from llmwire.services.discovery.watch import Watch
from llmwire.services.events import (
    ConfigWarned,
    DocumentRefused,
    DocumentTaken,
    EndpointsChanged,
    SourceAnswered,
    SourceSilent,
)

from .speakers import HANGS, PATIENCE_S, SILENT, Speaker, Told, served, snapshot

PROGRAM = Path(__file__).with_name("watching_forks.py")
STATIC = {"COMPLETION_BASE_URL": "http://static:1/v1"}
PRICED = {"endpoints": {"a": {"base_url": "http://a:8000/v1", "price": "1/2"}}}
OF_SOURCES = (DocumentTaken, DocumentRefused, SourceSilent, SourceAnswered)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    """Who hangs is not waited for; the others answer before that is asked."""
    monkeypatch.setattr(watching, "FIRST_S", PATIENCE_S)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(watching, "FIRST_S", 0.001)


@pytest.fixture
def a_program(a_container):
    """Makes a container whose completions come from sources."""

    def make(*speakers, env=None, startup=None, **config):
        if startup is not None:
            config["startup"] = startup
        return a_container(env, config={"completion": {"source": list(speakers), **config}})

    return make


def pool_of(container: Any) -> dict[str, str]:
    return {endpoint.name: endpoint.base_url for endpoint in container.completion.pool().endpoints}


def say(container: Any, said: Any, *, of: int = 0, name: str = "fake://one", **facts: Any) -> None:
    """Have a source say this now."""
    container.completion.watcher().heard(of, snapshot(said, name=name, **facts))


def state_of(container: Any, number: int = 0) -> Any:
    return container.completion.watcher().state()[number]


def thread_of(container: Any, function: str = "completion") -> Any:
    return getattr(container, function).watcher()._watch._thread


def of_sources(events: list[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, OF_SOURCES)]


def kinds(events: list[Any]) -> list[type]:
    return [type(event) for event in of_sources(events)]


def taken(version: str, source: str = "fake://one", **facts: Any) -> DocumentTaken:
    return DocumentTaken(function="completion", source=source, version=version, **facts)


# What is taken.


def test_what_a_source_says_at_first_use_is_in_force(a_program, events):
    container = a_program(Speaker(snapshot(served("a", "b"), version="index 7")))

    assert pool_of(container) == {"a": "http://a:8000/v1", "b": "http://b:8000/v1"}
    assert of_sources(events) == [taken("index 7")]


def test_nothing_is_asked_before_the_first_use(a_program):
    speaker = Speaker(served("a"))
    container = a_program(speaker, env=STATIC)

    container.completion.settings()
    container.explain()
    container.report()

    assert speaker.asked_for == []


def test_a_source_is_asked_for_its_function_with_the_environment_of_the_program(a_program):
    speaker = Speaker(served("a"))
    container = a_program(speaker, env={"CONSUL_HTTP_TOKEN": "a-token"})

    container.completion.pool()

    assert speaker.asked_for == ["completion"]
    assert speaker.env["CONSUL_HTTP_TOKEN"] == "a-token"


def test_a_change_is_in_force_at_once_for_clients_that_were_built_before(a_program, events):
    container = a_program(Speaker(served("a")))
    client, pool = container.completion_client(), container.completion.pool()

    say(container, served("a", "b"), version="index 8")

    assert pool_of(container) == {"a": "http://a:8000/v1", "b": "http://b:8000/v1"}
    assert container.completion_client() is client
    assert container.completion.pool() is pool
    assert [event.added for event in events if isinstance(event, EndpointsChanged)] == [("b",)]
    assert of_sources(events)[-1] == taken("index 8")


def test_the_same_content_under_another_version_is_no_change(a_program, events):
    container = a_program(Speaker(served("a")))
    container.completion.pool()
    before = list(events)

    say(container, served("a"), version="index 9")

    assert events == before
    assert state_of(container).asked_s is not None


def test_what_a_source_says_comes_before_the_settings_value_by_value(a_program):
    container = a_program(
        Speaker({**served("a"), "model": "its-model"}),
        env={**STATIC, "COMPLETION_MODEL": "static", "COMPLETION_DEADLINE_S": "7"},
    )

    container.completion.pool()

    assert container.completion.model() == "its-model"
    assert container.completion.deadline_s() == 7.0


def test_a_source_of_whole_documents_says_what_a_configuration_file_says(a_program):
    document = {"completion": served("a"), "openai": {"api_key": "shared"}, "embedding": {"base_url": "http://e:1"}}
    container = a_program(Speaker(document, is_remote=False, is_whole=True))

    [endpoint] = container.completion.pool().endpoints

    assert (endpoint.name, endpoint.credential.reveal()) == ("a", "shared")


# Several sources.


def test_endpoints_of_several_sources_are_one_pool_and_the_first_wins_for_a_name(a_program):
    one = served("a", "both")
    other = {"endpoints": {"both": {"base_url": "http://elsewhere:1/v1"}, "z": {"base_url": "http://z:8000/v1"}}}
    container = a_program(Speaker(one), Speaker(other, name="fake://two"))

    assert pool_of(container) == {
        "a": "http://a:8000/v1",
        "both": "http://both:8000/v1",
        "z": "http://z:8000/v1",
    }


def test_new_documents_of_several_sources_are_tried_together_as_they_may_need_each_other(a_program, events):
    one, two = snapshot({"budget": "5/day"}, version="one"), snapshot(PRICED, version="two")
    container = a_program(Speaker(one), Speaker(two, name="fake://two"))

    container.completion.pool()

    assert of_sources(events) == [taken("one"), taken("two", "fake://two")]


def test_one_that_needs_another_is_taken_when_that_is_there(a_program, events):
    container = a_program(Speaker(served("a")), Speaker({"model": "m"}, name="fake://two"))
    container.completion.pool()
    say(container, {"budget": "5/day"}, of=1, name="fake://two", version="two")
    assert kinds(events)[2:] == [DocumentRefused]

    say(container, PRICED, version="one")

    assert of_sources(events)[3:] == [taken("one"), taken("two", "fake://two")]
    assert [limit.budget for limit in container.completion.budgets()] == ["5/day"]


@pytest.mark.parametrize("broken", [0, 1])
def test_where_not_all_can_be_taken_the_others_are(a_program, events, broken):
    said = [served("a"), served("b")]
    said[broken] = {"endpoints": {"x": {"base_url": "no url"}}}
    container = a_program(Speaker(said[0]), Speaker(said[1], name="fake://two"))

    assert list(pool_of(container)) == [["b"], ["a"]][broken]
    assert {(type(event), event.source) for event in of_sources(events)} == {
        (DocumentRefused, ["fake://one", "fake://two"][broken]),
        (DocumentTaken, ["fake://two", "fake://one"][broken]),
    }
    assert "base_url" in state_of(container, broken).error
    assert state_of(container, 1 - broken).error is None


def test_beside_a_broken_one_two_that_need_each_other_are_taken_whatever_their_order(a_program, events):
    container = a_program(
        Speaker({"budget": "5/day"}),
        Speaker(PRICED, name="fake://two"),
        Speaker({"nonsense": 1}, name="fake://three"),
    )

    container.completion.pool()

    assert [(type(event), event.source) for event in of_sources(events)] == [
        (DocumentTaken, "fake://two"),
        (DocumentTaken, "fake://one"),
        (DocumentRefused, "fake://three"),
    ]


# What is refused.


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "holds nothing"),
        ("", "is empty"),
        ("{}", "is empty"),
        ("{", "is no JSON: "),
        (b"\xff", "is no text in UTF-8"),
        ("[[", "is no TOML: "),
        ({"endpoints": {}}, "completion.endpoints"),
        ({"endpoints": {"x": {}}}, "completion.endpoints.x.base_url"),
        ({"endpoints": {"x": {"base_url": "x"}}}, "has no scheme"),
        ({**served("a"), "deadline_s": "soon"}, "completion.deadline_s"),
        ({"nonsense": 1}, "completion.nonsense"),
        ({"api_key": "sk-secret"}, "is not taken from a document that others may write"),
        (snapshot(None, problem="is larger than 1024 KiB"), "is larger than 1024 KiB"),
    ],
)
def test_what_cannot_be_taken_is_told_and_what_was_before_stays_in_force(a_program, events, said, reason):
    container = a_program(Speaker(snapshot(served("a"), version="good")))
    before = pool_of(container)

    if isinstance(said, (str, bytes, dict, type(None))):
        say(container, said)
    else:
        container.completion.watcher().heard(0, said)

    [_, refused] = of_sources(events)
    assert (type(refused), refused.source) == (DocumentRefused, "fake://one")
    assert reason in refused.reason
    assert "sk-secret" not in repr(events)
    assert pool_of(container) == before
    assert (state_of(container).version, state_of(container).error) == ("good", refused.reason)


def test_nothing_of_a_document_that_is_refused_is_in_force(a_program):
    container = a_program(Speaker(served("a")))
    container.completion.pool()

    say(container, {**served("b"), "model": "other", "strategy": "no such"})

    assert list(pool_of(container)) == ["a"]
    assert container.completion.model() != "other"


def test_a_refusal_is_told_once_for_a_document_and_anew_for_another(a_program, events):
    container = a_program(Speaker(served("a")))
    container.completion.pool()

    for said in ({"nonsense": 1}, {"nonsense": 1}, {"nonsense": 2}, {"nonsense": 2}, {"nonsense": 1}):
        say(container, said, version=str(said))

    assert [event.version for event in of_sources(events)[1:]] == [
        "{'nonsense': 1}",
        "{'nonsense': 2}",
        "{'nonsense': 1}",
    ]


def test_a_document_that_comes_back_is_no_change_and_the_bad_one_after_that_is_told_again(a_program, events):
    container = a_program(Speaker(served("a")))
    container.completion.pool()

    say(container, {"nonsense": 1})
    say(container, served("a"))
    assert state_of(container).error is None
    say(container, {"nonsense": 1})

    assert kinds(events) == [DocumentTaken, DocumentRefused, DocumentRefused]


def test_after_a_bad_document_a_better_one_is_taken(a_program, events):
    container = a_program(Speaker(served("a")))
    container.completion.pool()
    say(container, {"nonsense": 1})

    say(container, served("c"), version="better")

    assert list(pool_of(container)) == ["c"]
    assert (state_of(container).version, state_of(container).error) == ("better", None)


def test_a_warning_of_a_document_is_told_once(a_program, events):
    container = a_program(Speaker(served("a")), env={"OPENAI_BASE_URL": "http://o:1", "OPENAI_API_KEY": "sk-secret"})
    container.completion.pool()
    twins = {"endpoints": {name: {"base_url": "http://twin:1/v1"} for name in ("x", "y")}}

    say(container, twins)
    say(container, {**twins, "model": "m"})

    [warning] = [event for event in events if isinstance(event, ConfigWarned)]
    assert warning.message == "x and y are one server with one key and one model"


# Who is silent.


def test_a_source_that_goes_silent_changes_nothing_and_is_told_once(a_program, events):
    container = a_program(Speaker(served("a")))
    container.completion.pool()

    for _ in range(3):
        container.completion.watcher().silent(0, SILENT)

    assert of_sources(events)[1:] == [
        SourceSilent(function="completion", source="fake://one", reason="refuses the connection. Start it.")
    ]
    assert list(pool_of(container)) == ["a"]
    assert state_of(container).error == "refuses the connection. Start it."


def test_a_silence_for_another_reason_is_told_too(a_program, events):
    container = a_program(Speaker(served("a")))
    container.completion.pool()

    container.completion.watcher().silent(0, SILENT)
    container.completion.watcher().silent(0, DiscoveryError("forbids it", source="fake://one"))

    assert [event.reason for event in of_sources(events)[1:]] == ["refuses the connection. Start it.", "forbids it"]


def test_that_it_answers_again_is_told_before_what_it_says(a_program, events):
    container = a_program(Speaker(served("a")))
    container.completion.pool()
    container.completion.watcher().silent(0, SILENT)

    say(container, served("b"), version="later")

    assert kinds(events)[1:] == [SourceSilent, SourceAnswered, DocumentTaken]
    assert of_sources(events)[2].after_s >= 0
    assert state_of(container).error is None


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["a", "b", "bad", "nothing", "empty", "silent"])), max_size=12
    )
)
def test_whatever_sources_do_the_last_that_was_good_of_each_is_in_force(steps):
    speakers = [Speaker(SILENT, name="fake://0"), Speaker(SILENT, name="fake://1")]
    container = LLMContainer(config={"completion": {"source": speakers}}, env=STATIC, listener=lambda event: None)
    watcher, pool = container.completion.watcher(), container.completion.pool()
    good: dict[int, str] = {}
    latest = {0: "silent", 1: "silent"}

    for number, what in steps:
        latest[number] = what
        said = {"bad": {"nonsense": 1}, "nothing": None, "empty": ""}.get(what, served(f"{what}{number}"))
        if what == "silent":
            watcher.silent(number, SILENT)
        else:
            watcher.heard(number, snapshot(said, name=f"fake://{number}", version=what))
        if what in ("a", "b"):
            good[number] = what

        expected = [f"{good[each]}{each}" for each in sorted(good)] or ["default"]
        assert [endpoint.name for endpoint in pool.endpoints] == expected
        assert [state.version for state in watcher.state()] == [good.get(0), good.get(1)]
        assert [state.error is None for state in watcher.state()] == [latest[each] in ("a", "b") for each in (0, 1)]
    container.shutdown_resources()


# What is begun with.


@pytest.mark.parametrize("said", [SILENT, None, "", {"nonsense": 1}], ids=["silent", "nothing", "empty", "bad"])
def test_where_a_source_says_nothing_of_use_the_settings_are_begun_with(a_program, said):
    container = a_program(Speaker(said), env=STATIC)

    assert pool_of(container) == {"default": "http://static:1/v1"}
    assert state_of(container).version is None


def test_for_a_source_that_hangs_nobody_waits_for_long(a_program, impatient):
    container = a_program(Speaker(HANGS), env=STATIC)

    assert pool_of(container) == {"default": "http://static:1/v1"}


def test_what_it_says_later_takes_the_place_of_the_settings(a_program, events):
    container = a_program(Speaker(SILENT), env=STATIC)
    container.completion.pool()

    say(container, served("a"), version="later")

    assert list(pool_of(container)) == ["a"]
    assert kinds(events) == [SourceSilent, SourceAnswered, DocumentTaken]


def test_it_is_waited_for_once(a_program, impatient, monkeypatch):
    container = a_program(Speaker(HANGS), env=STATIC)
    container.completion.watcher().start()
    monkeypatch.setattr(watching, "FIRST_S", "not asked for")  # to wait for that is a TypeError

    container.completion.watcher().start()

    assert container.completion.pool()


@pytest.mark.parametrize("said", [SILENT, HANGS, None, {"nonsense": 1}], ids=["silent", "hangs", "nothing", "bad"])
@pytest.mark.parametrize("startup", ["static", "cache"])
def test_a_function_without_a_server_of_its_own_does_not_begin_at_the_default_one(
    a_program, impatient, tmp_path, said, startup
):
    env = {"OPENAI_API_KEY": "sk-secret", "LLMWIRE_SOURCE_CACHE": str(tmp_path)}
    container = a_program(Speaker(said), env=env, startup=startup)

    with pytest.raises(DiscoveryError, match=r"fake://one: completion cannot begin: .*\. Mend it; or name a server"):
        container.completion_client()


def test_without_a_server_and_a_key_it_is_the_source_that_is_to_blame(a_program):
    container = a_program(Speaker(SILENT))

    with pytest.raises(
        DiscoveryError, match="cannot begin: refuses the connection. Start it, and without it the"
    ) as refused:
        container.completion_client()

    assert isinstance(refused.value.__cause__, ConfigError)


def test_it_begins_when_the_source_has_answered(a_program):
    container = a_program(Speaker(SILENT))
    with pytest.raises(DiscoveryError):
        container.completion_client()

    say(container, served("a"))

    assert list(pool_of(container)) == ["a"]


def test_a_program_that_is_to_fail_does_not_begin_before_each_source_has_said_something_of_use(a_program, events):
    container = a_program(Speaker(served("a")), Speaker(SILENT, name="fake://two"), env=STATIC, startup="fail")

    with pytest.raises(DiscoveryError) as refused:
        container.completion_client()

    assert str(refused.value) == (
        "fake://two: completion cannot begin: refuses the connection. Start it. "
        "Mend it, or set startup to static or cache."
    )
    say(container, {"model": "m"}, of=1, name="fake://two")
    assert list(pool_of(container)) == ["a"]


def test_once_begun_it_does_not_end_for_a_source_that_goes_silent(a_program):
    container = a_program(Speaker(served("a")), startup="fail")
    container.completion.pool()

    container.completion.watcher().silent(0, SILENT)
    say(container, None)
    container.completion.watcher().start()

    assert list(pool_of(container)) == ["a"]


# What was kept on the disk.


@pytest.fixture
def kept(tmp_path):
    """The folder where documents are kept."""
    return tmp_path / "kept"


def contents(folder: Path) -> list[str]:
    return [json.loads(file.read_text())["content"] for file in sorted(folder.glob("*"))]


def caching(folder: Path) -> dict[str, str]:
    return {"LLMWIRE_SOURCE_CACHE": str(folder), "LLMWIRE_STARTUP": "cache"}


def test_what_was_taken_of_a_remote_source_is_begun_with_while_it_is_silent(a_program, kept, events):
    a_program(Speaker(snapshot(served("a"), version="index 7")), env=caching(kept)).completion.pool()
    events.clear()

    container = a_program(Speaker(SILENT), env=caching(kept))

    assert list(pool_of(container)) == ["a"]
    [silent, begun] = of_sources(events)
    assert isinstance(silent, SourceSilent)
    assert begun == taken(state_of(container).version, is_cached=True)
    assert begun.version.startswith("index 7, kept at ")
    assert state_of(container).is_cached


@pytest.mark.parametrize("said", [HANGS, None, "", {"nonsense": 1}], ids=["hangs", "nothing", "empty", "bad"])
def test_it_is_begun_with_too_where_the_source_says_nothing_of_use(a_program, kept, monkeypatch, said):
    a_program(Speaker(served("a")), env=caching(kept)).completion.pool()
    monkeypatch.setattr(watching, "FIRST_S", 0.001 if said is HANGS else PATIENCE_S)

    assert list(pool_of(a_program(Speaker(said), env=caching(kept)))) == ["a"]


def test_when_the_source_answers_its_word_takes_the_place(a_program, kept, events):
    a_program(Speaker(served("a")), env=caching(kept)).completion.pool()
    container = a_program(Speaker(SILENT), env=caching(kept))
    container.completion.pool()

    say(container, served("b"), version="index 8")

    assert list(pool_of(container)) == ["b"]
    assert (state_of(container).version, state_of(container).is_cached) == ("index 8", False)
    assert [json.loads(each) for each in contents(kept)] == [served("b")]


def test_also_where_that_is_the_same(a_program, kept, events):
    a_program(Speaker(served("a")), env=caching(kept)).completion.pool()
    container = a_program(Speaker(SILENT), env=caching(kept))
    container.completion.pool()

    say(container, served("a"), version="index 8")

    assert (state_of(container).version, state_of(container).is_cached) == ("index 8", False)
    assert of_sources(events)[-1] == taken("index 8")


def test_only_what_was_taken_is_kept(a_program, kept):
    container = a_program(Speaker(served("a")), env=caching(kept))
    container.completion.pool()

    for said in ({"nonsense": 1}, None, "", {"endpoints": {"x": {"base_url": "x"}}}):
        say(container, said)

    assert [json.loads(each) for each in contents(kept)] == [served("a")]


def test_what_a_file_of_this_machine_says_is_not_kept_as_that_is_there(a_program, kept):
    local = Speaker({"completion": served("a")}, is_remote=False, is_whole=True)

    a_program(local, env=caching(kept)).completion.pool()

    assert not kept.exists()


def test_what_a_file_of_this_machine_no_longer_says_is_not_looked_for_elsewhere(a_program, kept):
    Cache(kept).save("completion", snapshot({"completion": served("a")}, name="fake://one"))

    container = a_program(Speaker(None, is_remote=False, is_whole=True), env={**STATIC, **caching(kept)})

    assert list(pool_of(container)) == ["default"]


def test_nothing_is_kept_or_begun_with_unless_that_is_wanted(a_program, kept):
    folder = {"LLMWIRE_SOURCE_CACHE": str(kept)}
    a_program(Speaker(served("a")), env=folder).completion.pool()
    assert not kept.exists()
    a_program(Speaker(served("a")), env=caching(kept)).completion.pool()

    container = a_program(Speaker(SILENT), env={**STATIC, **folder})

    assert pool_of(container) == {"default": "http://static:1/v1"}


@pytest.mark.parametrize("said", ["nonsense = 1", "[[", ""])
def test_what_was_kept_and_does_not_fit_by_now_is_not_begun_with(a_program, kept, said):
    Cache(kept).save("completion", snapshot(said, name="fake://one"))

    container = a_program(Speaker(SILENT), env={**STATIC, **caching(kept)})

    assert pool_of(container) == {"default": "http://static:1/v1"}
    assert not state_of(container).is_cached


def test_what_another_source_said_is_not_begun_with(a_program, kept):
    a_program(Speaker(served("a")), env=caching(kept)).completion.pool()

    container = a_program(Speaker(SILENT, name="fake://two"), env={**STATIC, **caching(kept)})

    assert list(pool_of(container)) == ["default"]


def test_a_folder_that_cannot_be_written_stops_nobody(a_program, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")

    assert list(pool_of(a_program(Speaker(served("a")), env=caching(file / "below")))) == ["a"]


# What follows, and for how long.


def test_an_error_that_nobody_foresaw_refuses_the_document_and_changes_nothing(a_program):
    container = a_program(Speaker(served("a")))
    container.completion.pool()
    watcher = container.completion.watcher()
    [refresh] = watcher._taking.refreshes

    def broken(settings):
        raise LookupError

    refresh.prepared = broken
    watcher.heard(0, snapshot({**served("b"), "model": "m"}))

    assert "cannot be read as settings: LookupError" in watcher.state()[0].error
    assert list(pool_of(container)) == ["a"]
    assert container.completion.model.origin() == "default"


def test_a_change_between_settling_and_building_is_in_force(a_program):
    container = a_program(Speaker(served("a")))
    watcher = container.completion.watcher()
    settings = watcher.settled()

    say(container, served("b"))
    shared = clients.traffic(settings, lambda event: None, watcher=watcher)

    assert [endpoint.name for endpoint in shared.pool.endpoints] == ["b"]


def test_what_was_built_follows_for_as_long_as_a_client_lives(a_program):
    container = a_program(Speaker(served("a")))
    watcher, client = container.completion.watcher(), container.completion_client()
    traffic = client._client._transport._traffic
    assert traffic is container.completion.traffic()

    gc.collect()
    watcher.heard(0, snapshot(served("b")))

    assert [endpoint.name for endpoint in traffic.pool.endpoints] == ["b"]


def test_a_container_that_is_shut_down_watches_no_longer_and_keeps_what_is_in_force(a_program):
    container = a_program(Speaker(served("a")))
    pool = container.completion.pool()
    thread = thread_of(container)

    container.shutdown_resources()

    assert not thread.is_alive()
    assert [endpoint.name for endpoint in pool.endpoints] == ["a"]


def test_a_container_that_is_used_again_watches_again(a_program):
    speaker = Speaker(served("a"))
    container = a_program(speaker)
    container.completion.pool()
    container.shutdown_resources()

    assert list(pool_of(container)) == ["a"]
    assert speaker.asked_for == ["completion", "completion"]
    assert thread_of(container).is_alive()


def test_one_that_was_stopped_before_it_began_asks_nobody(a_program):
    speaker = Speaker(served("a"))
    watcher = a_program(speaker).completion.watcher()

    watcher.stop()
    watcher.wake()

    assert speaker.asked_for == []


def test_a_child_process_that_can_have_no_thread_makes_its_calls_all_the_same(a_program, monkeypatch):
    container = a_program(Speaker(served("a")))
    container.completion.pool()
    watcher = container.completion.watcher()
    watch = watcher._watch
    watcher.renew_after_fork()

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "start", start)
        watcher.wake()
        assert watcher._watch is None
    watcher.wake()

    assert thread_of(container).is_alive()
    watch.stop(PATIENCE_S)


def test_a_container_that_nobody_holds_any_longer_is_not_watched_for():
    speaker, told = Speaker(served("a")), Told()
    container = LLMContainer(config={"completion": {"source": [speaker]}}, env={}, listener=told)
    container.completion.pool()
    thread = thread_of(container)

    del container
    gc.collect()
    thread.join(PATIENCE_S)

    assert not thread.is_alive()


def test_each_function_has_its_own_watch(a_container):
    speaker = Speaker(served("a", model="m"))
    container = a_container({"LLMWIRE_STARTUP": "fail"}, config={"source": [speaker]})

    container.completion.pool()
    container.embedding.pool()

    assert speaker.asked_for == ["completion", "embedding"]
    assert thread_of(container).name == "llmwire watch of completion"
    assert thread_of(container, "embedding").name == "llmwire watch of embedding"


def test_a_changed_file_is_followed_by_itself(tmp_path):
    file, told = tmp_path / "llm.toml", Told()
    file.write_text("[completion.endpoints.a]\nbase_url = 'http://a:8000/v1'\n")
    container = LLMContainer(config={"completion": {"source": str(file)}}, env={}, listener=told)
    assert list(pool_of(container)) == ["a"]

    file.write_text("[completion.endpoints.b]\nbase_url = 'http://b:8000/v1'\n")
    told.wait_for(lambda event: isinstance(event, EndpointsChanged))

    assert list(pool_of(container)) == ["b"]
    container.shutdown_resources()


@pytest.mark.parametrize(
    "program", ["a_child_watches_on_by_itself", "a_child_that_ends_disturbs_nobody", "a_grandchild_watches_on"]
)
def test_after_a_fork_each_process_watches_for_itself(program, tmp_path):
    played = subprocess.run(
        [sys.executable, PROGRAM, program, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )

    assert (played.returncode, played.stderr) == (0, "")


# What belongs together.


def test_whoever_is_told_of_new_endpoints_finds_all_the_rest_exchanged_too(a_program):
    seen = []

    def listen(event):
        if isinstance(event, EndpointsChanged):
            lane = container.completion
            names = [endpoint.name for endpoint in lane.router().endpoints]
            seen.append(
                (names, list(pool_of(container)), lane.settings().calls.deadline_s, lane.traffic().spec.deadline_s)
            )
            assert not lane.watcher()._lock._is_owned()

    container = a_program(Speaker(served("a")))
    container.listener.override(listen)
    container.completion.traffic()

    say(container, {**served("b"), "deadline_s": 7})

    assert seen == [(["b"], ["b"], 7.0, 7.0)]


def test_a_client_that_is_built_later_keeps_to_the_deadline_of_the_document_all_the_same(a_program):
    container = a_program(Speaker({**served("a"), "deadline_s": 30}))
    first = container.completion_client()

    say(container, {**served("a"), "deadline_s": 1})

    assert container.async_completion_client().timeout == first.timeout == 30


def test_a_signal_that_shuts_down_amid_a_start_ends_it(a_program):
    class Signalled(Speaker):
        def catalogue(self, function, env):
            container.shutdown_resources()  # as a handler does, in this very thread
            return super().catalogue(function, env)

    container = a_program(Signalled(HANGS))

    with pytest.raises(DiscoveryError):
        container.completion_client()


def test_a_default_server_that_nobody_names_is_no_place_to_go(a_program, events):
    container = a_program(Speaker(served("a")), env={"OPENAI_API_KEY": "sk-1"})
    container.completion.traffic()

    say(container, {"strategy": "in-order"})

    assert list(pool_of(container)) == ["a"]
    assert "names no server, and no setting does" in state_of(container).error


def test_a_folder_that_keeps_nothing_is_told_of_once(a_program, events, tmp_path):
    (tmp_path / "file").write_text("")
    container = a_container_that_keeps(a_program, tmp_path / "file" / "kept")
    container.completion.traffic()

    say(container, served("b"))

    [warning] = [event for event in events if isinstance(event, ConfigWarned)]
    assert warning.key == "source_cache"
    assert "a start without them has nothing to begin with" in warning.message


def a_container_that_keeps(a_program, folder):
    env = {"LLMWIRE_SOURCE_CACHE": str(folder), "LLMWIRE_STARTUP": "cache"}
    return a_program(Speaker(served("a")), env=env)


def test_a_user_without_a_home_is_asked_for_a_folder(a_program, monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    container = a_program(Speaker(served("a")), startup="cache")

    with pytest.raises(ConfigError, match="this user has no home folder. Set LLMWIRE_SOURCE_CACHE"):
        container.completion.traffic()


@pytest.mark.parametrize("said", ["x" * 500_000, "\x1b]0;title\x07"])
def test_a_reason_is_no_longer_than_one_reads_and_controls_no_terminal(a_program, events, said):
    container = a_program(Speaker(served("a")))
    container.completion.traffic()

    say(container, {**served("a"), "strategy": said})

    [refused] = [event for event in events if isinstance(event, DocumentRefused)]
    assert len(refused.reason) < 1100
    assert refused.reason.isprintable()


def test_a_document_that_is_not_there_is_told_of_once_whatever_becomes_of_other_keys(a_program, events):
    container = a_program(Speaker(None), env=STATIC)
    container.completion.traffic()

    for index in (8, 9):
        say(container, None, version=f"index {index}, no such key")

    assert [event.reason for event in events if isinstance(event, DocumentRefused)] == ["holds nothing"]


# Endpoints that stand for themselves.


def instances(**endpoints):
    speaker = Speaker({"endpoints": endpoints})
    speaker.is_divisible = True
    return speaker


WELL = {"base_url": "http://10.0.0.1:8000"}


@pytest.mark.parametrize(
    "ill",
    [
        {"base_url": "http://169.254.169.254"},
        {**WELL, "credential": "nobodys"},
        {**WELL, "weight": -1},
        {**WELL, "api_key": "sk-1"},
    ],
    ids=["metadata", "credential", "weight", "key"],
)
def test_an_instance_that_cannot_be_taken_is_left_out_and_the_others_are_not(a_program, events, ill):
    container = a_program(instances(one=WELL, two=ill))

    assert list(pool_of(container)) == ["one"]
    assert "left out: completion.endpoints.two." in state_of(container).error
    [warning] = [event for event in events if isinstance(event, ConfigWarned)]
    assert warning.key.startswith("completion.endpoints.two.")


def test_of_any_other_document_nothing_is_left_out(a_program):
    container = a_program(Speaker(served("a")))
    container.completion.traffic()

    say(container, {"endpoints": {"one": WELL, "two": {"base_url": "http://169.254.169.254"}}})

    assert list(pool_of(container)) == ["a"]


def test_where_no_instance_can_be_taken_the_last_ones_stay(a_program):
    container = a_program(instances(one=WELL))
    container.completion.traffic()

    say(container, {"endpoints": {"two": {"base_url": "http://169.254.169.254"}}})

    assert list(pool_of(container)) == ["one"]


# Blocks of overriding.


def test_inside_a_block_with_other_settings_what_a_source_says_outside_of_it_is_not_there(a_program):
    container = a_program(Speaker(served("a")))
    container.completion.traffic()

    with overriding(container, config={"completion": {"base_url": "http://fake:1"}}):
        inside = pool_of(container)

    assert inside == {"default": "http://fake:1/v1"}
    assert list(pool_of(container)) == ["a"]


def test_what_comes_during_a_block_is_taken_after_it_by_the_settings_that_are_its_own(a_program):
    container = a_program(Speaker(served("a")))
    traffic = container.completion.traffic()
    watcher = container.completion.watcher()

    with overriding(container, env={"COMPLETION_DEADLINE_S": "7"}):
        watcher.heard(0, snapshot(served("b")))
        during = [endpoint.name for endpoint in traffic.pool.endpoints]
    traffic.wake()

    assert during == ["a"]
    assert list(pool_of(container)) == ["b"]
    assert traffic.spec.deadline_s == 120


def test_another_source_inside_a_block_leaves_nothing_behind(a_program):
    container = a_program(Speaker(served("a")))
    container.completion.traffic()

    with overriding(container, config={"completion": {"source": [Speaker(served("z"), name="fake://other")]}}):
        inside = list(pool_of(container))

    assert inside == ["z"]
    assert [endpoint.name for endpoint in container.completion.settings().endpoints] == ["a"]
