"""`llmwire embed`: a file of texts becomes a file of vectors. Knows terminals and options; embeds nothing itself."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import asdict
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from llmwire.services.bulk.batches import BatchSpec
from llmwire.services.bulk.cache import VectorCache
from llmwire.services.bulk.documents import KINDS, STDIN, read
from llmwire.services.bulk.job import Job
from llmwire.services.bulk.outputs import check_suffix, manifest_of, output
from llmwire.services.bulk.plan import BulkSpec
from llmwire.services.bulk.rate import RateLimit
from llmwire.services.bulk.results import Block, Refused, Summary
from llmwire.services.errors import ConfigError, LLMWireError, SpaceMismatch

from .application import LLMContainer

FAILED: Final = 1
INTERRUPTED: Final = 130
REFUSED_SHOWN: Final = 10  #: of texts without a vector; all of them are in the output
LINE_EVERY_S: Final = 10.0  #: of progress, where there is no terminal
_STOPPING: Final = b"Stopping: what is under way is waited for and kept. Once more ends at once.\n"
_GOES_ON: Final = "What was answered is kept: the same command goes on where this one was."
CACHE_NAME: Final = ".llmwire-embeddings.sqlite"  #: beside the output: every run into that folder shares it


class Engine(StrEnum):
    """Who sends the requests."""

    LOCAL = "local"
    RAY = "ray"


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or a supervisor that asks the job to end."""


