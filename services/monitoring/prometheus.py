"""Tells Prometheus what was counted and how the endpoints are, each time that it asks. The door to prometheus_client.

Knows names and labels; counts nothing, and keeps nothing from one scrape to the next. Labels have values from sets with
an end: names of the operator's, words of ours, and the models of the meter, which has an end of its own for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError
from ..forking import no_fork_meanwhile
from ..routing.breaker import BreakerState
from ..routing.member import Health
from ..routing.pool import EndpointState
from ..routing.spending import BudgetState
from ..source import SourceState
from .figures import Figures
from .histogram import Histogram
from .logs import logger
from .meter import REMOVED
from .report import Report

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

BUCKETS_S: Final = tuple(2.0**power for power in range(-8, 11))  #: 4 ms to 17 minutes; powers of two are exact
LONGEST: Final = 120  #: characters of a model's name: some are paths of files
NOBODY: Final = "(none)"  #: the endpoint where nobody was asked, the model where a request names none

_OF_FIGURES: Final = ("function", "pool", "endpoint", "model")
_OF_ENDPOINT: Final = ("function", "endpoint")
_OF_BUDGET: Final = ("function", "budget", "endpoint", "tag")
_OF_SOURCE: Final = ("function", "source")


class PrometheusCollector:
    """A collector for prometheus_client: `REGISTRY.register(PrometheusCollector(container.report))`.

    A scrape whose report fails has `llmwire_report_failed` at 1 and nothing else of ours; the metrics of others are
    told as ever, and the log says why.

    Args:
        report: is asked at each scrape, on the thread of that.
    Raises:
        ConfigError: prometheus-client is not installed.
        TypeError: a report was given, and not what makes one.

    Attributes:
        content_type: of what `text` gives.
    """

    content_type: Final = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, report: Callable[[], Report]) -> None:
        if not callable(report):
            raise TypeError(
                f"a collector asks for each report anew: give it container.report, not a {type(report).__name__}"
            )
        self._report = report
        with no_fork_meanwhile():
            self._core = _core()

    def describe(self) -> Iterable[Metric]:
        """Every family that there can be, without samples. Asks for no report."""
        return self._families(Report(functions=()), has_failed=False)

    def collect(self) -> Iterable[Metric]:
        """What there is now."""
        try:
            return self._families(self._report(), has_failed=False)
        except Exception as error:
            logger.error("what is counted could not be told to Prometheus: %s", type(error).__name__, exc_info=error)
            return self._families(Report(functions=()), has_failed=True)

    def text(self) -> bytes:
        """The same in Prometheus' text format, for an application that serves it by itself."""
        from prometheus_client.exposition import generate_latest

        return generate_latest(self)

    def _families(self, report: Report, *, has_failed: bool) -> list[Metric]:
        """All of them at once: where one cannot be made, none is told of."""
        failed = "1 where the figures could not be read at this scrape, and are not told; else 0."
        return [
            self._core.GaugeMetricFamily("llmwire_report_failed", failed, value=float(has_failed)),
            *_of_figures(self._core, _figures(report)),
            *_of_endpoints(self._core, list(_endpoints(report))),
            *_of_budgets(self._core, list(_budgets(report))),
            *_of_sources(self._core, [(each.function, state) for each in report.functions for state in each.sources]),
        ]


# Of what was counted.


@dataclass(frozen=True, slots=True)
class _Counter:
    """Sums of figures: one, or one for each value of a label more."""

    name: str
    about: str
    of: Callable[[Figures], Any]
    label: str | None = None

    def samples(self, figures: Figures) -> Iterator[tuple[tuple[str, ...], float]]:
        value = self.of(figures)
        if isinstance(value, Mapping):
            yield from (((name,), amount) for name, amount in value.items())
        elif value is not None:
            yield (), value


def _tokens(figures: Figures) -> dict[str, int]:
    return {
        "input": figures.input_tokens,
        "output": figures.output_tokens,
        "cached": figures.cached_tokens,
        "reasoning": figures.reasoning_tokens,
    }


