"""Embedding in the processes of a Ray cluster: what travels there, who works there, how they are asked.

Knows Ray and its traps. Knows no files, cache, order or rate: all that stays with the run, whose `send` this is.
"""

from __future__ import annotations

import copyreg
import logging
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from llmwire.services.bulk.results import Answer
from llmwire.services.errors import ConfigError, LLMWireError, WorkerLost
from llmwire.services.secrets import Secret
from llmwire.services.wanted import NOTHING, Wanted, wanted, wanting

from .application import LLMContainer
from .configuration import tree
from .settings import SETTINGS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmwire.services.embedding import EmbeddingService

    Column: TypeAlias = NDArray[Any]

Settings: TypeAlias = dict[str, dict[str, Any]]

START_S: Final = 120.0  #: for the workers to stand; a cluster that grows adds a machine in about that
JOIN_S: Final = 5.0  #: for a connection to an address; Ray itself would try for ever
RETRIES: Final = 3  #: of a request whose worker dies; after that the run decides, which can cut it into halves
OBJECTS_BYTES: Final = 200 * 2**20  #: of shared memory of a cluster of our own: only what is under way lies there

_OWN: Final = ("EMBEDDING_", "LLMWIRE_")
_SHARED: Final = {place.removeprefix("env.") for each in SETTINGS for place in each.shared if place.startswith("env.")}

#: what Ray reads of the environment, here and in what it starts
_QUIET: Final = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of what it will do one day
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # below `uv run` it would upload the working directory, a `.env` included
    "RAY_USAGE_STATS_ENABLED": "0",
}

#: of an address where somebody listens that is no Ray it gives up after 40 s; else after many minutes
_IMPATIENT: Final = {"RAY_NUM_REDIS_GET_RETRIES": "1"}


