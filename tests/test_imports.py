"""What an import brings with it, each in a new interpreter."""

import subprocess
import sys

import pytest

HEAVY = (
    "azure",
    "dotenv",
    "httpcore2",
    "httptools",
    "httpx2",
    "msgspec",
    "numpy",
    "openai",
    "opentelemetry",
    "prometheus_client",
    "py3langid",
    "pydantic_core",
    "regex",
    "rich",
    "tiktoken",
    "typer",
)


def _loaded_by(statement):
    """The modules that a statement loads beyond those of dependency-injector, which brings what is installed."""
    start = "import sys, dependency_injector.containers; before = set(sys.modules)"
    script = f"{start}; {statement}; print(*set(sys.modules) - before)"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import llmwire.container",
        "from llmwire.container import LLMContainer; LLMContainer()",
        "from llmwire.container import LLMContainer; str(LLMContainer(env={}).explain())",
        "import llmwire.services",
        "from llmwire.services import CompletionService, EmbeddingService, inject",
        "import llmwire.services.testing",
        "import llmwire.container.plugin",
    ],
)
def test_neither_openai_nor_its_company_is_loaded_before_a_client_is_used(statement):
    assert sorted(_loaded_by(statement) & set(HEAVY)) == []


def test_the_module_llmwire_has_no_code_of_its_own():
    assert _loaded_by("import llmwire; assert not hasattr(llmwire, '__file__') or llmwire.__file__ is None") >= {
        "llmwire"
    }


def test_no_folder_of_the_repository_is_loaded_as_a_package_of_its_own():
    assert {"container", "services"} & set(sys.modules) == set()