def _cost(figures: Figures) -> float | None:
    return figures.spent if figures.priced else None


_COUNTERS: Final = (
    _Counter(
        "calls", "Requests of the application that ended with this endpoint's answer or error.", attrgetter("calls")
    ),
    _Counter("call_errors", "Of these, the ones that failed or were cancelled.", attrgetter("call_errors"), "error"),
    _Counter("attempts", "Requests made of this endpoint, whatever became of them.", attrgetter("attempts")),
    _Counter("served", "Attempts that brought what was asked for, and were used.", attrgetter("served")),
    _Counter("attempt_errors", "Attempts that failed or were cancelled.", attrgetter("errors"), "error"),
    _Counter("never_sent", "Attempts that the server cannot have seen.", attrgetter("never_sent")),
    _Counter("repeated", "Attempts that were sent once more to the same endpoint.", attrgetter("repeated")),
    _Counter("canaries", "Attempts that asked for the space of the endpoint's vectors.", attrgetter("canaries")),
    _Counter("for_routing", "Attempts that asked which route a text is meant for.", attrgetter("for_routing")),
    _Counter("hedges", "Attempts made beside another one, as that was slow.", attrgetter("hedges")),
    _Counter("duplicates", "Attempts that their call did not need, as another one answered.", attrgetter("duplicates")),
    _Counter("tokens", "As servers counted them; cached are part of input, reasoning of output.", _tokens, "type"),
    _Counter("untold", "Answers whose server told no usage: their tokens are in no sum.", attrgetter("untold")),
    _Counter("cost", "By the endpoints' prices, of the answers whose cost is known.", _cost),
    _Counter("priced", "Answers whose cost is known.", attrgetter("priced")),
    _Counter("unpriced", "Answers whose cost is not known: it is in no sum.", attrgetter("unpriced")),
    _Counter("sent_bytes", "Of the requests' bodies.", attrgetter("sent_bytes")),
    _Counter("received_bytes", "Of the answers' bodies.", attrgetter("received_bytes")),
)


@dataclass(frozen=True, slots=True)
class _Times:
    """How times are spread."""

    name: str
    about: str
    of: Callable[[Figures], Histogram]


_TIMES: Final = (
    _Times("attempt_duration_seconds", "Of attempts that served, to the end of the answer.", attrgetter("took")),
    _Times("first_content_seconds", "Of streams, to their first content.", attrgetter("first_content")),
    _Times("call_duration_seconds", "Of calls that were answered, to the end of the answer.", attrgetter("call_took")),
)


def _figures(report: Report) -> dict[tuple[str, ...], Figures]:
    """By their labels.

    Without those of endpoints that were removed: another removal adds what that one ever did to theirs, which would
    look as if it had been done now.
    """
    by_labels: dict[tuple[str, ...], Figures] = {}
    for each in report.functions:
        for series in each.figures.series:
            if series.endpoint == REMOVED:
                continue
            labels = each.function, series.pool, series.endpoint or NOBODY, _model(series.model) or NOBODY
            known = by_labels.get(labels)
            by_labels[labels] = series.total if known is None else known.plus(series.total)
    return by_labels


def _model(name: str) -> str:
    """A caller may have made it up, with what no text format can hold."""
    return name[:LONGEST].encode("utf-8", "replace").decode()


def _of_figures(core: Any, by_labels: Mapping[tuple[str, ...], Figures]) -> Iterator[Metric]:
    for counter in _COUNTERS:
        names = (*_OF_FIGURES, counter.label) if counter.label else _OF_FIGURES
        family = core.CounterMetricFamily(f"llmwire_{counter.name}", counter.about, labels=names)
        for labels, figures in by_labels.items():
            for more, amount in counter.samples(figures):
                family.add_metric((*labels, *more), amount)
        yield family
    for times in _TIMES:
        family = core.HistogramMetricFamily(f"llmwire_{times.name}", times.about, labels=_OF_FIGURES)
        for labels, figures in by_labels.items():
            if (histogram := times.of(figures)).count:  # most series have no streams, and each would be 20 samples
                family.add_metric(labels, _buckets(histogram), histogram.sum_s)
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    counts = [(repr(bound_s), histogram.up_to(bound_s)) for bound_s in BUCKETS_S]
    return [*counts, ("+Inf", histogram.count)]


