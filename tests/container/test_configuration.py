"""Layers, places and chains, with names that mean nothing."""

from __future__ import annotations

import contextlib
import threading

import pytest
from dependency_injector import containers, providers
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container.configuration import Document, Environment, FirstOf, Level, Unfit, option, tree
from llmwire.container.documents import Documents
from llmwire.services.errors import ConfigError

from .speakers import sourced

BLANKS = ["", " ", "\t", "\n", " \r\n\u00a0"]


def layers(config=None, env=None):
    config_layer, env_layer = providers.Configuration(), Environment()
    config_layer.override(config or {})
    env_layer.override(env or {})
    return config_layer, env_layer


def a_chain(*own, shared=(), config=None, env=None, **more):
    found_in = layers(config, env)
    return FirstOf(
        *(option(*found_in, place) for place in own), shared=tuple(option(*found_in, place) for place in shared), **more
    )


def whole_number(raw):
    if not raw.isdigit():
        raise Unfit("is no number", "Write digits.")
    return int(raw)


@given(held=st.lists(st.sampled_from([None, "", " \n", "value"]), min_size=6, max_size=6))
def test_the_value_is_that_of_the_first_place_that_is_not_blank(held):
    places = ["config.a.x", "env.A_X", "env.OLD_A_X", "config.b.x", "env.B_X", "env.OLD_B_X"]
    given_values = {
        place: f"{value}{number}" if value == "value" else value
        for number, (place, value) in enumerate(zip(places, held, strict=True))
    }
    config = {"a": {"x": given_values["config.a.x"]}, "b": {"x": given_values["config.b.x"]}}
    env = {
        name: given_values[f"env.{name}"]
        for name in ("A_X", "OLD_A_X", "B_X", "OLD_B_X")
        if given_values[f"env.{name}"] is not None
    }
    chain = a_chain(*places[:3], shared=places[3:], config=config, env=env, default="the default")

    found = chain.found()

    expected = [place for place in places if (given_values[place] or "").strip()]
    levels = [Level.OWN if place in places[:3] else Level.SHARED for place in expected]
    assert chain() == found.value == (given_values[expected[0]] if expected else "the default")
    assert chain.origin() == found.origin == (expected[0] if expected else "default")
    assert found.level is (levels[0] if expected else Level.DEFAULT)
    assert [(held.origin, held.level) for held in found.shadowed] == list(zip(expected[1:], levels[1:], strict=True))
    assert {held.origin for held in found.blank} == {place for place in places if given_values[place] in ("", " \n")}


def test_without_a_value_and_a_default_it_is_unset():
    chain = a_chain("config.x", "env.X")

    assert chain() is None
    assert (chain.found().origin, chain.found().level) == ("default", Level.UNSET)


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("layer", ["config", "env"])
def test_blank_is_unset_and_remembered(layer, blank):
    chain = a_chain("config.x", "env.X", **{layer: {"x": blank, "X": blank}}, default="d")

    assert chain() == "d"
    assert [held.origin for held in chain.found().blank] == [{"config": "config.x", "env": "env.X"}[layer]]


def test_the_blanks_around_a_value_are_no_part_of_it():
    chain = a_chain("env.X", env={"X": "  value\r\n"})

    assert chain() == "value"


@pytest.mark.parametrize("value", [0, False, [], {}, 0.0])
def test_a_value_that_is_no_text_is_held_even_where_it_is_falsy(value):
    chain = a_chain("config.x", config={"x": value}, default="d")

    assert chain() == value


@pytest.mark.parametrize("config", [None, {}, {"a": None}, {"a": {}}, {"a": {"b": None}}, {"a": {"b": {}}}])
def test_an_empty_table_holds_nothing(config):
    chain = a_chain("config.a.b.x", config=config, default="d")

    assert chain() == "d"


