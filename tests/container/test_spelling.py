"""Names that nobody declared: refused where they look like ours, left alone where they are another program's."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import ConfigError, LLMContainer, values
from llmwire.container.documents import Sourced
from llmwire.container.settings import SETTINGS, Writers

from .speakers import sourced

USABLE = {"COMPLETION_BASE_URL": "http://localhost:1", "EMBEDDING_BASE_URL": "http://localhost:2"}


def settled(function: str = "completion", *, env: dict[str, str] | None = None, config: Any = None) -> Any:
    container = LLMContainer(config=config if config is not None else {}, env={**USABLE, **(env or {})})
    return getattr(container, function).settings()


def refused(function: str = "completion", **layers: Any) -> str:
    with pytest.raises(ConfigError) as error:
        settled(function, **layers)
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "wrong", "right"),
    [
        ({"completion": {"baseurl": "x"}}, "completion.baseurl", "completion.base_url"),
        ({"completion": {"apikey": "x"}}, "completion.apikey", "completion.api_key"),
        ({"completion": {"azure": {"api_verson": "x"}}}, "completion.azure.api_verson", "completion.azure.api_version"),
        ({"openai": {"apikey": "x"}}, "openai.apikey", "openai.api_key"),
        ({"azure": {"end_point": "x"}}, "azure.end_point", "azure.endpoint"),
        ({"complettion": {"base_url": "x"}}, "complettion", "completion"),
        ({"completions": None}, "completions", "completion"),
        ({"key_fallbak": "warn"}, "key_fallbak", "key_fallback"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_right_one(config, wrong, right):
    assert refused(config=config) == f"{wrong} (from config.{wrong}): is no setting. Did you mean {right}?"


def test_a_key_like_no_other_is_refused_with_all_there_are():
    message = refused(config={"zzz": 1})

    assert message.startswith("zzz (from config.zzz): is no setting. Known are azure, azure.ad_token, ")
    assert "completion.base_url" in message


def test_a_misspelt_key_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "llm.toml"
    file.write_text("[completion]\nbaseurl = 'http://localhost:1'\n")

    with pytest.raises(ConfigError) as refused:
        LLMContainer.from_toml(file, env={}).completion.settings()

    assert str(refused.value) == (
        f"completion.baseurl (from config.completion.baseurl ({file})): is no setting. "
        "Did you mean completion.base_url?"
    )


def test_a_misspelt_key_does_not_show_its_value():
    assert "sk-secret" not in refused(config={"completion": {"apikey": "sk-secret"}})


@pytest.mark.parametrize(
    "config",
    [{"embedding": {"baseurl": "x"}}, {"embedding": "x"}, {"embedding": {"azure": {"x": 1}}}, {"embedding": None}],
)
def test_a_mistake_in_one_function_leaves_the_other_working(config):
    settings = settled("completion", config=config)

    assert settings.endpoint.base_url == "http://localhost:1/v1"


@pytest.mark.parametrize(("function", "other"), [("completion", "embedding"), ("embedding", "completion")])
def test_a_misspelt_variable_of_one_function_leaves_the_other_working(function, other):
    env = {f"{function.upper()}_BASEURL": "http://elsewhere"}

    assert settled(other, env=env)
    assert f"{function.upper()}_BASE_URL" in refused(function, env=env)


@pytest.mark.parametrize("config", [{"openai": {"apikey": "x"}}, {"azure": {"x": 1}}, {"other": 1}])
def test_a_mistake_in_what_is_shared_stops_both_functions(config):
    completion, embedding = refused("completion", config=config), refused("embedding", config=config)

    assert "is no setting" in completion
    assert completion.partition(". ")[0] == embedding.partition(". ")[0]


@pytest.mark.parametrize("value", ["text", 5, ["a"], True, ""])
@pytest.mark.parametrize("table", ["completion", "openai", "azure"])
def test_what_stands_where_a_table_belongs_is_refused(table, value):
    message = refused(config={table: value})

    assert message == f"{table} (from config.{table}): is no table. Write [{table}] and its settings below it."


def test_what_stands_where_a_table_in_a_table_belongs_is_refused():
    assert "completion.azure (from config.completion.azure): is no table" in refused(
        config={"completion": {"azure": "x"}}
    )


@pytest.mark.parametrize("value", ["text", 5, ["a"], True, "", [], False])
def test_a_whole_configuration_that_is_no_table_is_refused(value):
    assert refused(config=value) == "config (from config): is no table. Give a dict, or read a TOML file."


@pytest.mark.parametrize(
    "config", [{}, {"completion": None}, {"completion": {}}, {"completion": {"azure": None}}, {"openai": None}]
)
def test_an_empty_table_is_no_mistake(config):
    assert settled(config=config)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_value_of_a_known_key_is_no_mistake(value):
    assert settled(config={"completion": {"model": value, "headers": value}})


@pytest.mark.parametrize("value", [{"x": 1}, ["http://localhost:1"]])
def test_a_table_where_a_value_belongs_is_refused_as_a_value(value):
    message = refused(config={"completion": {"base_url": value}})

    assert f"completion.base_url (from config.completion.base_url): must be text, not {type(value).__name__}" in message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("COMPLETION_BASEURL", "COMPLETION_BASE_URL"),
        ("COMPLETION_BSE_URL", "COMPLETION_BASE_URL"),
        ("COMPLETION_URL", "COMPLETION_BASE_URL"),
        ("COMPLETION_KEY", "COMPLETION_API_KEY"),
        ("COMPLETION_APIKEY", "COMPLETION_API_KEY"),
        ("COMPLETION_API_KEYS", "COMPLETION_API_KEY"),
        ("COMPLETION_MODLE", "COMPLETION_MODEL"),
        ("COMPLETION_OPENAI_KEY", "COMPLETION_OPENAI_API_KEY"),
        ("COMPLETION_AZURE_ENDPOINT", "COMPLETION_AZURE_OPENAI_ENDPOINT"),
        ("COMPLETION_AZURE_OPENAI_DEPLOYMENT_NAME", "COMPLETION_AZURE_OPENAI_DEPLOYMENT"),
        ("COMPLETION_DEADLINE", "COMPLETION_DEADLINE_S"),
        ("LLMWIRE_KEY_FALLBCK", "LLMWIRE_KEY_FALLBACK"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_right_one(wrong, right):
    assert refused(env={wrong: "x"}).startswith(f"{wrong} (from env.{wrong}): is no setting. Did you mean {right}? ")


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ("POOLS", "Name them at an endpoint, as in EMBEDDING_BACKUP_POOLS; their options stand in [embedding.pools."),
        ("ROUTES", "Routes stand in a file or a dict, below [[embedding.routes]]."),
    ],
)
def test_what_has_no_variable_is_refused_with_where_it_stands(wrong, where):
    variable = f"EMBEDDING_{wrong}"

    assert refused("embedding", env={variable: "x"}).startswith(
        f"{variable} (from env.{variable}): is no setting. {where}"
    )
    assert settled("embedding", env={variable: "x", "LLMWIRE_IGNORE": variable})


@pytest.mark.parametrize("name", ["EMBEDDING_DIMENSION", "EMBEDDING_DIMENSIONS_"])
def test_dimensions_are_misspelt_only_for_embeddings(name):
    assert "Did you mean EMBEDDING_DIMENSIONS?" in refused("embedding", env={name: "8"})
    assert settled("completion", env={name: "8"})


#: what shells, Kubernetes and applications call their own variables
FOREIGN = """
    WAITING_DOTS DOTS PORT PORT_80_TCP PORT_80_TCP_ADDR PORT_80_TCP_PORT PORT_80_TCP_PROTO SERVICE_HOST SERVICE_PORT
    SERVICE_PORT_HTTP PROMPT PROMPT_FILE TABLE CACHE STORE SIZE BATCH_SIZE DIR LANG HOST PROXY TOPIC WORKERS
