"""How the endpoints of a function are named, and what each of them inherits."""

from __future__ import annotations

from typing import Any

import pytest
from dependency_injector import containers, providers

from llmwire.container import ConfigError, LLMContainer
from llmwire.container.configuration import FirstOf
from llmwire.container.resolution import FunctionSettings
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.endpoint import Dialect, Price, Timeouts
from llmwire.services.routing.failover import AfterSend, CallSpec
from llmwire.services.secrets import Secret

TWO = {
    "COMPLETION_ENDPOINTS": "primary,backup",
    "COMPLETION_PRIMARY_BASE_URL": "https://a.example.com",
    "COMPLETION_PRIMARY_API_KEY": "key-a",
    "COMPLETION_BACKUP_BASE_URL": "https://b.example.com",
    "COMPLETION_BACKUP_MODEL": "llama-3-70b",
}


def settled(env: dict[str, str] | None = None, function: str = "completion", **layers: Any) -> FunctionSettings:
    settings: FunctionSettings = getattr(LLMContainer(env=env or {}, **layers), function).settings()
    return settings


def refused(env: dict[str, str] | None = None, function: str = "completion", **layers: Any) -> str:
    with pytest.raises(ConfigError) as error:
        settled(env, function, **layers)
    return str(error.value)


def named(names: str) -> dict[str, str]:
    """An environment that names endpoints of which each has the function's server."""
    return {"COMPLETION_ENDPOINTS": names, "COMPLETION_BASE_URL": "http://localhost:1"}


def test_without_names_there_is_one_endpoint_that_inherits_everything():
    settings = settled({"COMPLETION_BASE_URL": "http://localhost:1", "COMPLETION_WEIGHT": "2", "COMPLETION_MODEL": "m"})

    (endpoint,) = settings.endpoints
    assert (endpoint.name, endpoint.base_url, endpoint.weight) == ("default", "http://localhost:1/v1", 2.0)
    assert (endpoint.model, settings.model) == (None, "m")
    assert settings.endpoint is endpoint


def test_the_environment_names_endpoints_and_says_what_each_has():
    settings = settled(TWO)

    primary, backup = settings.endpoints
    assert (primary.name, primary.base_url, primary.credential) == (
        "primary",
        "https://a.example.com/v1",
        Secret("key-a"),
    )
    assert (backup.name, backup.base_url, backup.credential) == ("backup", "https://b.example.com/v1", None)
    assert (primary.model, backup.model, settings.model) == (None, "llama-3-70b", "gpt-5.4-mini")
    assert settings.endpoint is primary


def test_a_table_of_tables_names_endpoints_in_its_order():
    config = {
        "completion": {
            "strategy": "in-order",
            "endpoints": {"zeta": {"base_url": "http://z"}, "Alpha": {"base_url": "http://a", "weight": 3}},
        }
    }

    settings = settled({"COMPLETION_ALPHA_TIER": "1"}, config=config)

    assert [(each.name, each.base_url, each.weight, each.tier) for each in settings.endpoints] == [
        ("zeta", "http://z/v1", 1.0, 0),
        ("alpha", "http://a/v1", 3.0, 1),
    ]
    assert settings.strategy is Strategy.IN_ORDER


def test_a_table_names_them_before_the_environment_does():
    config = {"completion": {"endpoints": {"primary": {}}}}

    container = LLMContainer(env=TWO, config=config)

    assert [each.name for each in container.completion.settings().endpoints] == ["primary"]
    assert container.completion.endpoints.origin() == "config.completion.endpoints"
    assert [held.origin for held in container.completion.endpoints.found().shadowed] == ["env.COMPLETION_ENDPOINTS"]


def test_a_file_says_the_same(tmp_path):
    file = tmp_path / "llm.toml"
    file.write_text(
        """
        [completion]
        strategy = "p2c"
        [completion.endpoints.primary]
        base_url = "https://a.example.com"
        api_key = "key-a"
        [completion.endpoints.backup]
        base_url = "https://b.example.com"
        model = "llama-3-70b"
        """
    )

    assert LLMContainer.from_toml(file, env={}).completion.settings().endpoints == settled(TWO).endpoints