@pytest.mark.parametrize("config", [{"a": "text"}, {"a": 5}, {"a": [1]}, {"a": {"b": "text"}}, {"a": False}])
def test_what_stands_where_a_table_belongs_is_an_error_that_names_the_place(config):
    chain = a_chain("config.a.b.x", config=config, key="a.b.x")

    with pytest.raises(ConfigError, match=r"a\.b\.x \(from config\.a\.b\.x\): stands below something that is no table"):
        chain()


def test_a_value_that_does_not_fit_names_its_setting_its_origin_and_what_to_do():
    chain = a_chain("config.x", "env.X", env={"X": "much"}, key="a.x", parse=whole_number)

    with pytest.raises(ConfigError) as refused:
        chain()

    assert str(refused.value) == "a.x (from env.X): is no number. Write digits."


def test_a_shadowed_value_need_not_fit():
    chain = a_chain("config.x", "env.X", config={"x": "5"}, env={"X": "much"}, parse=whole_number)

    assert chain() == 5


def test_the_default_is_not_parsed():
    chain = a_chain("env.X", default=7, parse=whole_number)

    assert chain() == 7


def test_a_chain_is_looked_up_each_time():
    config, env = layers()
    chain = FirstOf(option(config, env, "env.X"), default="d")
    before = chain()

    env.override({"X": "later"})

    assert (before, chain()) == ("d", "later")


def test_a_config_given_bit_by_bit_is_merged():
    config, env = providers.Configuration(), Environment()
    chain = FirstOf(option(config, env, "config.a.x"), default="d")
    config.from_dict({"a": {"y": "1"}})
    before = chain()

    config.a.x.from_value("2")

    assert (before, chain()) == ("d", "2")


@pytest.mark.parametrize("replacement", ["5", providers.Object("5"), " 5 "])
def test_an_override_is_parsed_and_shadows_all_places(replacement):
    chain = a_chain("env.X", env={"X": "6"}, parse=whole_number)

    with chain.override(replacement):
        overridden, found = chain(), chain.found()

    assert overridden == found.value == 5
    assert (found.origin, found.level) == ("override", Level.OWN)
    assert [held.origin for held in found.shadowed] == ["env.X"]
    assert chain() == 6


@pytest.mark.parametrize("blank", [None, *BLANKS])
def test_a_blank_override_is_no_override(blank):
    chain = a_chain("env.X", env={"X": "6"}, parse=whole_number)

    chain.override(blank)

    assert chain() == 6
    assert chain.origin() == "env.X"


def test_an_override_that_does_not_fit_says_so():
    chain = a_chain("env.X", key="a.x", parse=whole_number)

    chain.override("much")

    with pytest.raises(ConfigError, match=r"a\.x \(from override\): is no number"):
        chain()


def test_an_override_of_another_type_than_text_is_parsed_too():
    chain = a_chain("env.X", parse=lambda raw: raw + 1)

    chain.override(5)

    assert chain() == 6


@given(held=st.lists(st.sampled_from([None, "", " \n", "value"]), min_size=4, max_size=4), override=st.booleans())
def test_what_comes_before_an_inherited_chain_wins_and_is_nearer(held, override):
    places = ["config.a.b.x", "env.A_B_X", "env.A_X", "env.X"]
    env = {place[4:]: value for place, value in zip(places[1:], held[1:], strict=True) if value is not None}
    found_in = layers({"a": {"b": {"x": held[0]}}}, env)
    nearer, own, shared = (
        [option(*found_in, place) for place in part] for part in (places[:2], places[2:3], places[3:])
    )
    inherited = FirstOf(*own, shared=tuple(shared), default="d", key="a.x")
    chain = FirstOf(*nearer, key="a.b.x", level=Level.ENDPOINT, inherited=inherited)
    if override:
        inherited.override("overridden")

    found = chain.found()

    written = [place for place, value in zip(places, held, strict=True) if value == "value"]
    at = [place for place in written if place in places[:2]]
    at += ["override"] if override else []
    at += [place for place in written if place in places[2:]]
    levels = {"config.a.b.x": Level.ENDPOINT, "env.A_B_X": Level.ENDPOINT, "env.X": Level.SHARED}
    assert [found.origin, *(each.origin for each in found.shadowed)] == (at or ["default"])
    assert found.level is (levels.get(at[0], Level.OWN) if at else Level.DEFAULT)
    assert found.key == ("a.b.x" if not at or at[0] in places[:2] else "a.x")
    assert [place.get_name() for place in chain.places] == places