# Of how things are now.


def _endpoints(report: Report) -> Iterator[tuple[str, EndpointState]]:
    """Each name once: one that has left the settings is gone with its last call, or where another has its name."""
    for each in report.functions:
        by_name: dict[str, EndpointState] = {}
        for state in each.endpoints:
            if state.health is not Health.DRAINING or (state.in_flight and state.name not in by_name):
                by_name[state.name] = state
        yield from ((each.function, state) for state in by_name.values())


def _of_endpoints(core: Any, states: list[tuple[str, EndpointState]]) -> Iterator[Metric]:
    about = "Where it is; 1."
    info = core.InfoMetricFamily("llmwire_endpoint", about, labels=_OF_ENDPOINT)
    about = "Attempts under way."
    in_flight = core.GaugeMetricFamily("llmwire_in_flight", about, labels=_OF_ENDPOINT)
    about = "1 for the one state that the endpoint is in, 0 for the others."
    health = core.GaugeMetricFamily("llmwire_endpoint_health", about, labels=(*_OF_ENDPOINT, "health"))
    about = "1 where the breaker is open, or half-open: one call at a time is let through to see; else 0."
    breaker = core.GaugeMetricFamily("llmwire_breaker_open", about, labels=_OF_ENDPOINT)
    for function, state in states:
        labels = function, state.name
        info.add_metric(labels, {"server": state.server, "tier": str(state.tier)})
        in_flight.add_metric(labels, state.in_flight)
        for each in Health:
            health.add_metric((*labels, each.value), float(each is state.health))
        breaker.add_metric(labels, float(state.breaker is not BreakerState.CLOSED))
    yield from (info, in_flight, health, breaker)


def _budgets(report: Report) -> Iterator[tuple[str, BudgetState]]:
    """Without those of endpoints that are gone."""
    names = {(function, state.name) for function, state in _endpoints(report)}
    for each in report.functions:
        for budget in each.budgets:
            if budget.endpoint is None or (each.function, budget.endpoint) in names:
                yield each.function, budget


def _of_budgets(core: Any, budgets: list[tuple[str, BudgetState]]) -> Iterator[Metric]:
    about = "What may be spent in each minute, hour or day, in the budget's unit."
    limit = core.GaugeMetricFamily("llmwire_budget_limit", about, labels=_OF_BUDGET)
    about = "What is spent in the one that has begun, in the budget's unit."
    spent = core.GaugeMetricFamily("llmwire_budget_spent", about, labels=_OF_BUDGET)
    for function, budget in budgets:
        labels = function, budget.budget, budget.endpoint or "", budget.tag or ""
        limit.add_metric(labels, budget.limit)
        spent.add_metric(labels, budget.spent)
    yield from (limit, spent)


def _of_sources(core: Any, states: list[tuple[str, SourceState]]) -> Iterator[Metric]:
    about = "1 where the source is silent, or what it says now is refused; else 0."
    failing = core.GaugeMetricFamily("llmwire_source_failing", about, labels=_OF_SOURCE)
    about = "Since its last answer; not told where it never answered."
    answered = core.GaugeMetricFamily("llmwire_source_answered_seconds", about, labels=_OF_SOURCE)
    for function, state in states:
        labels = function, state.source
        failing.add_metric(labels, float(state.error is not None))
        if state.asked_s is not None:
            answered.add_metric(labels, state.asked_s)
    yield from (failing, answered)


def _core() -> Any:
    """Its module of families."""
    try:
        from prometheus_client import core
    except ImportError as error:
        remedy = "Install it with pip install 'llmwire[prometheus]'."
        raise ConfigError("needs the package prometheus-client", key="prometheus", remedy=remedy) from error
    return core
