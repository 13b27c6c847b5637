"""The tokens of an answer, as its server counted them. Knows counts; knows no prices and no servers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of one answer, in tokens. None: the server did not say.

    Attributes:
        input: of the request, those from a cache included.
        output: of the answer, those of its reasoning included; of embeddings 0.
        cached: of the input those that came from the server's cache of prompts.
        reasoning: of the output those that nobody sees.
    """

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None

    @property
    def total(self) -> int | None:
        """Input and output; None where one of them is not known."""
        return None if self.input is None or self.output is None else self.input + self.output
