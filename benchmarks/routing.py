"""What routes cost: to read a request, to decide where it goes; and what a whole call has of that, beside LiteLLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from timeit import Timer

from rich.markup import escape
from rich.table import Table

from llmwire.services.routing.route import Route
from llmwire.services.wanted import NOTHING

from .figures import ratio, written
from .processes import Failed, Upstreams, Worker, broken
from .routes import KEYWORDS, MIXED, PATTERNS, SENDERS, TEXTS, a_lane, call_of
from .running import Effort, Result, Say, a_table

SETS: dict[str, Sequence[Route]] = {
    "no routes": (),
    "20 mixed routes": MIXED,
    "20 patterns": PATTERNS,
    "20 keyword routes": KEYWORDS,
}
ROUND_S = 0.002  #: short, and many: the noise of a machine comes in bursts, which a median leaves out
ROUNDS_A_ROUND = 4  #: for each of the effort's
WARM_UP_CALLS = 100  #: imports, connections, caches

Measured = dict[str, dict[str, float] | Failed]  #: by sender: CPU of a call in us, by the size of the request


def run(effort: Effort, say: Say) -> Result:
    """Decisions in this process, again and again; then whole calls, each sender in a process of its own."""
    rounds = ROUNDS_A_ROUND * effort.rounds
    tables: list[Table] = []
    figures: dict[str, float] = {}
    for text in TEXTS:
        say(f"routing: requests of {text}")
        table, found = _decisions(text, rounds)
        tables.append(table)
        figures |= found
    say("routing: whole calls")
    with Upstreams(ports=3) as upstreams:
        measured = in_turn(list(SENDERS), upstreams, rounds=effort.rounds, calls=effort.calls)
    of_rounds = f"median of {effort.rounds} rounds of {effort.calls} calls, by turns"
    tables.append(table_of(f"one chat after another, sync, CPU in us: {of_rounds}", measured))
    failures = [complaint for sender, found in measured.items() for complaint in broken(sender, found)]
    return Result(tables=tables, figures={**figures, **times_without(measured)}, failures=failures)


# ---- decisions


def _decisions(text: str, rounds: int) -> tuple[Table, dict[str, float]]:
    title = f"where a chat of {text} goes, us: medians of {rounds} rounds of {ROUND_S * 1e3:g} ms"
    table = a_table(title, "function with", "read it", "decide", "both, and tell")
    figures = {}
    for name, routes in SETS.items():
        took = decision_us(routes, text, rounds)
        table.add_row(name, *(written(took.get(part), 2) for part in ("read", "decide", "whole")))
        figures[f"{name} {text}"] = took["whole"]
        figures |= {f"{name} {text}: {part}": took[part] for part in ("read", "decide") if part in took}
    return table, figures


def decision_us(routes: Sequence[Route], text: str, rounds: int) -> dict[str, float]:
    """What a request costs: to `read`, to `decide` where it goes, and the `whole` of it, a listener told, in us.

    Without routes there is only the whole: it is neither read nor decided.
    """
    lane, call = a_lane(routes), call_of(TEXTS[text])
    endpoints, router = lane.pool.endpoints, lane.router
    took = {"whole": _median_us(lambda: lane.question(call, NOTHING), rounds)}
    if routes:
        took["read"] = _median_us(lambda: lane.facts(call, NOTHING), rounds)
        # Of facts that nobody has asked before: what is found out for one route is kept for the next.
        both = _median_us(lambda: router.decide(lane.facts(call, NOTHING), endpoints), rounds)
        took["decide"] = both - took["read"]
    return took


def _median_us(once: Callable[[], object], rounds: int) -> float:
    timer = Timer(once)  # with the garbage collector off
    number = max(1, round(ROUND_S / min(timer.repeat(repeat=5, number=1))))
    return median(timer.repeat(repeat=rounds, number=number)) / number * 1e6


# ---- whole calls


def in_turn(senders: Sequence[str], upstreams: Upstreams, *, rounds: int, calls: int) -> Measured:
    """The medians of each sender's rounds, or why it has none."""
    samples: dict[str, dict[str, list[float]]] = {sender: {text: [] for text in TEXTS} for sender in senders}
    failed: dict[str, Failed] = {}
    with ExitStack() as stack:
        workers = {
            sender: stack.enter_context(Worker(sender, upstreams.base_urls, module="benchmarks.routes"))
            for sender in senders
        }
        for number in range(rounds + 1):  # the first only warms up
            for sender in [sender for sender in senders if sender not in failed]:
                for text, of_text in samples[sender].items():
                    try:
                        told = workers[sender].ask(do="calls", text=text, count=calls if number else WARM_UP_CALLS)
                    except Failed as failure:
                        failed[sender] = failure
                        break
                    of_text += [told["cpu_us"]] if number else []
    return {
        sender: failed.get(sender) or {text: median(of_text) for text, of_text in samples[sender].items()}
        for sender in senders
    }


def table_of(title: str, measured: Measured) -> Table:
    """A row for each sender: what a call costs it, and how many times that is what it costs without routing."""
    table = a_table(title, "client", *(heading for text in TEXTS for heading in (text, "x without")))
    for sender, found in measured.items():
        if isinstance(found, Failed):
            table.add_row(SENDERS[sender].title, escape(str(found)))
            continue
        cells = []
        for text, cpu_us in found.items():
            cells += [written(cpu_us), written(ratio(cpu_us, _beside(measured, sender, text)), 2)]
        table.add_row(SENDERS[sender].title, *cells)
    return table


def _beside(measured: Measured, sender: str, text: str) -> float | None:
    found = measured.get(SENDERS[sender].beside)
    return found[text] if isinstance(found, dict) else None


def times_without(measured: Measured) -> dict[str, float]:
    """How many times the CPU of a call without routing, by sender and text."""
    ratios = {
        f"{sender} {text}": ratio(found[text], _beside(measured, sender, text))
        for sender, found in measured.items()
        if isinstance(found, dict) and SENDERS[sender].beside != sender
        for text in TEXTS
    }
    return {key: value for key, value in ratios.items() if value is not None}