def test_a_larger_application_says_the_same():
    class Application(containers.DeclarativeContainer):
        config = providers.Configuration()
        llm = providers.Container(LLMContainer, config=config.llm, env=providers.Object({}))

    endpoints = {"primary": {"base_url": "http://a"}, "backup": {"base_url": "http://b"}}
    application = Application(config={"llm": {"completion": {"endpoints": endpoints}}})

    assert [each.base_url for each in application.llm.completion.settings().endpoints] == ["http://a/v1", "http://b/v1"]


def test_endpoints_of_one_function_are_none_of_the_other():
    settings = settled({**TWO, "EMBEDDING_BASE_URL": "http://localhost:1"}, "embedding")

    assert [each.name for each in settings.endpoints] == ["default"]


def test_blank_names_no_endpoint():
    assert [each.name for each in settled(named(" ")).endpoints] == ["default"]


def test_every_setting_of_an_endpoint_reaches_it():
    endpoint = {
        "base_url": "http://a",
        "api_path": "/v2",
        "api_key": "key",
        "model": "m",
        "weight": 2,
        "tier": 1,
        "tags": ["eu"],
        "price": "0.5/1.5",
        "organization": "org",
        "headers": {"X-Team": "search"},
        "connect_timeout_s": 1,
        "first_byte_timeout_s": 2,
        "chunk_timeout_s": 3,
    }

    (found,) = settled(config={"completion": {"endpoints": {"a": endpoint}}}).endpoints

    assert (found.base_url, found.credential, found.model) == ("http://a/v2", Secret("key"), "m")
    assert (found.weight, found.tier, found.tags, found.price) == (2.0, 1, ("eu",), Price(input=0.5, output=1.5))
    assert found.headers == (("OpenAI-Organization", "org"), ("X-Team", "search"))
    assert found.timeouts == Timeouts(connect_s=1, first_byte_s=2, chunk_s=3)


def test_what_an_endpoint_does_not_say_it_has_from_its_function():
    env = {**TWO, "COMPLETION_WEIGHT": "2", "COMPLETION_BACKUP_WEIGHT": "5", "COMPLETION_TAGS": "eu"}

    primary, backup = settled(env).endpoints

    assert (primary.weight, backup.weight) == (2.0, 5.0)
    assert primary.tags == backup.tags == ("eu",)


def test_the_model_that_services_ask_for_is_no_endpoints_own():
    primary, backup = settled({**TWO, "COMPLETION_MODEL": "llama-3"}).endpoints

    assert (primary.model, backup.model) == (None, "llama-3-70b")


def test_an_override_of_the_functions_value_reaches_those_that_inherit_it():
    container = LLMContainer(env={**TWO, "COMPLETION_BACKUP_WEIGHT": "5"})
    container.completion.weight.override(3)
    container.completion.api_key.override("overridden")

    primary, backup = container.completion.settings().endpoints

    assert (primary.weight, backup.weight) == (3.0, 5.0)
    assert (primary.credential, backup.credential) == (Secret("key-a"), Secret("overridden"))


def test_the_names_may_be_overridden():
    container = LLMContainer(env=TWO)
    container.completion.endpoints.override("backup")

    assert [each.name for each in container.completion.settings().endpoints] == ["backup"]


def test_the_limits_of_a_call_are_the_functions():
    config = {"completion": {"deadline_s": 9, "max_attempts": 2, "failover_after_send": "never"}}

    settings = settled({"OPENAI_API_KEY": "key"}, config=config)

    assert settings.calls == CallSpec(deadline_s=9.0, max_attempts=2, after_send=AfterSend.NEVER)


