"""A server of embeddings that knows how often it answered each text, and that can keep its answers back."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import numpy as np

from llmwire.services.space import CANARY

from .servers import PATIENCE_S, Exchange, Server

DIMENSIONS = 16
POISON = "poison"  #: a batch with this word in one of its texts gets status 500


def truth(texts: Iterable[str]) -> np.ndarray:
    """The right vectors: float32, (texts, DIMENSIONS), other ones for any other text."""
    digests = [hashlib.shake_256(text.encode()).digest(DIMENSIONS) for text in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIMENSIONS).astype(np.float32) - 127.5


class EmbeddingCounter:
    """Answers requests for embeddings, and counts their texts by content. The canary of a space is not counted.

    Args:
        busy_every: each so-many-th request is answered with 429 and a Retry-After instead.

    Attributes:
        asked: how often each text came.
        answered: how often each text's vector was sent.
        refused: answers that were none: 429 and 500.
        held: requests whose answers are kept back now.
    """

    def __init__(self, *, busy_every: int | None = None) -> None:
        self.asked, self.answered = Counter[str](), Counter[str]()
        self.refused = self.held = self._requests = 0
        self._busy_every = busy_every
        self._limit: int | None = None
        self._changed = threading.Condition()
        self._server = Server(self._answer)

    @property
    def base_url(self) -> str:
        return f"{self._server.url}/v1"

    def hold(self, *, after: int) -> None:
        """Keep back every answer, as soon as so many texts were answered."""
        with self._changed:
            self._limit = after

    def release(self) -> None:
        """Give what was kept back to those who still wait for it, and keep nothing back any more."""
        with self._changed:
            self._limit = None
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self.held, PATIENCE_S)

    def wait_until(self, is_so: Callable[[Self], bool], what: str) -> None:
        """Wait until something is so of this server."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), PATIENCE_S), f"never happened: {what}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._server.stop()

    def _answer(self, exchange: Exchange) -> None:
        texts: list[str] = exchange.seen.body["input"]
        if texts == [CANARY]:
            exchange.json(_body(texts))
        elif (status := self._status(texts)) != 200:
            headers = {"retry-after-ms": "30"} if status == 429 else {}
            exchange.json({"error": {"message": "no"}}, status=status, headers=headers)
        elif self._may_answer(exchange, texts):
            exchange.json(_body(texts))

    def _status(self, texts: list[str]) -> int:
        with self._changed:
            self._requests += 1
            self.asked.update(texts)
            is_busy = self._busy_every is not None and self._requests % self._busy_every == 0
            status = 429 if is_busy else 500 if any(POISON in text for text in texts) else 200
            self.refused += status != 200
            self._changed.notify_all()
        return status

    def _may_answer(self, exchange: Exchange, texts: list[str]) -> bool:
        with self._changed:
            if self._is_holding():
                self.held += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._is_holding())
                self.held -= 1
                self._changed.notify_all()
                if exchange.is_over(wait_s=0.0):
                    exchange.hang_up()
                    return False
            self.answered.update(texts)
            self._changed.notify_all()
        return True

    def _is_holding(self) -> bool:
        return self._limit is not None and self.answered.total() >= self._limit


def _body(texts: list[str]) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.astype("<f4")).decode()}
        for index, vector in enumerate(truth(texts))
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": "a-model", "usage": usage}