"""


@pytest.mark.parametrize("function", ["completion", "embedding"])
@pytest.mark.parametrize("name", FOREIGN.split())
def test_a_variable_of_another_program_is_left_alone(function, name):
    assert settled(function, env={f"{function.upper()}_{name}": "x"})


def test_a_variable_of_another_program_that_looks_like_ours_can_be_named_as_such():
    env = {"COMPLETION_MODE": "fast", "COMPLETION_KEY": "tab"}

    assert "list it in LLMWIRE_IGNORE" in refused(env=env)
    assert settled(env={**env, "LLMWIRE_IGNORE": "COMPLETION_MODE, COMPLETION_KEY"})


@pytest.mark.parametrize("blank", ["", " ", None])
def test_a_misspelt_variable_that_is_blank_is_no_mistake(blank):
    assert settled(env={"COMPLETION_BASEURL": blank})


def test_a_misspelt_variable_in_a_dotenv_file_names_the_file(tmp_path):
    file = tmp_path / ".env"
    file.write_text("COMPLETION_BASEURL=http://localhost:1\n")

    with pytest.raises(ConfigError, match=rf"COMPLETION_BASEURL \(from env.COMPLETION_BASEURL \({file}\)\)"):
        LLMContainer.from_dotenv(file).completion.settings()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("OPENAI_APIKEY", "OPENAI_API_KEY"), ("AZURE_OPENAI_ENDPONT", "AZURE_OPENAI_ENDPOINT")],
)
def test_a_misspelt_shared_variable_is_a_warning_as_others_read_it_too(wrong, right):
    (warning,) = settled(env={wrong: "x"}).warnings

    assert warning.message == f"{wrong} is read by nothing; did you mean {right}?"
    assert settled(env={wrong: "x", "LLMWIRE_IGNORE": wrong}).warnings == ()


@pytest.mark.parametrize("name", ["OPENAI_API_TYPE", "OPENAI_LOG", "OPENAI_WEBHOOK_SECRET", "OPENAI_ADMIN_KEY"])
def test_the_shared_variables_of_the_sdk_itself_are_left_alone(name):
    assert settled(env={name: "x"}).warnings == ()


@given(
    config=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *("completion", "embedding", "openai", "azure", "base_url", "headers", "endpoints", "price"),
                        *("pools", "routes", "pool", "min_tokens", "keywords", "trust", "examples"),
                    ]
                )
                | st.text(max_size=8)
                | st.integers(),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_a_configuration_is_it_is_settled_or_refused_in_our_words(config):
    container = LLMContainer(config=config, env=USABLE)

    for function in ("completion", "embedding"):
        with contextlib.suppress(ConfigError):
            getattr(container, function).settings()


# Of endpoints that have names


ENDPOINTS = {
    "COMPLETION_ENDPOINTS": "primary,backup,backup-2",
    "COMPLETION_PRIMARY_BASE_URL": "http://localhost:3",
    "COMPLETION_BACKUP_2_WEIGHT": "2",
}


@pytest.mark.parametrize(
    ("table", "wrong", "remedy"),
    [
        ({"base_ulr": "x"}, "base_ulr", "Did you mean completion.endpoints.backup.base_url?"),
        ({"url": "x"}, "url", "Did you mean completion.endpoints.backup.base_url?"),
        ({"azure": {"end_point": "x"}}, "azure.end_point", "Did you mean completion.endpoints.backup.azure.endpoint?"),
        ({"deadline_s": 5}, "deadline_s", "Write it in [completion]: it is of the function as a whole."),
        ({"strategy": "p2c"}, "strategy", "Write it in [completion]: it is of the function as a whole."),
        ({"pool": "x"}, "pool", "Did you mean completion.endpoints.backup.pools?"),
        ({"routes": []}, "routes", "Write it in [completion]: it is of the function as a whole."),
        ({"zzz": 5}, "zzz", "Known are api_key, api_path, azure, azure.ad_token, "),
    ],
)
def test_a_misspelt_key_of_an_endpoint_is_refused_with_the_nearest_of_its_table(table, wrong, remedy):
    path = f"completion.endpoints.backup.{wrong}"

    message = refused(config={"completion": {"endpoints": {"primary": {}, "backup": table}}})

    assert message.startswith(f"{path} (from config.{path}): is no setting. {remedy}")


@pytest.mark.parametrize("wrong", ["endpoint", "end_points", "endponits"])
def test_a_misspelt_table_of_endpoints_is_refused_too(wrong):
    assert "Did you mean completion.endpoints?" in refused(config={"completion": {wrong: {"a": {}}}})


def test_a_mistake_at_an_endpoint_of_one_function_leaves_the_other_working():
    config = {"embedding": {"endpoints": {"base": "x", "a": {"base_ulr": 1}}}}

    assert settled("completion", config=config, env={"EMBEDDING_ENDPOINTS": "1,2", "EMBEDDING_1_BASEURL": "x"})


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("COMPLETION_BACKUP_BASEURL", "COMPLETION_BACKUP_BASE_URL"),
        ("COMPLETION_BACKUP_URL", "COMPLETION_BACKUP_BASE_URL"),
        ("COMPLETION_BACKUP_2_APIKEY", "COMPLETION_BACKUP_2_API_KEY"),
        ("COMPLETION_BACKUP_OPENAI_API_KEY", "COMPLETION_BACKUP_API_KEY"),
        ("COMPLETION_BACKUP_AZURE_ENDPOINT", "COMPLETION_BACKUP_AZURE_OPENAI_ENDPOINT"),
        ("COMPLETION_BACKUP_DEADLINE_S", "COMPLETION_DEADLINE_S"),
        ("COMPLETION_ENDPOINT", "COMPLETION_ENDPOINTS"),
        ("COMPLETION_BACKUP_POOL", "COMPLETION_BACKUP_POOLS"),
        ("COMPLETION_BACKUP_TRSUT", "COMPLETION_BACKUP_TRUST"),
        ("COMPLETION_BACKUP_CONTEXT_LEN", "COMPLETION_BACKUP_CONTEXT_LENGTH"),
        ("COMPLETION_BACKUP_ROUTING", "COMPLETION_ROUTING"),
        ("COMPLETION_BASEURL", "COMPLETION_BASE_URL"),
        ("COMPLETION_OPENIA_API_KEY", "COMPLETION_OPENAI_API_KEY"),
    ],
)
def test_a_misspelt_variable_of_an_endpoint_is_refused_with_the_nearest_right_one(wrong, right):
    message = refused(env={**ENDPOINTS, wrong: "x"})

    assert message.startswith(f"{wrong} (from env.{wrong}): is no setting. Did you mean {right}? ")


def warned(env: dict[str, str], config: Any = None) -> list[str]:
    return [warning.message for warning in settled(env=env, config=config).warnings if warning.key == "environment"]


@pytest.mark.parametrize(
    ("env", "warnings"),
    [
        (
            {"COMPLETION_THIRD_BASE_URL": "http://t"},
            ["COMPLETION_THIRD_BASE_URL is read by nothing: add third to COMPLETION_ENDPOINTS"],
        ),
        (
            {"COMPLETION_THIRD_API_KEY": "key", "COMPLETION_THIRD_MODEL": "m"},
            ["COMPLETION_THIRD_API_KEY, COMPLETION_THIRD_MODEL are read by nothing: add third to COMPLETION_ENDPOINTS"],
        ),
        (
            {"COMPLETION_BACKUP_3_AZURE_OPENAI_API_KEY": "key"},
            ["COMPLETION_BACKUP_3_AZURE_OPENAI_API_KEY is read by nothing: add backup_3 to COMPLETION_ENDPOINTS"],
        ),
        (
            {"COMPLETION_BAKCUP_TIER": "1"},
            ["COMPLETION_BAKCUP_TIER is read by nothing: add bakcup to COMPLETION_ENDPOINTS"],
        ),
        ({"COMPLETION_THIRD_BASE_URL": " "}, []),
        ({"COMPLETION_THIRD_BASE_URL": "x", "LLMWIRE_IGNORE": "COMPLETION_THIRD_BASE_URL"}, []),
    ],
)
def test_variables_of_an_endpoint_that_is_not_named_are_a_warning(env, warnings):
    assert warned({**ENDPOINTS, **env}) == warnings


def test_where_tables_name_the_endpoints_the_warning_says_so():
    config = {"completion": {"endpoints": {"primary": {}}}}

    assert warned({"COMPLETION_THIRD_BASE_URL": "http://t"}, config) == [
        "COMPLETION_THIRD_BASE_URL is read by nothing: add third to the tables below [completion.endpoints]"
    ]


@pytest.mark.parametrize(
    ("name", "is_warned"),
    [("THIRD_BASE_URL", True), ("THIRD_API_KEY", True), ("SERVICE_TIER", False), ("CACHE_MODEL", False)],
)
def test_where_no_endpoint_is_named_only_a_server_or_a_key_looks_like_one(name, is_warned):
    assert bool(warned({f"COMPLETION_{name}": "x"})) is is_warned


@pytest.mark.parametrize("name", FOREIGN.split())
@pytest.mark.parametrize("part", ["", "BACKUP_"])
def test_a_variable_of_another_program_is_left_alone_beside_endpoints_too(part, name):
    assert warned({**ENDPOINTS, f"COMPLETION_{part}{name}": "x"}) == []


# What stands in the document of a source.


def followed(
    *documents: Sourced, function: str = "completion", env: dict[str, str] | None = None, **config: Any
) -> Any:
    """The settings with these documents in force."""
    container: Any = LLMContainer(config=config, env={**USABLE, **(env or {})})
    lane = getattr(container, function)
    lane.documents.take(documents)
    return lane.settings()


def not_taken(*documents: Sourced, **how: Any) -> str:
    with pytest.raises(ConfigError) as error:
        followed(*documents, **how)
    return str(error.value)


def nested(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


LOCAL_ONLY = {
    "api_key": "sk-secret",
    "organization": "org-secret",
    "project": "proj-secret",
    "headers": {"X-Team": "secret"},
    "azure.api_key": "sk-secret",
    "azure.ad_token": "sk-secret",
    "azure.keyless": True,
}
SHARED_LOCAL_ONLY = {
    "openai.api_key": "sk-secret",
    "openai.organization": "org-secret",
    "openai.project": "proj-secret",
    "openai.headers": {"X-Team": "secret"},
    "azure.api_key": "sk-secret",
    "azure.ad_token": "sk-secret",
    "azure.keyless": True,
}
NOT_OF_A_SOURCE = {
    "completion.budget_ledger": "redis://:secret@mine:6379",
    "completion.source": "consul://evil.test/a",
    "completion.startup": "fail",
    "budget_ledger": "redis://:secret@mine:6379",
    "source": "consul://evil.test/a",
    "startup": "fail",
    "source_cache": "/tmp/secret",
    "key_fallback": "warn",
    "credentials.vendor.api_key": "sk-secret",
    "credentials.vendor.hosts": "https://secret.test",
}
PLACES = [
    *((f"completion.{name}", value) for name, value in LOCAL_ONLY.items()),
    *((f"completion.endpoints.a.{name}", value) for name, value in LOCAL_ONLY.items()),
    *SHARED_LOCAL_ONLY.items(),
]


def document(path: str, value: Any, **how: Any) -> Sourced:
    """One that says this beside an endpoint."""
    tree = nested(path, value)
    completion = tree.setdefault("completion", {})
    table = completion.setdefault("endpoints", {}).setdefault("a", {})
    table["base_url"] = "http://a:8000"
    return sourced(tree, **how)


@pytest.mark.parametrize(("path", "value"), PLACES)
def test_a_document_that_others_may_write_says_no_key_and_nothing_that_goes_along_with_one(path, value):
    message = not_taken(document(path, value))

    assert message.startswith(f"{path} (from config.{path} (fake://one/completion)): is not taken from a document that")
    assert message.endswith("name it in the document as `credential`.")
    assert "secret" not in message


@pytest.mark.parametrize(("path", "value"), PLACES)
def test_a_file_of_this_machine_may(path, value):
    assert followed(document(path, value, is_remote=False, origin="file:///etc/llmwire.toml")).endpoint.name == "a"


@pytest.mark.parametrize(("path", "value"), NOT_OF_A_SOURCE.items())
@pytest.mark.parametrize("is_remote", [True, False])
def test_no_document_says_what_is_settled_before_a_source_is_asked(path, value, is_remote):
    declared = {"credentials": {"vendor": {"api_key": "sk-1", "hosts": "https://mine.test"}}}

    message = not_taken(document(path, value, is_remote=is_remote), **declared)

    assert f"{path} (from config.{path} (fake://one/completion)): is not taken from a source. Write it where" in message
    assert "secret" not in message


def test_a_document_declares_no_credential_of_its_own():
    message = not_taken(document("credentials.evil.api_key", "sk-secret"))

    assert message.startswith("credentials (from config.credentials (fake://")
    assert "is not taken from a source" in message
    assert "secret" not in message


def test_every_setting_that_holds_a_secret_is_of_this_machine_alone():
    secret = {setting.name for setting in SETTINGS if setting.parse in (values.key, values.headers, values.ledger)}
    local = {name.replace(".", "_") for name in LOCAL_ONLY}

    assert {setting.name for setting in SETTINGS if setting.writers is Writers.LOCAL_SOURCE} == local | {"canary"}
    assert secret <= local | {setting.name for setting in SETTINGS if setting.writers is Writers.NO_SOURCE}


@pytest.mark.parametrize("word", ["verify", "verify_ssl", "insecure"])
@pytest.mark.parametrize("table", ["completion", "completion.endpoints.a"])
def test_nobody_turns_off_the_check_of_certificates(word, table):
    message = not_taken(document(f"{table}.{word}", False))

    assert message == (
        f"{table}.{word} (from config.{table}.{word} (fake://one/completion)): is no setting. "
        "Remove it: a server's certificate is always verified."
    )


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("completion.baseurl", "Did you mean completion.base_url?"),
        ("completion.endpoints.a.wieght", "Did you mean completion.endpoints.a.weight?"),
        ("completion.endpoints.a.deadline_s", "Write it in [completion]: it is of the function as a whole."),
        ("completion.endpoints.a.azure.end_point", "Did you mean completion.endpoints.a.azure.endpoint?"),
    ],
)
def test_a_misspelt_name_in_a_document_is_refused_and_names_the_document(path, remedy):
    assert not_taken(document(path, "x")) == (
        f"{path} (from config.{path} (fake://one/completion)): is no setting. {remedy}"
    )


@pytest.mark.parametrize("value", ["a text", 5, ["a"]])
def test_what_stands_where_a_table_of_a_document_belongs_is_refused_and_names_the_document(value):
    assert not_taken(sourced({"completion": value})) == (
        "completion (from config.completion (fake://one/completion)): is no table. "
        "Write [completion] and its settings below it."
    )
    assert "(fake://one/completion)): is no table." in not_taken(document("completion.azure", value))


def test_a_mistake_in_the_table_of_one_function_leaves_the_other_working():
    tree = {"completion": {"baseurl": "x"}, "embedding": {"base_url": "http://e:1", "model": "m"}}
    whole = sourced(tree, is_remote=False)

    assert followed(whole, function="embedding").endpoint.base_url == "http://e:1/v1"
    assert "completion.baseurl" in not_taken(whole)


# Endpoints of this program that stand behind those of a source.


def test_endpoints_that_stand_behind_those_of_a_source_are_kept_without_complaint():
    env = {
        "COMPLETION_ENDPOINTS": "static,spare",
        "COMPLETION_STATIC_BASE_URL": "http://static:1",
        "COMPLETION_STATIC_API_KEY": "sk-1",
        "COMPLETION_SPARE_BASE_URL": "http://spare:1",
        "COMPLETION_SPARE_WEIGHT": "2",
    }
    tables = {"third": {"base_url": "http://third:1", "api_key": "sk-3", "azure": {"deployment": "d"}}}

    settings = followed(document("completion.model", "m"), env=env, completion={"endpoints": tables})

    assert [endpoint.name for endpoint in settings.endpoints] == ["a"]
    assert settings.warnings == ()


def test_a_variable_of_an_endpoint_that_nobody_names_is_a_warning_as_before():
    env = {"COMPLETION_ENDPOINTS": "static", "COMPLETION_OTHER_BASE_URL": "http://other:1"}

    settings = followed(document("completion.model", "m"), env=env)

    assert [warning.message for warning in settings.warnings] == [
        "COMPLETION_OTHER_BASE_URL is read by nothing: add other to the tables below [completion.endpoints]"
    ]
