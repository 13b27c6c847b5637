"""How a source of endpoints is, as it is shown. Knows words; asks nobody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """What is known of one source of a function at one moment.

    Attributes:
        source: its name, as in `consul://127.0.0.1:8500/llmwire/prod`.
        version: of the document that is in force, in the source's own words; None where none is.
        is_cached: that document was kept on the disk, and the source has not said it since.
        taken_s: for how long it is in force, in seconds.
        asked_s: since when the source has last answered, in seconds; None where it never did.
        error: why it is silent, or why what it says now is not in force; None where all is well.
    """

    source: str
    version: str | None
    is_cached: bool
    taken_s: float | None
    asked_s: float | None
    error: str | None
