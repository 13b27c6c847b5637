"""A value that must not be seen. Knows how to hide; knows nothing of where it goes."""

from __future__ import annotations

from typing import NoReturn

MASK = "********"  #: one shape for every secret: neither its length nor its ends are told


class Secret:
    """A key or token. Its text is read only through `reveal()`; every other view of it is the mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one line that puts it into a header."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self  # it never changes; containers copy all that was declared in them

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: hand the other process its settings, not its keys")
