"""Each rule is tested twice: shortly in every run, and at full figures by `make chaos`."""

from __future__ import annotations

import pytest


def efforts(*, fast: object, full: object) -> pytest.MarkDecorator:
    """Gives a test its `effort`. What is full is marked `chaos`, and deselected by `make test`."""
    both = [pytest.param(fast, id="fast"), pytest.param(full, id="full", marks=pytest.mark.chaos)]
    return pytest.mark.parametrize("effort", both)