def settings_of(container: LLMContainer) -> Settings:
    """What embedding needs of a container's layers, as plain values, for `Embedder` in another process.

    Keys are among them in clear text: hand them on as an argument. Never put them into a `runtime_env`, which Ray logs.
    Overrides of single values are not among them.
    """
    config, env = tree(container.config), tree(container.env)
    return {
        "config": {name: _plain(value) for name, value in config.items() if name != "completion"},
        "env": {name: env[name] for name in env if name.startswith(_OWN) or name in _SHARED},
        **({"predicates": dict(predicates)} if (predicates := container.predicates()) else {}),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {name: _plain(held) for name, held in value.items()}
    return [_plain(held) for held in value] if isinstance(value, list | tuple) else value


class Embedder:
    """Embeds in whatever process it is in; also a class for Ray Data's `map_batches`.

        actors = ray.data.ActorPoolStrategy(size=2)
        dataset.map_batches(Embedder, fn_constructor_kwargs={"settings": settings}, batch_size=256, compute=actors)

    Pickles as its settings: each process makes a container of its own at its first call, which reads nothing else.

    Args:
        settings: as `settings_of` gives them.
        text: the column of the texts.
        embedding: the column that is added: float32, (dimensions,) in each row.
        space: the fingerprint of what the vectors must be of. Each process takes the first endpoint that answers there
            for the pool's: it must be one of this space. None demands nothing.
    """

    def __init__(
        self, settings: Settings, *, text: str = "text", embedding: str = "embedding", space: str | None = None
    ) -> None:
        self._settings, self._text, self._embedding, self._space = settings, text, embedding, space
        self._lock = threading.Lock()
        self._made: EmbeddingService | None = None

    def __getstate__(self) -> dict[str, Any]:
        fields = {"settings": self._settings, "text": self._text, "embedding": self._embedding}
        return {**fields, "space": self._space}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # the one that made it, and no other

    def embed(self, texts: list[str]) -> Answer:
        """One request. Raises what `EmbeddingService.embed` raises; ConfigError where the settings are wrong."""
        return self._service().embed_request(texts)

    def __call__(self, batch: Mapping[str, Column]) -> dict[str, Column]:
        """The batch with its vectors. Raises as `EmbeddingService.embed`; Ray Data hands on an error's text only."""
        texts = batch[self._text].tolist()
        return {**batch, self._embedding: self._service().embed(texts)}

    def outcome(self, texts: list[str], wanted: Wanted = NOTHING) -> Answer | Exception:
        """What `embed` returns or raises. To be raised by the driver: what is raised here Ray dresses up.

        Args:
            wanted: what the driver asks of the routing of its calls.
        """
        try:
            with wanting(wanted):
                return self.embed(texts)
        except Exception as error:
            return _portable(error)

    def close(self) -> None:
        """Close what was opened. A worker need not: its process ends."""
        with self._lock:
            if self._made is not None:
                self._container.shutdown_resources()
                self._made = None

    def _service(self) -> EmbeddingService:
        # At the first call and not in the constructor: of an error there only its text would reach the driver.
        with self._lock:
            if self._made is None:
                container = LLMContainer(**self._settings)
                service = container.embedding_service()
                try:
                    if self._space is not None:
                        service.require_space(self._space)
                except BaseException:  # the next call starts anew: the right endpoint may be back
                    container.shutdown_resources()
                    raise
                self._container, self._made = container, service
            return self._made


@dataclass(frozen=True, slots=True)
class _Head:
    """What is left of a response: its status and headers."""

    status_code: int
    headers: dict[str, str]


def _portable(error: Exception) -> Exception:
    """The same error; one of the SDK's can be pickled from here on, which as it is can be written but not read."""
    if not isinstance(error, LLMWireError) and {"request", "response"} & set(vars(error)):
        copyreg.pickle(type(error), _in_parts)
    return error


def _in_parts(error: Exception) -> tuple[Callable[..., Exception], tuple[Any, ...]]:
    state = {name: value for name, value in vars(error).items() if name not in ("request", "response")}
    if (response := getattr(error, "response", None)) is not None:
        state["response"] = _Head(response.status_code, dict(response.headers))
    return _put_together, (type(error), error.args, state)


def _put_together(kind: type[Exception], arguments: tuple[object, ...], state: dict[str, object]) -> Exception:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class RayWorkers:
    """Workers of a Ray cluster that answer the requests of one run, as a context manager.

        with RayWorkers(settings_of(container), workers=2, parallel=8) as workers:
            run = Run(texts, workers.send, spec=BulkSpec(parallel=8))

    A worker that dies is started again, elsewhere where its machine is gone, and costs what it had under way.

    Args:
        settings: as `settings_of` gives them.
        workers: processes, each with a CPU of its own.
        parallel: requests of the run under way at most, over all workers.
        address: HOST:PORT of a cluster, or `auto` on one of its machines; None starts one on this machine and ends it.
            Where this process is in a cluster already, that one is used, and left running.
        space: the fingerprint of what the vectors of every worker must be of.
    Raises:
        ConfigError: on entering: Ray is not installed, nobody is at the address, or there is no room for the workers.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        workers: int,
        parallel: int,
        address: str | None = None,
        space: str | None = None,
    ) -> None:
        self._settings, self._workers, self._address, self._space = settings, workers, address, space
        self._each = math.ceil(parallel / workers)
        self._lock = threading.Lock()
        self._load: dict[Any, int] = {}  #: requests under way, by worker

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._ray = stack.enter_context(_cluster(self._address, self._workers))
            options = {"max_concurrency": self._each, "max_restarts": -1, "max_task_retries": RETRIES}
            worker = self._ray.remote(num_cpus=1, scheduling_strategy="SPREAD", **options)(Embedder)
            for _ in range(self._workers):
                actor = worker.remote(self._settings, space=self._space)
                stack.callback(self._ray.kill, actor)  # in a cluster of others nothing of ours stays
                self._load[actor] = 0
            self._wait_until_they_stand()
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def send(self, texts: list[str]) -> Answer:
        """One request, by the worker that has the fewest. For many threads at once.

        Raises:
            WorkerLost: the worker died, and so did those that took over.
            Exception: what the request met there: llmwire's own, or the SDK's; of its response only status and headers.
        """
        with self._least_busy() as actor:
            outcome = self._got(actor.outcome.remote(texts, wanted()))
        if isinstance(outcome, Exception):
            raise outcome
        # A copy: what Ray gives is read-only, and would hold its shared memory for as long as the run needs it.
        return replace(outcome, vectors=outcome.vectors.copy())

    def _got(self, reference: Any) -> Answer | Exception:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)  # type: ignore[no-any-return]
        except errors.RayTaskError:
            raise  # a fault of ours: what happens in the request is returned
        except errors.RayError as error:
            raise WorkerLost(f"a worker was lost: {_first_line(error)}") from error

    @contextmanager
    def _least_busy(self) -> Iterator[Any]:
        with self._lock:
            actor = min(self._load, key=self._load.__getitem__)
            self._load[actor] += 1
        try:
            yield actor
        finally:
            with self._lock:
                self._load[actor] -= 1

    def _wait_until_they_stand(self) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get([actor.__ray_ready__.remote() for actor in self._load], timeout=START_S)
        except errors.GetTimeoutError as error:
            problem = f"the cluster has had no room for {self._workers} of them for {START_S:.0f} s"
            raise ConfigError(problem, key="--workers", remedy="Ask for fewer, or add CPUs.") from error
        except errors.RayError as error:
            problem = f"a worker cannot start: {_first_line(error)}"
            remedy = "Install the same llmwire, Python and Ray on every machine of the cluster."
            raise ConfigError(problem, key="--workers", remedy=remedy) from error


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[Any]:
    """Ray, in a cluster: the one that this process is in, the one at the address, or one of our own until the end."""
    with ExitStack() as stack:
        if address:
            _check_reachable(address)
            stack.enter_context(_environment(_IMPATIENT))
        stack.enter_context(_environment(_QUIET))
        if not _is_in_one():
            own = {} if address else stack.enter_context(_of_our_own(workers))
            ray = _imported()
            stack.callback(ray.shutdown)
            with _signals_kept():
                _join(ray, address or "local", own)
        yield _imported()


def _is_in_one() -> bool:
    return "ray" in sys.modules and bool(_imported().is_initialized())


@contextmanager
def _of_our_own(workers: int) -> Iterator[dict[str, Any]]:
    """How Ray starts one. It listens on all interfaces, whatever it is told: only who has the token is let in."""
    _check_takes_token()
    with (
        _environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}),
        tempfile.TemporaryDirectory(prefix="llmwire-", ignore_cleanup_errors=True) as folder,
    ):
        yield {
            "num_cpus": workers,
            "object_store_memory": OBJECTS_BYTES,
            "include_dashboard": False,
            "_temp_dir": folder,
        }


@cache
def _token() -> str:
    """One for all clusters that this process starts: Ray reads it once."""
    return secrets.token_hex(32)


def _check_takes_token() -> None:
    """Ray reads whether there are tokens when it is imported, and not again."""
    is_ours = _token.cache_info().currsize > 0
    if "ray" in sys.modules and not is_ours and os.environ.get("RAY_AUTH_MODE") != "token":
        remedy = "Import it later, or call ray.init() before: that cluster is used then."
        raise ConfigError("was imported too early to start a closed cluster", key="ray", remedy=remedy)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set those that are not set, for the block."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        remedy = "Install it with pip install 'llmwire[ray]', or take --engine local."
        raise ConfigError("needs Ray, which is not installed", key="--engine ray", remedy=remedy) from error
    return ray


def _join(ray: Any, address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"cannot be started or joined: {_first_line(error)}"
        remedy = "Give the HOST:PORT of a cluster with this Ray and Python, set its RAY_AUTH_TOKEN, or leave it out."
        raise ConfigError(problem, key="--ray-address", remedy=remedy) from error


def _check_reachable(address: str) -> None:
    """Raises ConfigError where nobody listens: Ray would wait for ever."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        remedy = "Write HOST:PORT, as in 10.0.0.5:6379, or auto on a machine of the cluster."
        raise ConfigError(f"is no address of a cluster: {address}", key="--ray-address", remedy=remedy)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=JOIN_S).close()
    except (OSError, OverflowError) as error:
        remedy = "Start it with ray start --head, and let this machine reach its port."
        raise ConfigError(f"nobody answers at {address}: {error}", key="--ray-address", remedy=remedy) from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself: with whoever had it before, what is under way is kept."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if former is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