def test_an_inherited_value_that_does_not_fit_is_the_fault_of_where_it_was_written():
    found_in = layers(env={"A_X": "much"})
    inherited = FirstOf(option(*found_in, "env.A_X"), key="a.x", parse=whole_number)
    chain = FirstOf(
        option(*found_in, "env.A_B_X"), key="a.b.x", parse=whole_number, level=Level.ENDPOINT, inherited=inherited
    )

    with pytest.raises(ConfigError, match=r"a\.x \(from env\.A_X\): is no number"):
        chain()


def test_a_copy_of_a_chain_inherits_from_the_copy():
    class Container(containers.DeclarativeContainer):
        env = Environment()
        value = FirstOf(env.A_X, default="d")
        nearer = FirstOf(env.A_B_X, level=Level.ENDPOINT, inherited=value)

    container = Container(env={"A_X": "of the function"})

    assert (container.nearer(), Container(env={}).nearer()) == ("of the function", "d")
    assert container.nearer.inherited is container.value


@pytest.mark.parametrize("name", ["override", "get", "name", "from_dict", "my-x", "default"])
def test_a_place_may_be_called_as_the_librarys_methods_are(name):
    chain = a_chain(f"config.a.{name}.x", config={"a": {name: {"x": "value"}}})

    assert (chain(), chain.origin()) == ("value", f"config.a.{name}.x")


def test_a_copy_of_a_container_reads_its_own_layers():
    class Container(containers.DeclarativeContainer):
        config = providers.Configuration()
        env = Environment()
        value = FirstOf(config.x, env.X, default="d")

    one, other = Container(config={"x": "one"}, env={}), Container(env={"X": "other"})

    assert (one.value(), other.value(), Container(env={}).value()) == ("one", "other", "d")
    assert (one.value.origin(), other.value.origin()) == ("config.x", "env.X")


def test_a_copy_keeps_the_overrides_of_a_chain():
    class Container(containers.DeclarativeContainer):
        env = Environment()
        value = FirstOf(env.X, parse=whole_number)

    Container.value.override("5")

    assert Container(env={"X": "6"}).value() == 5


def test_the_related_providers_of_a_chain_lead_to_its_layers():
    config, env = layers()
    chain = FirstOf(option(config, env, "config.a.x"), shared=(option(config, env, "env.X"),))

    assert {config, env} <= set(providers.traverse(chain))


def test_the_environment_is_read_when_it_is_asked(monkeypatch):
    env = Environment()
    chain = FirstOf(env.LLMWIRE_X, default="d")
    before = chain()

    monkeypatch.setenv("LLMWIRE_X", "set later")

    assert (before, chain(), chain.origin()) == ("d", "set later", "env.LLMWIRE_X")


def a_dotenv(folder, text):
    file = folder / "some.env"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_dotenv_file_lies_below_the_process_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMWIRE_BOTH", "of the process")
    env = Environment()
    file = a_dotenv(tmp_path, "LLMWIRE_BOTH='of the file'\nexport LLMWIRE_FILE=\"of the file\"  # why\n")
    both, only = FirstOf(env.LLMWIRE_BOTH), FirstOf(env.LLMWIRE_FILE)

    env.read_dotenv(file)

    assert (both(), both.origin()) == ("of the process", "env.LLMWIRE_BOTH")
    assert (only(), only.origin()) == ("of the file", f"env.LLMWIRE_FILE ({file})")


@pytest.mark.parametrize("blank", BLANKS)
def test_a_blank_variable_of_the_process_falls_to_the_dotenv_file(monkeypatch, tmp_path, blank):
    monkeypatch.setenv("LLMWIRE_X", blank)
    env = Environment()
    file = a_dotenv(tmp_path, "LLMWIRE_X=of the file\n")
    chain = FirstOf(env.LLMWIRE_X)

    env.read_dotenv(file)

    assert (chain(), chain.origin()) == ("of the file", f"env.LLMWIRE_X ({file})")
    assert chain.found().blank == ()
    assert tree(env)["LLMWIRE_X"] == "of the file"


