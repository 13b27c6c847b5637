"""Where does this value come from? And never: what is the key?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmwire.container import LLMContainer, explain
from llmwire.container.explain import Explanation, FunctionExplanation, Row
from llmwire.services.secrets import MASK

from .speakers import SILENT, Speaker, served, snapshot

USABLE = {"COMPLETION_BASE_URL": "http://localhost:1/v1", "EMBEDDING_BASE_URL": "http://localhost:2/v1"}


def explained(env: dict[str, str] | None = None, **layers: Any) -> Explanation:
    return LLMContainer(env=env or {}, **layers).explain()


def completion(env: dict[str, str] | None = None, **layers: Any) -> FunctionExplanation:
    return explained(env, **layers).functions[0]


def row(function: FunctionExplanation, setting: str) -> Row:
    (found,) = (row for row in function.rows if row.setting == setting)
    return found


def test_the_text_tells_value_origin_and_what_is_shadowed():
    env = {
        "COMPLETION_BASE_URL": "http://localhost:8000",
        "COMPLETION_API_KEY": "llama_sk",
        "OPENAI_API_KEY": "sk",
        "COMPLETION_MODEL": "llama",
        "EMBEDDING_BASE_URL": "localhost:8001",
    }

    text = str(explained(env))

    assert text == (
        "completion: http://localhost:8000/v1 (openai, with a key)\n"
        "  completion.base_url   = http://localhost:8000  [env.COMPLETION_BASE_URL]\n"
        "  completion.api_key    = ********  [env.COMPLETION_API_KEY, shadows env.OPENAI_API_KEY]\n"
        "  completion.model      = llama  [env.COMPLETION_MODEL]\n"
        "  completion.deadline_s = 120.0  [default]\n"
        "  key_fallback          = warn  [default]\n"
        "  note: completion.base_url: /v1 was added\n"
        "\n"
        "embedding\n"
        "  embedding.base_url   = localhost:8001  [env.EMBEDDING_BASE_URL]\n"
        "  embedding.api_key    = ********  [env.OPENAI_API_KEY]\n"
        "  embedding.model      = text-embedding-3-small  [default]\n"
        "  embedding.deadline_s = 30.0  [default]\n"
        "  key_fallback         = warn  [default]\n"
        "  error: embedding.base_url (from env.EMBEDDING_BASE_URL): has no scheme. Write http://localhost:8001."
    )


def test_as_dict_is_fit_for_json_and_holds_the_same():
    explanation = explained({**USABLE, "OPENAI_API_KEY": "sk", "COMPLETION_HEADERS": "X-Team: search"})

    read = json.loads(json.dumps(explanation.as_dict()))

    assert list(read) == ["completion", "embedding"]
    assert read["completion"]["server"] == "http://localhost:1/v1"
    assert read["completion"]["dialect"] == "openai"
    assert read["completion"]["sends_key"] is True
    assert read["completion"]["error"] is None
    assert read["completion"]["rows"][0] == {
        "setting": "completion.base_url",
        "value": "http://localhost:1/v1",
        "origin": "env.COMPLETION_BASE_URL",
        "shadows": [],
    }


def test_the_function_and_the_method_say_the_same():
    container = LLMContainer(env=USABLE)

    assert explain(container) == container.explain()


def test_it_is_usable_where_every_function_is():
    assert explained(USABLE).is_usable
    assert not explained({"COMPLETION_BASE_URL": "http://localhost:1"}).is_usable


def test_an_error_belongs_to_its_function():
    first, second = explained({"COMPLETION_BASE_URL": "http://localhost:1"}).functions

    assert (first.error, first.server) == (None, "http://localhost:1/v1")
    assert (second.server, second.dialect, second.sends_key) == (None, None, False)
    assert second.error == (
        "embedding.api_key: is not set. Set EMBEDDING_API_KEY, or OPENAI_API_KEY for both functions."
    )


def test_explaining_builds_nothing_and_tells_no_listener(a_container, events):
    container = a_container({**USABLE, "OPENAI_API_KEY": "shared"})

    container.explain()

    assert not container.completion_client.initialized
    assert events == []


def test_it_sees_what_is_set_later(monkeypatch):
    container = LLMContainer()
    before = row(container.explain().functions[0], "completion.base_url")

    monkeypatch.setenv("COMPLETION_BASE_URL", "http://localhost:1")
    after = row(container.explain().functions[0], "completion.base_url")

    assert (before.origin, after.origin) == ("default", "env.COMPLETION_BASE_URL")


def test_warnings_and_notes_are_told():
    function = completion({"COMPLETION_BASE_URL": "https://own", "OPENAI_API_KEY": "sk", "COMPLETION_API_KEY": " "})

    (warning,) = function.warnings
    assert warning.startswith("completion.api_key: the shared key env.OPENAI_API_KEY goes to https://own:443, another")
    assert "completion.base_url: /v1 was added" in function.notes
    assert "completion.api_key: env.COMPLETION_API_KEY is blank, and so unset" in function.notes


def test_an_override_is_an_origin():
    container = LLMContainer(env=USABLE)
    container.completion.model.override("another")

    found = row(container.explain().functions[0], "completion.model")

    assert (found.value, found.origin) == ("another", "override")


@pytest.mark.parametrize("key", ["s", "sk-1234", "x" * 200])
def test_a_key_is_masked_in_one_shape(key):
    assert row(completion({"COMPLETION_API_KEY": key}), "completion.api_key").value == MASK


def test_the_word_none_is_no_secret():
    function = completion({**USABLE, "COMPLETION_API_KEY": "none"})

    assert row(function, "completion.api_key").value == "none (no Authorization is sent)"
    assert not function.sends_key


def test_headers_show_their_names_only():
    function = completion({**USABLE, "COMPLETION_HEADERS": "X-Team: search\nX-Key: sk-secret"})

    assert row(function, "completion.headers").value == f"X-Team: {MASK}, X-Key: {MASK}"


@pytest.mark.parametrize("model", ["@cf/meta/llama-3", "llama?", "a#b", "two words"])
def test_what_is_no_url_is_shown_as_it_is(model):
    assert row(completion({**USABLE, "COMPLETION_MODEL": model}), "completion.model").value == model


def test_a_value_that_cannot_be_used_says_why():
    found = row(completion({**USABLE, "COMPLETION_DEADLINE_S": "soon"}), "completion.deadline_s")

    assert found.value is not None
    assert found.value.startswith("unusable: must be a number of seconds above 0")
    assert found.origin == "env.COMPLETION_DEADLINE_S"


def test_settings_of_azure_play_no_part_elsewhere():
    function = completion({**USABLE, "COMPLETION_API_KEY": "own"})

    assert not [row for row in function.rows if "azure" in row.setting]


def test_settings_of_azure_that_are_set_are_shown_also_where_they_play_no_part():
    function = completion({**USABLE, "AZURE_OPENAI_ENDPOINT": "https://az"})

    assert row(function, "completion.azure.endpoint").origin == "env.AZURE_OPENAI_ENDPOINT"


def test_for_azure_all_of_its_settings_are_shown():
    function = completion({"AZURE_OPENAI_ENDPOINT": "https://az", "COMPLETION_API_KEY": "own"})

    assert function.dialect == "azure"
    assert row(function, "completion.azure.api_key").origin == "env.COMPLETION_API_KEY"
    assert row(function, "completion.azure.api_version").origin == "default"


@pytest.mark.parametrize("config", ["text", 5, [], {"completion": 5}, {"azure": [1]}])
def test_a_broken_configuration_is_explained_and_not_raised(config):
    function = completion(USABLE, config=config)

    assert function.error is not None
    assert "is no table" in function.error


# Several endpoints


TWO = {
    "COMPLETION_ENDPOINTS": "primary,backup",
    "COMPLETION_PRIMARY_BASE_URL": "https://a.example.com/v1",
    "COMPLETION_PRIMARY_API_KEY": "key",
    "COMPLETION_BACKUP_AZURE_OPENAI_ENDPOINT": "https://b.example.com",
    "COMPLETION_BACKUP_PRICE": "0.5/1.5",
    "COMPLETION_API_KEY": "own",
    "COMPLETION_TAGS": "eu,cheap",
    "COMPLETION_MODEL": "llama",
    "EMBEDDING_BASE_URL": "http://localhost:2/v1",
}


def test_the_text_tells_of_each_endpoint_what_it_has_and_from_where():
    text = str(explained(TWO)).partition("\n\n")[0]

    assert text == (
        "completion: 2 endpoints\n"
        "  completion.model               = llama  [env.COMPLETION_MODEL]\n"
        "  completion.deadline_s          = 120.0  [default]\n"
        "  completion.max_attempts        = 3  [default]\n"
        "  completion.failover_after_send = budgeted  [default]\n"
        "  completion.strategy            = p2c  [default]\n"
        "  completion.endpoints           = primary, backup  [env.COMPLETION_ENDPOINTS]\n"
        "  key_fallback                   = warn  [default]\n"
        "  primary: https://a.example.com/v1 (openai, with a key)\n"
        "    completion.endpoints.primary.base_url = https://a.example.com/v1  [env.COMPLETION_PRIMARY_BASE_URL]\n"
        "    completion.endpoints.primary.api_key  = ********  "
        "[env.COMPLETION_PRIMARY_API_KEY, shadows env.COMPLETION_API_KEY]\n"
        "    completion.endpoints.primary.tags     = eu, cheap  [env.COMPLETION_TAGS]\n"
        "  backup: https://b.example.com/openai (azure, with a key)\n"
        "    completion.endpoints.backup.api_key           = ********  [env.COMPLETION_API_KEY]\n"
        "    completion.endpoints.backup.tags              = eu, cheap  [env.COMPLETION_TAGS]\n"
        "    completion.endpoints.backup.price             = 0.5/1.5  [env.COMPLETION_BACKUP_PRICE]\n"
        "    completion.endpoints.backup.azure.endpoint    = https://b.example.com  "
        "[env.COMPLETION_BACKUP_AZURE_OPENAI_ENDPOINT]\n"
        "    completion.endpoints.backup.azure.api_key     = ********  [env.COMPLETION_API_KEY]\n"
        "    completion.endpoints.backup.azure.api_version = 2024-10-21  [default]\n"
        "    completion.endpoints.backup.azure.keyless     = False  [default]\n"
        "  note: completion.endpoints.backup.azure.api_key: the function's key env.COMPLETION_API_KEY goes to "
        "https://b.example.com:443, one of several hosts; it was given with none"
    )


def test_as_dict_holds_the_endpoints():
    read = json.loads(json.dumps(explained(TWO).as_dict()))

    primary, backup = read["completion"]["endpoints"]
    assert (primary["name"], primary["server"], primary["dialect"], primary["sends_key"]) == (
        "primary",
        "https://a.example.com/v1",
        "openai",
        True,
    )
    assert backup["rows"][-1]["setting"] == "completion.endpoints.backup.azure.keyless"
    assert read["completion"]["server"] == "https://a.example.com/v1"
    assert read["embedding"]["endpoints"] == [
        {"name": "default", "server": "http://localhost:2/v1", "dialect": "openai", "sends_key": False, "rows": []}
    ]


def test_endpoints_that_do_not_fit_are_told_with_their_settings():
    function = completion({"COMPLETION_ENDPOINTS": "a,b", "COMPLETION_A_BASE_URL": "http://localhost:1"})

    assert function.error is not None
    assert [(each.name, each.server, len(each.rows)) for each in function.endpoints] == [("a", None, 1), ("b", None, 0)]
    assert "\n  a\n" in str(explained({"COMPLETION_ENDPOINTS": "a,b", "COMPLETION_A_BASE_URL": "http://localhost:1"}))


def test_endpoints_whose_names_cannot_be_are_told_by_the_error_alone():
    function = completion({"COMPLETION_ENDPOINTS": "base"})

    assert function.endpoints == ()
    assert function.error is not None
    assert "base cannot be an endpoint's name" in function.error


def test_a_default_that_a_single_endpoint_has_no_use_for_is_not_told():
    settings = {row.setting for row in completion({**USABLE, "COMPLETION_WEIGHT": "2"}).rows}

    assert "completion.weight" in settings
    assert settings.isdisjoint({"completion.strategy", "completion.tier", "completion.endpoints"})


ROUTED = {
    "routes": [{"pool": "long", "min_tokens": 8000}, {"pool": "default", "name": "cheap", "mode": "shadow"}],
    "pools": {"long": {"deadline_s": 300, "trust": "eu,local", "strategy": "in-order"}, "default": {}},
    "endpoints": {
        "a": {"base_url": "http://localhost:1", "tools": True},
        "b": {"base_url": "http://localhost:2", "pools": "long", "trust": "eu", "modalities": "image"},
    },
}


def test_routes_are_shown_with_where_they_lead_and_pools_with_their_options():
    function = completion(config={"completion": ROUTED})

    assert row(function, "completion.routes").value == "route 1 -> long, cheap -> default (shadow)"
    assert row(function, "completion.pools").value == (
        "long (strategy in-order, deadline_s 300, trust eu or local), default"
    )
    assert (row(function, "completion.routing").value, row(function, "completion.tokenizer").value) == ("on", "auto")


def test_of_an_endpoint_its_pools_and_abilities_are_shown():
    _, endpoint = completion(config={"completion": ROUTED}).endpoints

    shown = {row.setting.rpartition(".")[2]: row.value for row in endpoint.rows}
    assert shown == {"base_url": "http://localhost:2", "pools": "long", "trust": "eu", "modalities": "text, image"}


def test_how_routes_are_followed_is_not_shown_where_there_are_none():
    settings = {row.setting for row in completion(TWO).rows}

    assert settings.isdisjoint({"completion.routing", "completion.tokenizer", "completion.routing_timeout_s"})


#: what stands for a secret is made of digits that no text of ours has
SECRET = st.text(alphabet="79@:/?#= \n\"'{}", min_size=1, max_size=8).map(lambda text: f"7{text}9")
IN_URL = st.sampled_from(
    [
        "https://{}@localhost",
        "https://me:{}@localhost/v1",
        "{}@localhost",
        "http://localhost?key={}",
        "http://h#{}",
        "{}",
    ]
)
IN_HEADERS = st.sampled_from(
    ["x-key: {}", "Bearer {}", "x-a: b\nBearer {}", '{{"x-key": "{}"}}', '{{"x-key: {}": "a"}}']
)
SECRETIVE = {
    "COMPLETION_API_KEY": SECRET,
    "OPENAI_API_KEY": SECRET,
    "COMPLETION_OPENAI_API_KEY": SECRET,
    "AZURE_OPENAI_API_KEY": SECRET,
    "COMPLETION_AZURE_OPENAI_KEY": SECRET,
    "COMPLETION_AZURE_OPENAI_AD_TOKEN": SECRET,
    "COMPLETION_BASE_URL": st.builds(str.format, IN_URL, SECRET),
    "OPENAI_BASE_URL": st.builds(str.format, IN_URL, SECRET),
    "OPENAI_API_BASE": st.builds(str.format, IN_URL, SECRET),
    "AZURE_OPENAI_ENDPOINT": st.builds(str.format, IN_URL, SECRET),
    "COMPLETION_HEADERS": st.builds(str.format, IN_HEADERS, SECRET.map(lambda text: text.replace(":", ""))),
    "OPENAI_CUSTOM_HEADERS": st.builds(str.format, IN_HEADERS, SECRET.map(lambda text: text.replace(":", ""))),
    "COMPLETION_APIKEY": SECRET,
    "COMPLETION_ENDPOINTS": st.just("one,two") | st.builds(str.format, IN_URL, SECRET),
    "COMPLETION_ONE_API_KEY": SECRET,
    "COMPLETION_ONE_BASE_URL": st.builds(str.format, IN_URL, SECRET),
    "COMPLETION_ONE_HEADERS": st.builds(str.format, IN_HEADERS, SECRET.map(lambda text: text.replace(":", ""))),
    "COMPLETION_TWO_AZURE_OPENAI_ENDPOINT": st.builds(str.format, IN_URL, SECRET),
    "COMPLETION_TWO_AZURE_OPENAI_AD_TOKEN": SECRET,
    "COMPLETION_DIALECT": st.sampled_from(["openai", "azure"]),
    "LLMWIRE_KEY_FALLBACK": st.sampled_from(["warn", "same-host"]),
}


@given(env=st.fixed_dictionaries({}, optional=SECRETIVE))
@example(env={"COMPLETION_BASE_URL": "https://me:7@9@localhost"})
@example(env={"COMPLETION_BASE_URL": "https://me:7/9@localhost"})
@example(env={"COMPLETION_BASE_URL": "79-key"})
def test_no_explanation_shows_a_secret_whatever_is_configured(env):
    explanation = explained(env)

    for shown in (str(explanation), repr(explanation), json.dumps(explanation.as_dict())):
        assert not set("79").intersection(shown)


def test_of_a_larger_application_the_part_is_explained():
    from dependency_injector import containers, providers

    class Application(containers.DeclarativeContainer):
        config = providers.Configuration()
        llm = providers.Container(LLMContainer, config=config.llm, env=providers.Object(USABLE))

    application = Application(config={"llm": {"completion": {"model": "llama"}}})

    assert application.llm.explain().is_usable
    assert row(explain(application.llm).functions[0], "completion.model").value == "llama"


# What comes from sources.


def following(a_container, *speakers, env=None):
    return a_container({"EMBEDDING_BASE_URL": "http://e:1", **(env or {})}, config={"completion": {"source": speakers}})


def source_lines(container: Any) -> list[str]:
    return [line for line in str(container.explain()).splitlines() if line.startswith("  source ")]


def test_a_source_is_named_and_not_asked(a_container, events):
    speaker = Speaker(served("a"))
    container = following(a_container, speaker, Speaker(name="fake://two"))

    lines = source_lines(container)

    assert lines == ["  source fake://one: not asked yet", "  source fake://two: not asked yet"]
    assert (speaker.asked_for, events) == ([], [])
    assert row(container.explain().functions[0], "completion.source").value == "fake://one, fake://two"


def test_which_document_is_in_force_is_told_with_what_it_says(a_container):
    container = following(a_container, Speaker(snapshot(served("a"), version="index 7")))
    container.completion.pool()

    function = container.explain().functions[0]

    assert source_lines(container) == ["  source fake://one: index 7, answered 0 s ago"]
    assert function.server == "http://a:8000/v1"
    assert function.endpoints[0].rows[0].origin == "config.completion.endpoints.a.base_url (fake://one/completion)"
    assert function.error is None


def test_why_what_a_source_says_is_not_in_force_is_told(a_container):
    container = following(a_container, Speaker(snapshot(served("a"), version="index 7")))
    container.completion.pool()

    container.completion.watcher().heard(0, snapshot({"nonsense": 1}, version="index 8"))

    [line] = source_lines(container)
    assert line.startswith("  source fake://one: index 7, answered 0 s ago; completion.nonsense (from ")


def test_a_source_of_which_nothing_is_in_force_says_why(a_container):
    container = following(a_container, Speaker(SILENT), Speaker(None, name="fake://two"), env=USABLE)
    container.completion.pool()

    assert source_lines(container) == [
        "  source fake://one: nothing of it is in force; refuses the connection. Start it.",
        "  source fake://two: nothing of it is in force, answered 0 s ago; holds nothing",
    ]


def test_what_was_kept_on_the_disk_is_told_as_such(a_container, tmp_path):
    env = {"LLMWIRE_STARTUP": "cache", "LLMWIRE_SOURCE_CACHE": str(tmp_path)}
    following(a_container, Speaker(snapshot(served("a"), version="index 7")), env=env).completion.pool()
    container = following(a_container, Speaker(SILENT), env=env)

    container.completion.pool()

    [line] = source_lines(container)
    assert line.startswith("  source fake://one: index 7, kept at ")
    assert line.endswith(", from the disk; refuses the connection. Start it.")


def test_as_dict_holds_the_sources(a_container):
    container = following(a_container, Speaker(snapshot(served("a"), version="index 7")))
    container.completion.pool()

    told = json.loads(json.dumps(container.explain().as_dict()))

    [source] = told["completion"]["sources"]
    taken_s, asked_s = source.pop("taken_s"), source.pop("asked_s")
    assert source == {"source": "fake://one", "version": "index 7", "is_cached": False, "error": None}
    assert 0 <= taken_s <= asked_s < 60
    assert told["embedding"]["sources"] == []


def test_a_source_that_cannot_be_understood_is_the_error_of_its_function():
    function = completion({**USABLE, "COMPLETION_SOURCE": "consol://127.0.0.1/a"})

    assert function.sources == ()
    assert "completion.source (from env.COMPLETION_SOURCE): " in (function.error or "")


@pytest.mark.parametrize(
    ("variable", "written"),
    [
        ("LLMWIRE_SOURCE", "cosnul://127.0.0.1:8500/a"),
        ("LLMWIRE_SOURCE", "consul://127.0.0.1:8500"),
        ("LLMWIRE_STARTUP", "chache"),
    ],
)
def test_it_is_told_before_what_the_source_was_to_say(variable, written):
    function = completion({variable: written})  # and no key, no server

    assert f"(from env.{variable}): " in (function.error or "")


def test_a_token_of_a_source_is_not_shown():
    source = {"url": "consul://127.0.0.1:8500/llmwire/prod", "token": "tok-secret"}

    text = str(explained(USABLE, config={"completion": {"source": [source]}}))

    assert "consul://127.0.0.1:8500/llmwire/prod" in text
    assert "secret" not in text


def test_a_named_key_is_masked_and_its_name_shown(a_container):
    env = {"LLMWIRE_CREDENTIAL_VENDOR_API_KEY": "sk-secret", "LLMWIRE_CREDENTIAL_VENDOR_HOSTS": "http://a:8000"}
    container = following(a_container, Speaker(served("a", credential="vendor")), env=env)
    container.completion.pool()

    [endpoint] = container.explain().functions[0].endpoints

    assert endpoint.sends_key
    assert [(row.setting, row.value) for row in endpoint.rows][1:] == [("completion.endpoints.a.credential", "vendor")]
    assert "sk-secret" not in str(container.explain())


@pytest.mark.parametrize(("source", "is_told"), [({}, False), ({"LLMWIRE_SOURCE": "/tmp/a.toml"}, True)])
def test_how_is_begun_is_told_where_there_is_a_source(source, is_told):
    env = {"COMPLETION_ENDPOINTS": "a", "COMPLETION_A_BASE_URL": "http://a:1", **source}

    settings = [row.setting for row in completion(env).rows]

    assert ("completion.startup" in settings) is is_told
