"""One peer in a process of its own, as `benchmarks.worker`: its CPU and its memory are the peer's alone.

`python -m benchmarks.embedding.worker openai http://127.0.0.1:8000/v1`, then `{"do": "embed", "count": 10000}`. The
peak of memory is the whole process's, from its start: one answer a process, where that matters.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from ..worker import answers, serve
from .peers import PEERS, Embed
from .texts import checksum, texts

WARM_UP_TEXTS = 8  #: imports, the connection, caches


class _Worker:
    def __init__(self, peer: str, base_url: str) -> None:
        self._peer, self._base_url = PEERS[peer], base_url
        self._embed: Embed | None = None

    def embed(self, count: int) -> dict[str, float]:
        """What so many texts take.

        Wall and CPU time in s; the process's memory in MB, before the first request and at its peak; the checksum.
        """
        if self._embed is None:
            self._embed = self._peer.embed(self._base_url)
            self._embed(texts(WARM_UP_TEXTS))
        to_embed = texts(count)
        rest_mb = _memory_mb("VmRSS")
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        vectors = self._embed(to_embed)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        memory = {"rest_mb": rest_mb, "peak_mb": _memory_mb("VmHWM")}
        return {"cpu_s": cpu_s, "wall_s": wall_s, **memory, "checksum": checksum(vectors, count)}


def _memory_mb(what: str) -> float:
    # Not getrusage's ru_maxrss: it begins with what the process held that started this one.
    found = re.search(rf"{what}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux says it of every process"
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    """Measure the peer that the arguments name."""
    peer, base_url = sys.argv[1:]
    answer = answers()
    serve({"embed": _Worker(peer, base_url).embed}, answer, needs=PEERS[peer].needs)


if __name__ == "__main__":
    main()
