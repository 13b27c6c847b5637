"""The public names are typed: a user's code passes mypy --strict, and a mistake in it does not."""

import subprocess
import sys
from pathlib import Path

USER = Path(__file__).parent / "as_a_user.py"

MISTAKES = [
    "LLMContainer().completion_client().nonsense",
    "LLMContainer().completion_service().complete(1)",
    "LLMContainer().embedding_service().embed(1)",
    "LLMContainer().explain().nonsense",
]


def _mypy(*arguments, folder):
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(folder / "cache"),
        *arguments,
    ]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)


def test_a_users_code_is_accepted(tmp_path):
    outcome = _mypy(str(USER), folder=tmp_path)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_each_mistake_is_found(tmp_path):
    lines = ["from llmwire.container import LLMContainer", *MISTAKES]
    (tmp_path / "mistakes.py").write_text("\n".join(lines), encoding="utf-8")

    outcome = _mypy("mistakes.py", folder=tmp_path)

    found = {int(line.split(":")[1]) for line in outcome.stdout.splitlines() if ": error:" in line}
    assert found == set(range(2, len(lines) + 1)), outcome.stdout