@pytest.mark.parametrize("line", ["LLMWIRE_X", "LLMWIRE_X=", "LLMWIRE_X=''"])
def test_a_dotenv_line_without_a_value_sets_nothing(tmp_path, line):
    env = Environment()
    chain = FirstOf(env.LLMWIRE_X, default="d")

    env.read_dotenv(a_dotenv(tmp_path, line))

    assert chain() == "d"


def test_reading_a_dotenv_file_does_not_touch_the_process_environment(monkeypatch, tmp_path):
    import os

    env = Environment()
    env.read_dotenv(a_dotenv(tmp_path, "LLMWIRE_X=of the file\n"))

    assert "LLMWIRE_X" not in os.environ


def test_the_dotenv_file_is_found_above_the_working_directory(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("LLMWIRE_X=found\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    env = Environment()

    env.read_dotenv()

    assert FirstOf(env.LLMWIRE_X)() == "found"


def test_where_no_dotenv_file_is_found_none_is_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    env = Environment()

    env.read_dotenv()

    assert FirstOf(env.LLMWIRE_X, default="d")() == "d"


def test_a_named_dotenv_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.env: is no file\. Name a \.env file that exists"):
        Environment().read_dotenv(tmp_path / "missing.env")


def test_a_dotenv_file_that_is_no_text_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "some.env"
    file.write_bytes(b"LLMWIRE_X=\xff\xfe\n")

    with pytest.raises(ConfigError, match=r"some\.env: cannot be read"):
        Environment().read_dotenv(file)


def test_a_toml_file_is_a_document_that_knows_its_name(tmp_path):
    file = tmp_path / "llm.toml"
    file.write_text('[a]\nx = "from toml"\n')
    config, env = layers(config=Document.from_toml(file))
    chain = FirstOf(option(config, env, "config.a.x"))

    assert (chain(), chain.origin()) == ("from toml", f"config.a.x ({file})")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file"), (b"a = ", "is no TOML"), (b"a = '\xff'", "is no TOML")],
)
def test_a_toml_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path, content, problem):
    file = tmp_path / "llm.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=rf"llm\.toml: {problem}"):
        Document.from_toml(file)


def test_a_secret_is_not_shown_by_what_was_found():
    found = a_chain("env.X", "env.Y", env={"X": "sk-one", "Y": "sk-other"}).found()

    assert "sk-" not in repr(found)


# Documents of sources, a layer before the configuration.


def of(name, tree, *, is_remote=True):
    return sourced(tree, is_remote=is_remote, origin=f"fake://{name}")


def test_at_each_place_of_the_configuration_the_documents_come_first():
    documents = Documents((of("one", {"a": {"x": "1"}}), of("two", {"a": {"x": "2"}, "b": {"x": "3"}})))
    places = {"config": {"a": {"x": "4"}, "b": {"x": "5"}}, "env": {"A_X": "6"}}
    chain = a_chain("config.a.x", "env.A_X", shared=("config.b.x",), documents=documents, **places)

    found = chain.found()

    assert (found.value, found.origin, found.level) == ("1", "config.a.x (fake://one)", Level.OWN)
    assert [(held.raw, held.origin, held.level) for held in found.shadowed] == [
        ("2", "config.a.x (fake://two)", Level.OWN),
        ("4", "config.a.x", Level.OWN),
        ("6", "env.A_X", Level.OWN),
        ("3", "config.b.x (fake://two)", Level.SHARED),
        ("5", "config.b.x", Level.SHARED),
    ]


