"""What was counted: of one endpoint, pool and model, or of several together. Knows sums; knows no clock and no events.

Figures can be added, also those of other processes, and subtracted from later ones: the difference is what came since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from .histogram import Histogram

WINDOWS_MIN: Final = (1, 5, 15)  #: of the last so many minutes there are figures, beside those since the start


@dataclass(slots=True, kw_only=True)
class Figures:
    """Sums. They belong to whoever was given them: nobody changes them any more.

    Attributes:
        calls: requests of the application that ended here: answered by this endpoint, or failed with its error.
        call_errors: of those that failed, by the error in one word, `cancelled` among them.
        attempts: requests that were made of this endpoint, whatever became of them, llmwire's own among them.
        served: those that brought what was asked for, and were used; without llmwire's own canaries.
        errors: the others, by the error in one word, as in `503`, `ConnectError`, `cancelled`.
        never_sent: of the attempts those that the server cannot have seen.
        repeated: those that were sent once more to the same endpoint, as a connection had died or a token was renewed.
        canaries: those that asked for the space of its vectors.
        for_routing: those that asked which route a text is meant for.
        hedges: those that were made beside another one, as that was slow.
        duplicates: of two such attempts those that the call did not need.
        input_tokens, output_tokens: as the servers counted them, of whatever was answered, duplicates among them.
        cached_tokens: of the input; reasoning_tokens: of the output.
        untold: answers whose server told no usage: their tokens are in no sum.
        spent: by the endpoints' prices, of the answers whose cost is known.
        unpriced: answers whose cost is not known: they are not in `spent`.
        sent_bytes, received_bytes: of the bodies.
        took: from the start of an attempt that served to the end of its answer.
        first_content: of streams: to the first content.
        call_took: from an application's request to the end of its answer, of calls that were answered.
    """

    calls: int = 0
    call_errors: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    served: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    never_sent: int = 0
    repeated: int = 0
    canaries: int = 0
    for_routing: int = 0
    hedges: int = 0
    duplicates: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    untold: int = 0
    spent: float = 0.0
    priced: int = 0
    unpriced: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    took: Histogram = field(default_factory=Histogram)
    first_content: Histogram = field(default_factory=Histogram)
    call_took: Histogram = field(default_factory=Histogram)

    @property
    def cost(self) -> float | None:
        """What is known of it, which is all where `unpriced` is 0; None where nothing is known."""
        return self.spent if self.priced or not self.unpriced else None

    @property
    def failed(self) -> int:
        """Attempts that failed; those that were cancelled are no failures."""
        return sum(count for label, count in self.errors.items() if label != "cancelled")

    @property
    def failed_calls(self) -> int:
        """Calls that failed; those that were cancelled are no failures."""
        return sum(count for label, count in self.call_errors.items() if label != "cancelled")

    def copy(self) -> Self:
        """Those of now."""
        return type(self)(**{name: _copied(getattr(self, name)) for name in _NAMES})

    def plus(self, other: Figures) -> Self:
        """Both together."""
        return type(self)(**{name: _added(getattr(self, name), getattr(other, name)) for name in _NAMES})

    def minus(self, earlier: Figures) -> Self:
        """What came since earlier ones of the same."""
        return type(self)(**{name: _since(getattr(self, name), getattr(earlier, name)) for name in _NAMES})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        written = {name: getattr(self, name) for name in _NAMES}
        return {name: value.as_dict() if isinstance(value, Histogram) else value for name, value in written.items()}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """From what `as_dict` gave. Names that this version does not know are left out."""
        known: dict[str, Any] = {name: written[name] for name in _NAMES if name in written}
        for name in _TIMES & known.keys():
            known[name] = Histogram.from_dict(known[name])
        return cls(**known)


_NAMES: Final = tuple(each.name for each in fields(Figures))
_TIMES: Final = frozenset({"took", "first_content", "call_took"})


def _copied(value: Any) -> Any:
    return value if isinstance(value, int | float) else value.copy()


def _added(value: Any, other: Any) -> Any:
    if isinstance(value, Histogram):
        return value.plus(other)
    if isinstance(value, dict):
        return {name: value.get(name, 0) + other.get(name, 0) for name in {**value, **other}}
    return value + other


def _since(value: Any, earlier: Any) -> Any:
    if isinstance(value, Histogram):
        return value.minus(earlier)
    if isinstance(value, dict):
        return {name: since for name, count in value.items() if (since := count - earlier.get(name, 0))}
    return value - earlier


def together(figures: Iterable[Figures]) -> Figures:
    """The sum of all; without any, zeros."""
    total = Figures()
    for each in figures:
        total = total.plus(each)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one endpoint did for one pool with one model.

    Attributes:
        endpoint: its name; empty: nobody was asked, as for a call without a route. `(removed)`: of all endpoints that
            are no longer there.
        model: what it was asked for; empty where a request names none, `(others)` of those that came after very many.
        total: since the start.
        windows: of the last 1, 5 and 15 minutes, by that number.
    """

    pool: str
    endpoint: str
    model: str
    total: Figures
    windows: Mapping[int, Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a meter had counted at one moment.

    Attributes:
        function: `completion` or `embedding`.
        at_s: when that was, in seconds since 1970.
        since_s: when counting began.
        series: in the order of their names.
    """

    function: str
    at_s: float
    since_s: float
    series: tuple[Series, ...]

    def figures(
        self,
        *,
        minutes: int | None = None,
        pool: str | None = None,
        endpoint: str | None = None,
        model: str | None = None,
    ) -> Figures:
        """Of all series that fit, together.

        Args:
            minutes: of the last 1, 5 or 15, and up to 15 seconds more; None: since the start.
            pool, endpoint, model: only theirs; None: of any.
        Raises:
            ValueError: there is no such window.
        """
        if minutes is not None and minutes not in WINDOWS_MIN:
            raise ValueError(f"there are figures of the last {', '.join(map(str, WINDOWS_MIN))} minutes, not {minutes}")
        return together(
            each.total if minutes is None else each.windows[minutes]
            for each in self.series
            if pool in (None, each.pool) and endpoint in (None, each.endpoint) and model in (None, each.model)
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The names of those that were asked."""
        return tuple(dict.fromkeys(each.endpoint for each in self.series if each.endpoint))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, and for `from_dict` in another process."""
        return {
            "function": self.function,
            "at_s": self.at_s,
            "since_s": self.since_s,
            "series": [
                {
                    "pool": each.pool,
                    "endpoint": each.endpoint,
                    "model": each.model,
                    "total": each.total.as_dict(),
                    "windows": {str(minutes): of_them.as_dict() for minutes, of_them in each.windows.items()},
                }
                for each in self.series
            ],
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """From what `as_dict` gave."""
        series = tuple(
            Series(
                pool=each["pool"],
                endpoint=each["endpoint"],
                model=each["model"],
                total=Figures.from_dict(each["total"]),
                windows={int(minutes): Figures.from_dict(of_them) for minutes, of_them in each["windows"].items()},
            )
            for each in written["series"]
        )
        return cls(function=written["function"], at_s=written["at_s"], since_s=written["since_s"], series=series)

    @classmethod
    def merged(cls, snapshots: Iterable[Snapshot]) -> Self:
        """Of several processes together.

        Raises:
            ValueError: there is none, or they are not of one function.
        """
        taken = list(snapshots)
        functions = {each.function for each in taken}
        if len(functions) != 1:
            named = ", ".join(sorted(functions)) or "none"
            raise ValueError(f"snapshots of one function can be merged, not of {named}")
        by_key: dict[tuple[str, str, str], Series] = {}
        for each in (series for one in taken for series in one.series):
            key = each.pool, each.endpoint, each.model
            by_key[key] = _both(by_key[key], each) if key in by_key else each
        return cls(
            function=functions.pop(),
            at_s=max(each.at_s for each in taken),
            since_s=min(each.since_s for each in taken),
            series=tuple(by_key[key] for key in sorted(by_key)),
        )


def _both(one: Series, other: Series) -> Series:
    windows = {
        minutes: one.windows.get(minutes, Figures()).plus(other.windows.get(minutes, Figures()))
        for minutes in {**one.windows, **other.windows}
    }
    return Series(
        pool=one.pool, endpoint=one.endpoint, model=one.model, total=one.total.plus(other.total), windows=windows
    )