def embed_command(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="JSONL, CSV, TSV, Parquet or text; - is stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .parquet or .npy file.")],
    kind: Annotated[
        str | None, typer.Option(help=f"Of INPUT, where its name does not say: {', '.join(KINDS)}.")
    ] = None,
    text: Annotated[str, typer.Option(help="The field or column that has the text.")] = "text",
    id_: Annotated[str | None, typer.Option("--id", help="The one that has the id, kept in a .parquet.")] = None,
    cache: Annotated[Path | None, typer.Option(help=f"Of vectors; else {CACHE_NAME} beside --out.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Requests under way at most.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Texts of a request at most.")] = 256,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="At most, as far as they are known.")] = None,
    limit_store: Annotated[
        str, typer.Option(help="Where these are counted: redis://HOST:PORT/0 for all who share it.")
    ] = "memory://",
    patience_s: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds without one answer before it stops.")
    ] = 600,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file with settings.")] = None,
    env_file: Annotated[Path | None, typer.Option("--env-file", help="The .env file.")] = None,
    engine: Annotated[
        Engine, typer.Option(help="Who sends: this process, or workers of a Ray cluster.")
    ] = Engine.LOCAL,
    workers: Annotated[int, typer.Option(min=1, help="Of --engine ray.")] = 2,
    ray_address: Annotated[str | None, typer.Option(help="Of a running cluster; else one starts here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Embed every text of a file, in parallel, each once; what is answered is never paid for again.

    Stopped by Ctrl-C or killed, the same command goes on where it was. OUT appears when it is complete.
    Exits with 1 where a text has no vector; its position and the reason are told.
    """
    documents = read(Path(source), kind=kind, text_field=text, id_field=id_)
    check_suffix(out)
    kept_at = cache or out.parent / CACHE_NAME
    _check_apart(Path(source), out, kept_at)
    total = documents.total()
    if total is not None:
        next(iter(documents), None)  # a missing column is told before anything is paid for
    container = LLMContainer() if config is None else LLMContainer.from_toml(config)
    container.env.read_dotenv(env_file)
    whole = BatchSpec()
    tokens = min(whole.max_request_tokens, tokens_per_minute or whole.max_request_tokens)  # one that never fits waits
    batches = BatchSpec(max_inputs=batch, max_request_tokens=tokens)
    spec = BulkSpec(parallel=parallel, patience_s=patience_s, batches=batches)
    limit = _limit(container, requests_per_minute, tokens_per_minute, limit_store)
    try:
        with _stoppable(), ExitStack() as stack:
            service = container.embedding_service()
            space = service.space()
            kept = stack.enter_context(VectorCache.open(kept_at, space=space))
            written = stack.enter_context(output(out, space=space, model=service.model or "", has_ids=id_ is not None))
            bulk: dict[str, Any] = {"bulk": spec, "cache": kept, "limit": limit}
            if engine is Engine.RAY:
                from .ray import RayWorkers, settings_of

                stack.enter_context(redirect_stdout(sys.stderr))  # Ray tells of a worker's death where our JSON goes
                settings = settings_of(container)
                cluster = RayWorkers(settings, workers=workers, parallel=parallel, address=ray_address, space=space)
                bulk["send"] = stack.enter_context(cluster).send
            job = Job(documents, lambda texts: service.embed_many(texts, **bulk))
            refused = _watched(job.write_to(written), job, total)
            written.finish(_facts(job.summary, source))
    except Stopped:
        _say(f"Stopped. {_GOES_ON}")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if isinstance(error, ConfigError) or not _is_of_a_server(error):
            raise
        goes_on = "" if isinstance(error, SpaceMismatch) else f"\n{_GOES_ON}"
        _say(f"llmwire: {_told(error)}{goes_on}")
        raise typer.Exit(FAILED) from error
    finally:
        container.shutdown_resources()
    _show(job.summary, refused, out, as_json=as_json)
    raise typer.Exit(FAILED if refused else 0)


def _check_apart(source: Path, out: Path, cache: Path) -> None:
    """What is read, written and kept are different files. Raises ConfigError where two are one."""
    files = {"--out": out, "--cache": cache}
    if str(source) != STDIN:
        files = {"INPUT": source, **files}
    if out.suffix.lower() == ".npy":
        files["the manifest of --out"] = manifest_of(out)
    for (name, path), (other_name, other) in combinations(files.items(), 2):
        if _is_same(path, other):
            remedy = "Choose another file: nothing of yours is to be written over."
            raise ConfigError(f"is {name} too", key=other_name, origin=str(other), remedy=remedy)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)  # also by another name: a hard link, a letter's case
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def _limit(container: LLMContainer, requests: int | None, tokens: int | None, store: str) -> RateLimit | None:
    """What all who give the same store have together at the same servers."""
    if requests is None and tokens is None:
        return None
    servers = sorted({endpoint.server for endpoint in container.embedding.pool().endpoints})
    return RateLimit(requests, tokens, store=store, name=" ".join(servers))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the first signal to stop into an exception: what is under way is kept. The second ends at once."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a handler's arguments
        for each in former:
            signal.signal(each, signal.SIG_DFL)
        os.write(2, _STOPPING)  # what the main thread may be writing to just now is not to be entered again
        raise Stopped

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _watched(blocks: Generator[Block, None, None], job: Job, total: int | None) -> list[Refused]:
    """Carry it out under the eyes of the user. The texts that got no vector."""
    refused: list[Refused] = []
    console = Console(stderr=True)
    # Closed here: a signal may come between two blocks, and what is under way needs a cache that is still open.
    with closing(blocks), _bar(console, job, total) if console.is_terminal else _lines(job, total) as tell:
        for block in blocks:
            refused += block.refused
            tell()
    return refused


@contextmanager
def _bar(console: Console, job: Job, total: int | None) -> Iterator[Callable[[], None]]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    with Progress(TextColumn("embedding"), *columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=total, rate="")
        yield lambda: progress.update(task, completed=job.summary.texts, rate=f"{_rate(job.summary):,.0f}/s")


@contextmanager
def _lines(job: Job, total: int | None) -> Iterator[Callable[[], None]]:
    """For a log: a line now and then."""
    said_s = time.monotonic()

    def tell() -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= LINE_EVERY_S:
            said_s = time.monotonic()
            of = f" of {total:,}" if total is not None else ""
            _say(f"{job.summary.texts:,}{of} texts, {_rate(job.summary):,.0f} a second")

    yield tell


def _rate(summary: Summary) -> float:
    return summary.texts / max(summary.seconds, 0.001)


def _is_of_a_server(error: Exception) -> bool:
    """Whether it is what a server, or the way to it, did: ours, or the SDK's."""
    return isinstance(error, LLMWireError) or type(error).__module__.partition(".")[0] == "openai"


def _told(error: Exception) -> str:
    """What it says, what the run knows of it, and what to do, which the words of a server do not say."""
    words = "; ".join([str(error), *getattr(error, "__notes__", ())]).rstrip(".")
    return f"{words}." if isinstance(error, SpaceMismatch) else f"{words}. llmwire ping says how to mend it."


def _facts(summary: Summary, source: str) -> dict[str, object]:
    return {"input": source, **asdict(summary), "cost": summary.cost}


def _show(summary: Summary, refused: list[Refused], out: Path, *, as_json: bool) -> None:
    if as_json:
        facts = {"out": str(out), **asdict(summary), "cost": summary.cost}
        typer.echo(json.dumps({**facts, "refused": [asdict(each) for each in refused]}, indent=2))
        return
    console = Console(markup=False, emoji=False)  # names and reasons are no markup
    texts = f"{summary.texts:,} texts into {out} in {summary.seconds:.1f} s"
    counts = f"{summary.embedded:,} embedded, {summary.cached:,} from the cache, {summary.repeated:,} repeated"
    cost = "" if summary.cost is None else f", cost {summary.cost:.4f}"
    console.print(f"{texts}: {counts}, {summary.refused:,} refused; {summary.tokens:,} tokens{cost}", soft_wrap=True)
    if summary.endpoints:
        console.print(_table(summary))
    for each in refused[:REFUSED_SHOWN]:
        console.print(f"  text {each.position}: {each.reason}", soft_wrap=True)
    if len(refused) > REFUSED_SHOWN:
        console.print(f"  and {len(refused) - REFUSED_SHOWN:,} more, which the output names")


def _table(summary: Summary) -> Table:
    table = Table(box=SIMPLE)
    for heading in ("endpoint", "requests", "texts", "tokens", "cost"):
        table.add_column(heading, justify="left" if heading == "endpoint" else "right")
    for name, use in summary.endpoints.items():
        cost = "" if use.cost is None else f"{use.cost:.4f}"
        table.add_row(name or "unknown", f"{use.requests:,}", f"{use.texts:,}", f"{use.tokens:,}", cost)
    return table


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