@pytest.mark.parametrize("is_remote", [True, False])
def test_a_value_knows_whether_others_may_have_written_it(is_remote):
    documents = Documents((of("one", {"x": "1"}, is_remote=is_remote),))

    chain, other = (a_chain(f"config.{name}", documents=documents, config={"y": "2"}) for name in ("x", "y"))

    assert chain.found().is_remote is is_remote
    assert other.found().is_remote is False


def test_a_blank_in_a_document_is_unset_and_remembered():
    chain = a_chain("config.x", documents=Documents((of("one", {"x": " "}),)), config={"x": "1"})

    found = chain.found()

    assert (found.value, found.is_remote) == ("1", False)
    assert [held.origin for held in found.blank] == ["config.x (fake://one)"]


def test_an_override_comes_before_the_documents():
    chain = a_chain("config.x", documents=Documents((of("one", {"x": "1"}),)))

    chain.override("2")

    assert (chain(), chain.found().is_remote) == ("2", False)


def test_a_value_of_a_document_that_does_not_fit_names_the_document():
    chain = a_chain("config.x", documents=Documents((of("one", {"x": "much"}),)), key="x", parse=whole_number)

    with pytest.raises(ConfigError) as refused:
        chain()

    assert str(refused.value) == "x (from config.x (fake://one)): is no number. Write digits."


def test_what_stands_where_a_table_of_a_document_belongs_is_an_error_that_names_it():
    chain = a_chain("config.a.x", documents=Documents((of("one", {"a": "text"}),)), key="a.x")

    with pytest.raises(ConfigError, match=r"a\.x \(from config\.a\.x \(fake://one\)\): stands below"):
        chain()


def test_tables_of_endpoints_are_one_table_in_which_the_first_that_names_one_wins():
    tables = [{"a": {"w": 1}}, {"b": {"w": 2}, "a": {"w": 3}}, {"c": {}}]
    documents = Documents(tuple(of(number, {"f": {"endpoints": table}}) for number, table in enumerate(tables)))

    found = a_chain("config.f.endpoints", documents=documents, config={"f": {"endpoints": {"z": {}}}}).found()

    assert found.value == {"a": {"w": 1}, "b": {"w": 2}, "c": {}}
    assert list(found.value) == ["a", "b", "c"]
    assert found.origin == "config.f.endpoints (fake://0)"
    assert [held.raw for held in found.shadowed] == [{"z": {}}]


def test_documents_are_exchanged_as_a_whole():
    documents = Documents((of("one", {"x": "1", "y": "1"}),))
    x, y = (a_chain(f"config.{name}", documents=documents, default="none") for name in ("x", "y"))

    documents.take((of("two", {"x": "2"}),))

    assert (x(), y()) == ("2", "none")


def test_documents_that_are_tried_are_seen_by_who_tries_them_alone():
    documents = Documents((of("one", {"x": "1"}),))
    chain, seen = a_chain("config.x", documents=documents), []
    other = threading.Thread(target=lambda: seen.append(chain()))

    with documents.trying((of("two", {"x": "2"}),)):
        seen.append(chain())
        other.start()
        other.join()
    seen.append(chain())

    assert seen == ["2", "1", "1"]


def test_a_trial_that_fails_is_over():
    documents = Documents((of("one", {"x": "1"}),))
    chain = a_chain("config.x", documents=documents)

    with contextlib.suppress(ConfigError), documents.trying((of("two", {"x": {}}),)):
        raise ConfigError("is broken", key="x", remedy="Mend it.")

    assert chain() == "1"


def test_a_copy_of_a_chain_has_documents_of_its_own():
    class Container(containers.DeclarativeContainer):
        config = providers.Configuration()
        documents = Documents()
        x = FirstOf(option(config, Environment(), "config.x"), documents=documents)
        y = FirstOf(option(config, Environment(), "config.y"), documents=documents)

    one, other = Container(), Container()
    one.documents.take((of("one", {"x": "1", "y": "2"}),))

    assert (one.x(), one.y()) == ("1", "2")
    assert (other.x(), other.y()) == (None, None)


def test_the_documents_are_related_to_a_chain():
    documents = Documents()

    assert documents in list(a_chain("config.x", documents=documents).related)