@pytest.mark.parametrize(("function", "deadline_s"), [("completion", 120), ("embedding", 30)])
def test_an_only_endpoint_has_all_of_the_time_and_of_several_each_leaves_some_for_another(function, deadline_s):
    alone = settled({"OPENAI_API_KEY": "key"}, function)
    beside = settled({f"{function.upper()}_ENDPOINTS": "a,b", "OPENAI_BASE_URL": "http://localhost"}, function)

    assert alone.calls == beside.calls == CallSpec(deadline_s=deadline_s)
    assert alone.strategy is beside.strategy is Strategy.P2C
    assert alone.endpoint.timeouts.first_byte_s == deadline_s
    assert beside.endpoint.timeouts.first_byte_s == deadline_s / 2


def test_who_gives_an_answer_more_time_gives_its_beginning_more_time_too():
    settings = settled(
        {"COMPLETION_ENDPOINTS": "a,b", "OPENAI_BASE_URL": "http://localhost", "COMPLETION_DEADLINE_S": "600"}
    )

    assert settings.endpoint.timeouts.first_byte_s == 300


# Names that cannot be


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("base", "COMPLETION_BASE_URL, a setting of completion, begins with it"),
        ("api", "COMPLETION_API_KEY, a setting of completion, begins with it"),
        ("model", "COMPLETION_MODEL, a setting of completion, begins with it"),
        ("openai", "COMPLETION_OPENAI_BASE_URL, a setting of completion, begins with it"),
        ("azure-openai", "COMPLETION_AZURE_OPENAI_ENDPOINT, a setting of completion, begins with it"),
        ("endpoints", "COMPLETION_ENDPOINTS, a setting of completion, begins with it"),
        ("default", "that is the endpoint of a function which names none"),
        ("pools", "the word is kept for a table"),
        ("routes", "the word is kept for a table"),
        ("tools", "COMPLETION_TOOLS, a setting of completion, begins with it"),
    ],
)
def test_a_name_that_means_something_else_is_refused(name, reason):
    message = refused(named(name))

    assert message == (
        f"completion.endpoints (from env.COMPLETION_ENDPOINTS): {name} cannot be an endpoint's name: {reason}. "
        "Choose another name, in its variables too."
    )


def variables() -> list[str]:
    chains = [known for known in LLMContainer().completion.providers.values() if isinstance(known, FirstOf)]
    places = [place.get_name() for chain in chains for place in chain.places]
    return sorted({place.removeprefix("env.COMPLETION_") for place in places if place.startswith("env.COMPLETION_")})


@pytest.mark.parametrize("variable", variables())
def test_no_beginning_of_a_variable_can_be_a_name(variable):
    words = variable.lower().split("_")

    for length in range(1, len(words) + 1):
        assert "cannot be an endpoint's name" in refused(named("_".join(words[:length])))


@pytest.mark.parametrize("name", ["base_url", "weight", "openai", "pools"])
def test_a_table_has_no_such_name_either(name):
    message = refused(config={"completion": {"endpoints": {name.upper(): {"base_url": "http://a"}}}})

    assert message.startswith(f"completion.endpoints (from config.completion.endpoints): {name} cannot be")


