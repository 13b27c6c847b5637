"""When a server wants to be asked again. Pure: knows headers; garbage in them is no wish."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

_SPAN: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS_S: Final = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
_LIMITS: Final = ("requests", "tokens")


def retry_after_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """The seconds that a server asks to be left alone, or None where it says nothing that can be read.

    In their order: `retry-after-ms`; `retry-after` in seconds or as a date; the resets of OpenAI's rate limits, of
    those that are used up where that is told.

    Args:
        headers: by their names in lower case.
        now_s: seconds since the epoch, for a date.
    """
    for found in (_number(headers.get("retry-after-ms"), 0.001), _retry_after(headers.get("retry-after"), now_s)):
        if found is not None:
            return found
    return _reset(headers)


def _number(text: str | None, unit_s: float) -> float | None:
    try:
        seconds = float(text or "") * unit_s
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _retry_after(text: str | None, now_s: float) -> float | None:
    if text is None or (seconds := _number(text, 1.0)) is not None:
        return None if text is None else seconds
    try:
        return max(parsedate_to_datetime(text).timestamp() - now_s, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _reset(headers: Mapping[str, str]) -> float | None:
    spans = {name: _span(headers.get(f"x-ratelimit-reset-{name}")) for name in _LIMITS}
    used_up = {name for name in _LIMITS if _number(headers.get(f"x-ratelimit-remaining-{name}"), 1.0) == 0}
    known = [span for name, span in spans.items() if span is not None and (not used_up or name in used_up)]
    return max(known, default=None)


def _span(text: str | None) -> float | None:
    """As in `6m0s`, `20ms`, or plain seconds."""
    if not text:
        return None
    if (seconds := _number(text, 1.0)) is not None:
        return seconds
    match = _SPAN.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return None
    seconds = sum(float(part) * unit_s for part, unit_s in zip(match.groups(), _UNITS_S, strict=True) if part)
    return seconds if math.isfinite(seconds) else None
