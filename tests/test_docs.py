"""What the documents say is what the code does."""

import ast
import re
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

from llmwire.container import LLMContainer
from llmwire.container.settings import SETTINGS, Reach
from llmwire.services.routing.balancer import Strategy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_table_of_settings_names_every_variable(setting):
    prefix = "{F}" if len(setting.only) > 1 else setting.only[0].upper()
    prefix = f"{prefix}_{{E}}" if setting.reach is Reach.ENDPOINT else prefix
    places = [place.format(FUNCTION=prefix, function="") for place in (*setting.own, *setting.shared)]
    variables = [place.removeprefix("env.") for place in places if place.startswith("env.")]

    assert [variable for variable in variables if f"`{variable}`" not in README] == []


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_table_of_settings_names_every_default(setting):
    defaults = set((setting.default or {}).values()) - {False}
    written = {
        "true" if value is True else f"{value:g}" if isinstance(value, float) else f"`{value}`" for value in defaults
    }

    assert [text for text in written if text not in README] == []


def test_the_readme_names_the_settings_that_no_endpoint_has():
    (listed,) = re.findall(r"^- Of the function as a whole are (.*?)\.", README, flags=re.MULTILINE | re.DOTALL)

    assert set(re.findall(r"`(\w+)`", listed)) == {
        setting.name for setting in SETTINGS if setting.reach is Reach.FUNCTION
    }


def test_the_readme_names_every_strategy():
    assert [strategy for strategy in Strategy if strategy not in README] == []


def _tables():
    for document in DOCUMENTS:
        if document.exists():
            yield from re.findall(r"```toml\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("text", list(_tables()))
def test_every_table_is_usable_as_it_stands(text):
    container = LLMContainer(config=tomllib.loads(text), env={"OPENAI_API_KEY": "sk-other"})

    assert container.explain().is_usable, str(container.explain())


def _groups_of_env_example():
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    for group in re.split(r"^# ---.*$", text, flags=re.MULTILINE)[1:]:
        yield dict(re.findall(r"^(?:# )?([A-Z_]+)=(.+)$", group, flags=re.MULTILINE))


@pytest.mark.parametrize("variables", list(_groups_of_env_example()), ids=lambda variables: next(iter(variables)))
def test_each_example_of_the_env_file_is_usable_as_it_stands(variables):
    container = LLMContainer(env={"OPENAI_API_KEY": "sk-other", **variables})

    assert container.explain().is_usable, str(container.explain())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_example_is_python(document):
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)

    for block in blocks:
        ast.parse(dedent(block))  # one that belongs to an item of a list is indented as it is


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_exists(document):
    text = document.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:container|services|tests|docs|app_example|benchmarks)/[\w./]*)`", text)

    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("target", ["demo", "test", "serve", "check", "bench", "clean"])
def test_every_make_target_that_the_readme_names_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