@pytest.mark.parametrize("names", ["backup backup-2 backup_3", "b, a, us, us-east, eu1", "key", "completion", "get"])
def test_other_names_are_free(names):
    assert [each.name for each in settled(named(names)).endpoints] == names.replace(",", "").split()


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (",", "names no endpoint. Name one, as in primary, or leave it out."),
        ("a,b,A", "holds a twice. Rename or remove one of them."),
        ("a-b,a_b", "holds a-b and a_b, which are one name in the environment. Rename or remove one of them."),
        (
            "1st",
            "holds at place 1 what is no name for an endpoint. Write a letter, then letters, digits, - and _, as in ",
        ),
        ("a, b.c", "holds at place 2 what is no name for an endpoint. "),
        ("h\u00e9", "holds at place 1 what is no name for an endpoint. "),
        ("https://me:secret@host", "holds at place 1 what is no name for an endpoint. "),
        (
            "backup,backup_azure_openai",
            "backup and backup_azure_openai cannot both be endpoints: COMPLETION_BACKUP_AZURE_OPENAI_API_KEY would be ",
        ),
    ],
)
def test_impossible_names_are_refused(names, problem):
    message = refused(named(names))

    assert message.startswith(f"completion.endpoints (from env.COMPLETION_ENDPOINTS): {problem}")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({}, "names no endpoint"),
        ({"a": "http://a"}, "holds a, which is no table"),
        ({"base_url": "http://a"}, "holds base_url, which is no table"),
        ({"a": []}, "holds a, which is no table"),
        ({1: {}}, "holds at place 1 what is no name for an endpoint"),
        ({"a": {}, "": {}}, "holds at place 2 what is no name for an endpoint"),
        ({"a": {}, "A": {}}, "holds a and A, which are one name in the environment"),
    ],
)
def test_an_impossible_table_is_refused(table, problem):
    message = refused(config={"completion": {"endpoints": table}})

    assert message.startswith(f"completion.endpoints (from config.completion.endpoints): {problem}. ")


@pytest.mark.parametrize("value", ["primary,backup", ["primary"], 5, "", False])
def test_what_stands_where_the_table_of_endpoints_belongs_is_refused(value):
    assert refused(config={"completion": {"endpoints": value}}) == (
        "completion.endpoints (from config.completion.endpoints): is no table. "
        "Write [completion.endpoints.primary] and its settings below it."
    )


@pytest.mark.parametrize("value", ["x", 5, []])
def test_what_stands_where_a_table_of_an_endpoint_belongs_is_refused(value):
    message = refused(config={"completion": {"endpoints": {"a": {"base_url": "http://a", "azure": value}}}})

    assert message.startswith("completion.endpoints.a.azure (from config.completion.endpoints.a.azure): is no table. ")


# Servers


def test_an_endpoint_without_a_server_says_what_to_set():
    assert refused({**TWO, "COMPLETION_ENDPOINTS": "primary,bakcup", "OPENAI_API_KEY": "key"}) == (
        "completion.endpoints.bakcup.base_url: is not set: bakcup names no server. "
        "Set COMPLETION_BAKCUP_BASE_URL, or COMPLETION_BASE_URL for every endpoint of completion."
    )


@pytest.mark.parametrize("variable", ["COMPLETION_BASE_URL", "OPENAI_BASE_URL"])
def test_an_endpoint_may_inherit_its_server(variable):
    primary, other = settled({**TWO, "COMPLETION_ENDPOINTS": "primary,other", variable: "http://f"}).endpoints

    assert (primary.base_url, other.base_url) == ("https://a.example.com/v1", "http://f/v1")


def test_a_named_endpoint_at_the_default_server_without_a_key_names_three_variables():
    message = refused({"COMPLETION_ENDPOINTS": "a", "COMPLETION_A_BASE_URL": "https://api.openai.com"})

    assert message == (
        "completion.endpoints.a.api_key: is not set. Set COMPLETION_A_API_KEY, "
        "COMPLETION_API_KEY for every endpoint of completion, or OPENAI_API_KEY for both functions."
    )


def test_an_unusable_url_is_the_fault_of_where_it_was_written():
    own, inherited = {"COMPLETION_BACKUP_BASE_URL": "host"}, {**named("a,b"), "COMPLETION_BASE_URL": "host"}

    assert refused({**TWO, **own}).startswith("completion.endpoints.backup.base_url (from env.COMPLETION_BACKUP_BASE")
    assert "(from env.COMPLETION_BASE_URL): has no scheme" in refused(inherited)


AZURE = {"COMPLETION_BACKUP_AZURE_OPENAI_ENDPOINT": "https://az", "COMPLETION_BACKUP_API_KEY": "key"}


