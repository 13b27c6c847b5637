"""After a fork parent and child both call, each with its own connections and its own answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .forking import PROGRAMS

ENDING = "a_child_that_ends_as_a_program_does"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.mark.parametrize("program", sorted(PROGRAMS.keys() - {ENDING}))
def test_parent_and_child_get_their_own_answers(serve, program):
    server = serve()

    run(program, server.url)

    assert {seen.header("authorization") for seen in server.seen} == {"Bearer its-key"}


def test_a_child_leaves_the_connection_of_its_parent_open(serve):
    server = serve()

    run(ENDING, server.url)

    # One of the parent, one of the child, and one for each of the parent's five event loops.
    assert server.accepted == 2 + 5


def run(program: str, url: str) -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", Path(__file__).with_name("forking.py"), program, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
