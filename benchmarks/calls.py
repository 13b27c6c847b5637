"""What a call costs, one after another: CPU of the caller's process and wall time, sync and async."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from rich.markup import escape
from rich.table import Table

from .figures import ratio, written
from .peers import PEERS
from .processes import Failed, Upstreams, Worker, broken
from .running import Effort, Result, Say, a_table

WARM_UP_CALLS = 200  #: imports, connections, caches: LiteLLM needs so many until its calls cost the same
BARE = "openai"  #: what the others are compared with
KINDS = {"stream": "chat, streamed", "embed": "embeddings, 8 texts"}  #: beside the chat, for openai and llmwire

Measured = dict[str, dict[str, float] | Failed]  #: by peer: the medians, or why there are none


def run(effort: Effort, say: Say) -> Result:
    """Every peer stands ready in a process of its own; they are measured in turn, round by round."""
    with Upstreams(ports=3) as upstreams:
        say("calls: sync")
        sync = _in_turn([name for name, peer in PEERS.items() if peer.sync], upstreams, effort, do="sync", kind="chat")
        say("calls: async")
        asynchronous = _in_turn(list(PEERS), upstreams, effort, do="async")
        kinds = {}
        for kind, title in KINDS.items():
            say(f"calls: {title}")
            kinds[title] = _in_turn([BARE, "llmwire"], upstreams, effort, do="sync", kind=kind)
    rounds = f"median of {effort.rounds} rounds of {effort.calls} calls, by turns"
    tables = [
        _table(f"one chat after another, sync: {rounds}", sync),
        _table(f"one chat after another, async: {rounds}", asynchronous),
        *(_table(f"{title}, sync: {rounds}", measured) for title, measured in kinds.items()),
    ]
    figures = {**_figures("sync", sync), **_figures("async", asynchronous)}
    failures = [
        complaint
        for measured in (sync, asynchronous, *kinds.values())
        for peer, of_peer in measured.items()
        for complaint in broken(peer, of_peer)
    ]
    return Result(tables=tables, figures=figures, failures=failures)


def _in_turn(peers: Sequence[str], upstreams: Upstreams, effort: Effort, **request: object) -> Measured:
    samples: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    failed: dict[str, Failed] = {}
    with ExitStack() as stack:
        workers = {peer: stack.enter_context(Worker(peer, upstreams.base_urls)) for peer in peers}
        for number in range(effort.rounds + 1):  # the first only warms up
            calls = effort.calls if number else max(effort.calls, WARM_UP_CALLS)
            for peer in [peer for peer in peers if peer not in failed]:
                try:
                    sample = workers[peer].ask(calls=calls, **request)
                except Failed as failure:
                    failed[peer] = failure
                else:
                    samples[peer] += [sample] if number else []
    return {peer: failed.get(peer) or _medians(samples[peer]) for peer in peers}


def _medians(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(sample[name] for sample in samples) for name in samples[0]}


def _value(measured: Measured, peer: str, name: str) -> float | None:
    of_peer = measured.get(peer)
    return of_peer[name] if isinstance(of_peer, dict) else None


def _table(title: str, measured: Measured) -> Table:
    table = a_table(title, "client", "CPU, us", "x openai", "wall, us", "x openai")
    for peer, of_peer in measured.items():
        if isinstance(of_peer, Failed):
            table.add_row(PEERS[peer].title, escape(str(of_peer)))
            continue
        cells = []
        for name in ("cpu_us", "wall_us"):
            value = of_peer[name]
            cells += [written(value), written(ratio(value, _value(measured, BARE, name)), 2)]
        table.add_row(PEERS[peer].title, *cells)
    return table


def _figures(lane: str, measured: Measured) -> dict[str, float]:
    pairs = [("llmwire", BARE), ("llmwire-plain", BARE), ("llmwire", "litellm")]
    ratios = {
        f"{lane} {ours}/{theirs}": ratio(_value(measured, ours, "cpu_us"), _value(measured, theirs, "cpu_us"))
        for ours, theirs in pairs
    }
    return {key: value for key, value in ratios.items() if value is not None}