@pytest.mark.parametrize(
    ("env", "dialect", "base_url"),
    [
        (AZURE, "azure", "https://az/openai"),
        ({**AZURE, "COMPLETION_BASE_URL": "http://f"}, "azure", "https://az/openai"),
        ({**AZURE, "COMPLETION_DIALECT": "openai"}, "azure", "https://az/openai"),
        ({**AZURE, "COMPLETION_BACKUP_DIALECT": "openai", "COMPLETION_BASE_URL": "http://f"}, "openai", "http://f/v1"),
        (
            {"COMPLETION_BACKUP_BASE_URL": "http://b", "COMPLETION_AZURE_OPENAI_ENDPOINT": "https://az"},
            "openai",
            "http://b/v1",
        ),
        (
            {"COMPLETION_BACKUP_BASE_URL": "http://b", "COMPLETION_DIALECT": "azure", "COMPLETION_API_KEY": "key"},
            "azure",
            "http://b/openai",
        ),
        (
            {
                "COMPLETION_AZURE_OPENAI_ENDPOINT": "https://az",
                "COMPLETION_API_KEY": "key",
                "OPENAI_BASE_URL": "http://s",
            },
            "azure",
            "https://az/openai",
        ),
    ],
)
def test_the_most_specific_level_that_names_a_server_decides_the_dialect_of_an_endpoint(env, dialect, base_url):
    (endpoint,) = settled({"COMPLETION_ENDPOINTS": "backup", **env}).endpoints

    assert (str(endpoint.dialect), endpoint.base_url) == (dialect, base_url)


def test_two_servers_at_one_endpoint_are_a_question_to_the_operator():
    message = refused({**TWO, **AZURE})

    assert message == (
        "completion.endpoints.backup.dialect: is open: both an OpenAI and an Azure server are named. Keep one of "
        "env.COMPLETION_BACKUP_BASE_URL and env.COMPLETION_BACKUP_AZURE_OPENAI_ENDPOINT, or set "
        "COMPLETION_BACKUP_DIALECT."
    )


def test_an_azure_and_an_openai_endpoint_stand_in_one_pool():
    config = {
        "completion": {
            "endpoints": {
                "vendor": {"base_url": "https://a", "api_key": "key-a"},
                "azure-east": {"azure": {"endpoint": "https://az", "api_key": "key-z", "deployment": "gpt"}},
            }
        }
    }

    vendor, east = settled(config=config).endpoints

    assert (vendor.dialect, vendor.api_version, vendor.deployment) == (Dialect.OPENAI, None, None)
    assert (east.dialect, east.api_version, east.deployment) == (Dialect.AZURE, "2024-10-21", "gpt")
    assert (vendor.credential, east.credential) == (Secret("key-a"), Secret("key-z"))


def test_endpoints_without_a_key_share_one_source_of_tokens():
    env = {"COMPLETION_ENDPOINTS": "east,west", "COMPLETION_AZURE_OPENAI_KEYLESS": "yes"}
    env |= {f"COMPLETION_{name}_AZURE_OPENAI_ENDPOINT": f"https://{name}" for name in ("EAST", "WEST")}

    east, west = settled(env).endpoints

    assert east.credential is west.credential is not None


# Pools


def test_two_endpoints_that_are_one_are_a_warning():
    env = {**named("a,b,c"), "COMPLETION_C_MODEL": "m"}

    (warning,) = settled(env).warnings

    assert (warning.key, warning.origin) == ("completion.endpoints", "env.COMPLETION_ENDPOINTS")
    assert warning.message == "a and b are one server with one key and one model"


def test_what_several_inherit_is_warned_of_and_noted_once():
    env = {
        **named("a,b"),
        "COMPLETION_B_MODEL": "m",
        "COMPLETION_BASE_URL": "http://f/v1/models",
        "COMPLETION_TIER": "",
    }

    settings = settled(env)

    assert [f"{warning.key}: {warning.message}" for warning in settings.warnings] == [
        "completion.endpoints.a.base_url: /models was cut off: the client adds it"
    ]
    assert settings.notes.count("completion.tier: env.COMPLETION_TIER is blank, and so unset") == 1


