"""Embeddings past the SDK's lists of floats: texts go in as bytes, one float32 matrix comes out.

The SDK's request layer between them stays, with its options, headers, retries and errors: any genuine openai client
will do, ours, a fake or a user's own. Knows one request; knows nothing of batches.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FunctionType
from typing import Any, Final

import httpx2
import msgspec

from ..provenance import Provenance
from .conclusion import EXTENSION, VECTORS
from .reply import Vectors, vectors_in


def _plain(text: object) -> str:
    """A text of a class of its own, such as numpy's, as the text that it is."""
    if isinstance(text, str):
        return str.__str__(text)
    raise TypeError(f"{type(text).__name__} is no text")


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode
_AS_JSON: Final = {"headers": {"Content-Type": "application/json"}}


def is_genuine(client: Any) -> bool:
    """Whether the client is the SDK's own and embeds as the SDK wrote it: nobody watches or replaces that method.

    Azure's client reads the model from the body, which it must have as a mapping.
    """
    openai = sys.modules.get("openai")  # what never was imported made no client
    if openai is None or not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        return False
    if isinstance(client, openai.AzureOpenAI | openai.AsyncAzureOpenAI):
        return False
    embeddings = client.embeddings
    create = getattr(type(embeddings), "create", None)
    is_own = type(create) is FunctionType and not hasattr(create, "__wrapped__")
    return is_own and "create" not in vars(embeddings) and create.__module__ == "openai.resources.embeddings"


def asked(texts: Sequence[str], *, model: str, dimensions: int | None) -> dict[str, Any]:
    """The arguments of the client's `post`, which asks for packed numbers."""
    body: dict[str, Any] = {"input": texts, "model": model, "encoding_format": "base64"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return {
        "path": "/embeddings",
        "content": _encode(body),
        "cast_to": httpx2.Response,
        "options": _AS_JSON,
    }


def brought(response: httpx2.Response, *, inputs: int) -> tuple[Vectors, Provenance | None]:
    """The vectors of an answer, and where they came from if it was one of our pools.

    Raises:
        InvalidReply: they do not fit the inputs.
    """
    vectors = response.extensions.get(VECTORS)
    if vectors is None:
        vectors = vectors_in(response.content, inputs=inputs)
    return vectors, response.extensions.get(EXTENSION)
