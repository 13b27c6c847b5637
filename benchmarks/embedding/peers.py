"""Who embeds: llmwire, the frameworks, and what one would write by hand. Imports a library when asked to."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..peers import KEY, Meter
from .texts import BATCH, DIMENSIONS
from .upstream import MODEL

if TYPE_CHECKING:
    from llmwire.services import EmbeddingService

Embed = Callable[[Sequence[str]], Any]  #: from the texts to their vectors: a matrix, or a list of lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One row of a table.

    Attributes:
        embed: from the upstream's base URL to what embeds.
        needs: the module without which it counts as not installed.
        remark: for its row.
    """

    title: str
    embed: Callable[[str], Embed]
    needs: str | None = None
    remark: str = ""


def batches(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The position of the first text, and the texts."""
    for start in range(0, len(texts), BATCH):
        yield start, list(texts[start : start + BATCH])


# ---- by hand


def _openai(base_url: str) -> Embed:
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key=KEY)

    def embed(texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for _, batch in batches(texts):
            vectors += [item.embedding for item in client.embeddings.create(input=batch, model=MODEL).data]
        return vectors

    return embed


def _msgspec(base_url: str) -> Embed:
    """What a careful user writes: the reply's bytes past the SDK's own decoding, into one matrix."""
    import msgspec
    import numpy as np
    from openai import OpenAI

    # To msgspec, `bytes` means base64, which it undoes itself; a server that knows no base64 sends numbers.
    item: Any = msgspec.defstruct("Item", [("index", int), ("embedding", bytes | list[float])])
    reply: Any = msgspec.defstruct("Reply", [("data", list[item])])
    decoder = msgspec.json.Decoder(reply)
    create = OpenAI(base_url=base_url, api_key=KEY).embeddings.with_raw_response.create

    def embed(texts: Sequence[str]) -> Any:
        matrix = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for start, batch in batches(texts):
            raw = create(input=batch, model=MODEL, encoding_format="base64")
            for item in decoder.decode(raw.http_response.content).data:
                coded = item.embedding
                matrix[start + item.index] = np.frombuffer(coded, "<f4") if isinstance(coded, bytes) else coded
        return matrix

    return embed


# ---- frameworks


def _langchain(base_url: str) -> Embed:
    model = import_module("langchain_openai").OpenAIEmbeddings(
        model=MODEL,
        base_url=base_url,
        api_key=KEY,
        chunk_size=BATCH,
        check_embedding_ctx_length=False,  # it would fetch a tokenizer from the internet
    )
    return lambda texts: model.embed_documents(list(texts))


def _litellm(base_url: str) -> Embed:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch its price list from the internet
    litellm: Any = import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    runner = asyncio.Runner()

    async def embedded(texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for _, batch in batches(texts):
            reply = await litellm.aembedding(model=f"openai/{MODEL}", input=batch, api_base=base_url, api_key=KEY)
            vectors += [item["embedding"] for item in reply.data]
        return vectors

    return lambda texts: runner.run(embedded(texts))


# ---- llmwire


def _service(base_url: str) -> EmbeddingService:
    from dependency_injector import providers

    from llmwire.container import LLMContainer
    from llmwire.services.bulk.batches import BatchSpec

    config = {"embedding": {"api_key": KEY, "base_url": base_url, "model": MODEL}}
    container = LLMContainer(env={}, config=config, listener=providers.Object(Meter()))
    service: EmbeddingService = container.embedding_service(batches=BatchSpec(max_inputs=BATCH))
    return service


def _llmwire(base_url: str) -> Embed:
    return _service(base_url).embed


def _llmwire_mapped(base_url: str) -> Embed:
    """Into a file that stands in for memory: of a matrix larger than that, only what is touched is held."""
    import numpy as np

    service: Any = _service(base_url)
    folder = tempfile.TemporaryDirectory()

    def embed(texts: Sequence[str]) -> Any:
        path = Path(folder.name) / f"{len(texts)}.npy"
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype="float32", shape=(len(texts), DIMENSIONS))
        service.embed(texts, out=matrix)
        return matrix

    return embed


def _llmwire_blocks(base_url: str) -> Embed:
    """Block by block, from texts that are not all there at once."""
    import numpy as np

    service: Any = _service(base_url)

    def embed(texts: Sequence[str]) -> Any:
        matrix = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for block in service.embed_many(iter(texts)):
            matrix[block.start : block.start + len(block.vectors)] = block.vectors
        return matrix

    return embed


PEERS = {
    "openai": Peer(title="openai", embed=_openai, remark="lists"),
    "langchain": Peer(title="LangChain OpenAIEmbeddings", embed=_langchain, needs="langchain_openai", remark="lists"),
    "litellm": Peer(title="LiteLLM aembedding", embed=_litellm, needs="litellm", remark="lists; asks for no base64"),
    "msgspec": Peer(title="openai raw, msgspec", embed=_msgspec, remark="a matrix, by hand"),
    "llmwire": Peer(title="llmwire embed", embed=_llmwire, remark="a matrix"),
    "llmwire-mapped": Peer(title="llmwire embed, out=", embed=_llmwire_mapped, remark="a memory-mapped matrix"),
    "llmwire-many": Peer(title="llmwire embed_many", embed=_llmwire_blocks, remark="blocks, put into a matrix"),
}
