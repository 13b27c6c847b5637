"""The door of the command `llmwire`: its own packages are an extra, and their absence is said in one sentence."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from llmwire.services.errors import ConfigError, DiscoveryError

UNUSABLE = 2  #: the exit code where nothing could be checked


def main() -> None:
    """Run the command. Exits with 0, with 1 where a check failed, with 2 where nothing could be checked."""
    if find_spec("typer") is None or find_spec("rich") is None:
        sys.exit(_complain("the command needs two packages more: pip install 'llmwire[cli]'"))
    from .commands import app

    try:
        app()
    except (ConfigError, DiscoveryError) as error:
        sys.exit(_complain(str(error)))


def _complain(message: str) -> int:
    sys.stderr.write(f"llmwire: {message}\n")
    return UNUSABLE
