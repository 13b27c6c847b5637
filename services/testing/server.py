"""A local server of the OpenAI API, over real HTTP, with no language model behind it.

Knows when it runs and what it received. How it listens is in `listening.py`, what it replies in `api.py`, what it
says in `standin.py`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from .api import ReceivedRequest, StandInApi
from .listening import Listener
from .replies import Reply

_KEPT_REQUESTS = 10_000  #: enough for any test
_KEPT_BYTES = 64 * 2**20  #: of bodies; a server that runs for days must not grow
_POLL_S = 0.02  #: how long stop() may wait for the listener


class StandIn:
    """A local server of the OpenAI API: chat, completions, responses, embeddings and models, streamed or not.

        with StandIn() as server:
            client = openai.OpenAI(base_url=server.base_url, api_key="any")

    It is a stand-in and no language model, and says so in every reply: completions are sentences picked from the
    prompt, embeddings are hashed words. Azure's paths are served too, below /openai.

    Args:
        functions: what it serves, of `completion` and `embedding`; for the rest it replies 404.
        api_key: what callers must send, as `Authorization: Bearer KEY` or `api-key: KEY`; None lets anyone in.
        models: the names that it lists; it answers to any name.
        dimensions: of an embedding, where the request names none.
        port: 0 takes a free one; a server that is started again keeps its port.
        host: the address to listen on; anything but a loopback address is seen from outside.
        delay_s: how long it waits before each reply, but those to /health.
    Raises:
        ValueError: a function that does not exist, or no dimensions.
    """

    def __init__(
        self,
        *,
        functions: Collection[str] = ("completion", "embedding"),
        api_key: str | None = None,
        models: Sequence[str] | None = None,
        dimensions: int = 256,
        port: int = 0,
        host: str = "127.0.0.1",
        delay_s: float = 0.0,
    ) -> None:
        self._api = StandInApi(functions=functions, api_key=api_key, models=models, dimensions=dimensions)
        self._host, self._port, self._delay_s = host, port, delay_s
        self._requests = _Ledger()
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # start and stop
        self._running: tuple[Listener, threading.Thread] | None = None

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL: `http://127.0.0.1:PORT/v1`.

        Raises:
            RuntimeError: the server has never been started and has no port yet.
        """
        if not self._port:
            raise RuntimeError("the server has no port yet: start it first")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests so far, the earliest first; of very many, or very large ones, the latest."""
        return self._requests.all()

    def start(self) -> Self:
        """Listen, and serve in the background. Does nothing where it runs already.

        Raises:
            OSError: the port is taken, or the address is not of this machine.
        """
        with self._lock:
            if self._running is None:
                self._stopping.clear()
                listener = self._listener()
                self._port = listener.server_address[1]
                thread = threading.Thread(
                    target=listener.serve_forever, args=(_POLL_S,), name=f"stand-in {self._port}", daemon=True
                )
                thread.start()
                self._running = listener, thread
        return self

    def _listener(self) -> Listener:
        return Listener(self._host, self._port, self._received)

    def stop(self) -> None:
        """Be down: refuse connections, and cut those that are open. Does nothing where it does not run."""
        with self._lock:
            if self._running is None:
                return
            (listener, thread), self._running = self._running, None
            self._stopping.set()
            listener.shutdown()
            thread.join()
            listener.server_close()
            listener.hang_up()

    def serve_forever(self) -> None:
        """Serve until Ctrl-C, or until another thread calls stop()."""
        self.start()
        try:
            self._stopping.wait()
        except KeyboardInterrupt:
            pass
        finally:
            self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _received(self, request: ReceivedRequest) -> Reply:
        self._requests.add(request)
        if request.path != "/health" and self._stopping.wait(self._delay_s):
            raise ConnectionAbortedError("the server has been stopped")
        return self._api.reply(request)


class _Ledger:
    """The latest requests, bounded in number and in size."""

    def __init__(self) -> None:
        self._kept: deque[ReceivedRequest] = deque()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def add(self, request: ReceivedRequest) -> None:
        with self._lock:
            self._kept.append(request)
            self._size_bytes += len(request.content)
            while len(self._kept) > _KEPT_REQUESTS or self._size_bytes > _KEPT_BYTES:
                self._size_bytes -= len(self._kept.popleft().content)

    def all(self) -> list[ReceivedRequest]:
        with self._lock:
            return list(self._kept)
