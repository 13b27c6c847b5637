"""`python -m benchmarks.embedding [--quick] [--full] [--only openai,llmwire]`: prints the tables and the goals."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..figures import written
from ..processes import Failed, Upstreams, Worker, broken, versions
from ..running import Say, a_table, goals_table
from .figures import GOALS, Measured, figures, matrix_mb, row_of
from .peers import PEERS
from .texts import BATCH, DIMENSIONS, expected
from .upstream import FLOATS

BASE64, NUMBERS = "base64", "numbers"
LONG_S = 30.0  #: who takes longer is measured once: the noise of a machine is small beside that


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One table.

    Attributes:
        encoding: `base64` for those who ask for it; `numbers` where the server sends nothing else.
        rounds: each peer in turn, in a new process every time.
    """

    encoding: str
    count: int
    peers: Sequence[str]
    rounds: int


#: What takes minutes and gigabytes is left to --full: LiteLLM and all numbers at 100,000.
USUAL = (
    Case(encoding=BASE64, count=10_000, peers=[*PEERS], rounds=5),
    Case(encoding=NUMBERS, count=10_000, peers=["openai", "msgspec", "llmwire"], rounds=3),
    Case(encoding=BASE64, count=100_000, peers=[peer for peer in PEERS if peer != "litellm"], rounds=3),
)
QUICK = (replace(USUAL[0], rounds=3), replace(USUAL[1], rounds=1))
FULL = (
    *(replace(case, peers=[*PEERS]) for case in USUAL),
    Case(encoding=NUMBERS, count=100_000, peers=[*PEERS], rounds=1),
)


def main() -> int:
    """Print the tables. 1 where a peer that is installed could not be measured."""
    arguments = _arguments()
    cases = FULL if arguments.full else QUICK if arguments.quick else USUAL
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(
        f"{versions()}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; all in one run, {DIMENSIONS:,} "
        f"dimensions, requests of {BATCH:,} texts one after another",
        highlight=False,
    )
    found: dict[str, float] = {}
    failures: list[str] = []
    with Upstreams(ports=1, module="benchmarks.embedding.upstream") as upstreams:
        for case in cases:
            peers = [peer for peer in case.peers if peer in arguments.only]
            measured = _measured(replace(case, peers=peers), upstreams.base_urls[0], console)
            console.print()
            console.print(_table(case, measured))
            found |= figures(case.encoding, case.count, measured)
            failures += [complaint for peer, row in measured.items() for complaint in broken(peer, row)]
    console.print()
    console.print(goals_table(GOALS, found))
    for failure in failures:
        console.print(failure, markup=False)
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    def peers(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(PEERS):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {','.join(PEERS)}")
        return chosen

    parser = argparse.ArgumentParser(prog="benchmarks.embedding", description="What embedding in bulk costs.")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="10,000 texts only, fewer rounds: two minutes")
    effort.add_argument("--full", action="store_true", help="everybody everywhere: most of an hour, 12 GB of memory")
    parser.add_argument("--only", type=peers, default=list(PEERS), metavar="PEER,...", help=",".join(PEERS))
    return parser.parse_args()


def _measured(case: Case, base_url: str, console: Console) -> Measured:
    """Under a line that says what is going on."""
    if not console.is_terminal:
        console.print(f"{case.encoding}, {case.count:,} texts ...")
        return in_turn(case, base_url, lambda _text: None)
    with console.status(case.encoding) as status:
        return in_turn(case, base_url, status.update)


def in_turn(case: Case, base_url: str, say: Say) -> Measured:
    """Each peer in turn, round by round. Who is wrong or fails has no figures, and is not asked again."""
    base_url = base_url.removesuffix("/v1") + FLOATS if case.encoding == NUMBERS else base_url
    samples: dict[str, list[dict[str, float]]] = {peer: [] for peer in case.peers}
    failed: dict[str, Failed] = {}
    to_do = list(case.peers)
    for number in range(case.rounds):
        for peer in list(to_do):
            say(f"{case.encoding}, {case.count:,} texts, round {number + 1} of {case.rounds}: {peer}")
            try:
                samples[peer].append(_sample(peer, base_url, case.count))
            except Failed as failure:
                failed[peer] = failure
            if peer in failed or samples[peer][-1]["wall_s"] > LONG_S:
                to_do.remove(peer)
    return {peer: failed.get(peer) or row_of(samples[peer]) for peer in case.peers}


def _sample(peer: str, base_url: str, count: int) -> dict[str, float]:
    with Worker(peer, [base_url], module="benchmarks.embedding.worker") as worker:
        return checked(worker.ask(do="embed", count=count), count)


def checked(sample: dict[str, float], count: int) -> dict[str, float]:
    """The same. Raises Failed unless its vectors are those that the server sent: nobody is fast by being wrong."""
    if sample["checksum"] != expected(count):
        raise Failed("failed: its vectors are not those that the server sent")
    return sample


def _table(case: Case, measured: Measured) -> Table:
    title = (
        f"{case.count:,} texts, {case.encoding}, a matrix of {matrix_mb(case.count):,.0f} MB: medians of up to "
        f"{case.rounds} rounds, by turns"
    )
    headings = ("wall, s", "x openai", "CPU, s", "x openai", "at rest, MB", "peak, MB", "x matrix", "rounds", "remark")
    table = a_table(title, "client", *headings)
    table.columns[-1].justify = "left"
    ratios = figures(case.encoding, case.count, measured)
    for peer, row in measured.items():
        if isinstance(row, Failed):
            table.add_row(PEERS[peer].title, *["-"] * (len(headings) - 1), escape(str(row)))
            continue
        name = f"{case.encoding} {case.count} {peer}"
        time, cpu, peak = (written(ratios.get(f"{name} {what}"), 2) for what in ("time", "cpu", "peak"))
        cost = (written(row.wall_s, 2), time, written(row.cpu_s, 2), cpu)
        memory = (written(row.rest_mb), written(row.peak_mb), peak)
        table.add_row(PEERS[peer].title, *cost, *memory, str(row.rounds), PEERS[peer].remark)
    return table


if __name__ == "__main__":
    sys.exit(main())