@pytest.mark.parametrize(
    ("env", "has_note"), [({}, True), ({"COMPLETION_PRIMARY_MODEL": "m"}, False), ({"COMPLETION_MODEL": "m"}, False)]
)
def test_a_server_may_not_know_the_default_model_where_no_model_is_named(env, has_note):
    assert any("may not know" in note for note in settled({**TWO, **env}).notes) is has_note


SPACES = {"EMBEDDING_ENDPOINTS": "a,b", "EMBEDDING_BASE_URL": "http://f"}


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"EMBEDDING_MODEL": "bert"},
        {"EMBEDDING_MODEL": "bert", "EMBEDDING_A_MODEL": "bert"},
        {"EMBEDDING_A_MODEL": "bert", "EMBEDDING_B_MODEL": "bert"},
        {"EMBEDDING_A_MODEL": "bert", "EMBEDDING_SPACE": "bert"},
        {"EMBEDDING_A_MODEL": "bert", "EMBEDDING_A_SPACE": "bert", "EMBEDDING_B_SPACE": "bert"},
        {"EMBEDDING_A_SPACE": "small"},
        {"EMBEDDING_A_REVISION": "1"},
    ],
)
def test_endpoints_of_one_embedding_space_stand_in_one_pool(env):
    assert len(settled({**SPACES, **env}, "embedding").endpoints) == 2


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"EMBEDDING_A_MODEL": "bert"}, "a has bert, b has text-embedding-3-small. Name one model; "),
        ({"EMBEDDING_A_MODEL": "bert", "EMBEDDING_MODEL": "bge"}, "a has bert, b has bge. "),
        ({"EMBEDDING_A_MODEL": "bert", "EMBEDDING_A_SPACE": "bert"}, "a has bert, b has text-embedding-3-small. "),
        ({"EMBEDDING_A_SPACE": "x", "EMBEDDING_B_SPACE": "y"}, "a has x, b has y. Give all the same space"),
        ({"EMBEDDING_A_SPACE": "x", "EMBEDDING_SPACE": "y", "EMBEDDING_A_MODEL": "m"}, "a has x, b has y. "),
        ({"EMBEDDING_A_REVISION": "1", "EMBEDDING_REVISION": "2"}, "a has 1, b has 2. Give all the same revision"),
    ],
)
def test_an_embedding_pool_holds_one_space(env, told):
    message = refused({**SPACES, **env}, "embedding")

    assert message.startswith(
        "embedding.endpoints (from env.EMBEDDING_ENDPOINTS): hold more than one embedding space, which never mix: "
    )
    assert told in message


@pytest.mark.parametrize(
    ("env", "space", "revision"),
    [
        ({}, None, None),
        ({"EMBEDDING_A_MODEL": "bge", "EMBEDDING_B_MODEL": "bge"}, "bge", None),
        (
            {
                "EMBEDDING_A_MODEL": "bge-local",
                "EMBEDDING_B_MODEL": "bge-azure",
                "EMBEDDING_A_SPACE": "bge",
                "EMBEDDING_B_SPACE": "bge",
                "EMBEDDING_A_REVISION": "v2",
            },
            "bge",
            "v2",
        ),
        ({"EMBEDDING_SPACE": "s", "EMBEDDING_REVISION": "3"}, "s", "3"),
    ],
    ids=["of the request", "one model", "at the endpoints", "of the function"],
)
def test_what_the_vectors_of_a_pool_are_of_is_what_its_endpoints_say(env, space, revision):
    found = settled({**SPACES, **env}, "embedding")

    assert (found.space, found.revision) == (space, revision)


def test_a_completion_pool_may_hold_several_models():
    assert len({each.model for each in settled(TWO).endpoints}) == 2
