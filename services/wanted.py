"""What a caller asks of the routing of its calls, whatever client or framework makes them.

Knows words that a caller chose; knows no endpoints and no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for beside the request itself.

    Attributes:
        tags: words that rules may choose by.
        trust: labels of which an endpoint must have one; None where any will do. Of no label: nobody may be asked.
        is_for_routing: the request is llmwire's own: a text is embedded to find out where its request goes.
    """

    tags: frozenset[str] = frozenset()
    trust: frozenset[str] | None = None
    is_for_routing: bool = False

    def and_also(self, tags: frozenset[str], trust: frozenset[str] | None) -> Wanted:
        """With further tags, and a demand that must hold too."""
        return replace(self, tags=self.tags | tags, trust=both(self.trust, trust))


NOTHING = Wanted()

_wanted: ContextVar[Wanted] = ContextVar("llmwire_routed", default=NOTHING)


@contextmanager
def routed(*, tags: str | Iterable[str] = (), trust: str | Iterable[str] | None = None) -> Iterator[None]:
    """Have the calls inside the block carry tags, and go only where one of the labels of trust is.

    Holds for the calls of this thread, for the asyncio tasks that are started inside, and for the threads of
    `embed_many`. Blocks may be nested: tags are added, and every demand of trust must hold. For one call alone there
    are the headers `x-llmwire-tags` and `x-llmwire-trust`, as in `extra_headers={"x-llmwire-tags": "eu,cheap"}`.

    Args:
        tags: words, in a list or divided by commas.
        trust: labels, any of which will do, written in the same way; None demands nothing.
    Raises:
        ValueError: trust is demanded, and no label is named.
    """
    demanded = None if trust is None else words_of(trust)
    if demanded is not None and not demanded:
        raise ValueError("trust names no label: name one, as in trust='local', or leave it out")
    with wanting(_wanted.get().and_also(words_of(tags), demanded)):
        yield


@contextmanager
def wanting(wanted: Wanted) -> Iterator[None]:
    """Have the calls inside the block ask for just that: for those that are made elsewhere in a caller's place."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def routing(trust: frozenset[str] | None) -> AbstractContextManager[None]:
    """Mark the calls inside the block as llmwire's own, which ask where a request goes that demands such trust."""
    return wanting(Wanted(trust=trust, is_for_routing=True))


def wanted() -> Wanted:
    """What the block that the caller is in asks for."""
    return _wanted.get()


def words_of(written: str | Iterable[str]) -> frozenset[str]:
    """Words of a list, or of a text that divides them by commas."""
    words = written.split(",") if isinstance(written, str) else written
    return frozenset(word.strip() for word in words if word.strip())


def both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """What two demands leave."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
