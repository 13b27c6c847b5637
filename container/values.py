"""What a value can be: turns what an operator wrote into what it means. Knows values; knows nothing of places."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from textwrap import shorten
from typing import Any, Final, TypeVar

from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.endpoint import Dialect, Price
from llmwire.services.routing.failover import AfterSend
from llmwire.services.routing.route import Mode
from llmwire.services.routing.spending import Period, SpendingLimit, Unit
from llmwire.services.secrets import Secret

from .configuration import Unfit

N = TypeVar("N", int, float)

_MOST: Final = 1e18  #: no figure of any setting is as large
A_DAY_S: Final = 86_400.0  #: a longer deadline is a slip of the unit, and a much longer one overflows in the socket
NO_KEY: Final = Secret("")  #: what the word `none` means: send no Authorization
MODALITIES: Final = ("text", "image", "audio", "file")
ENDPOINT_TABLE: Final = "Write an endpoint's settings below its name, as in [completion.endpoints.primary]."

BUDGET: Final = "Write it as in 5/day or 200000 tokens/minute; of one tag as in overnight: 1/day."
BUDGET_TABLE: Final = "Write it as in { cost = 5, per = 'day' } or { tokens = 200000, per = 'minute', tag = 'a' }."

_BUDGET: Final = re.compile(
    r"(?:(?P<tag>[^:]+):\s*)?(?P<amount>[0-9][0-9_.e+-]*)\s*(?P<tokens>tokens\s*)?/\s*(?P<per>minute|hour|day)",
    re.IGNORECASE | re.ASCII,
)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,99}", re.IGNORECASE | re.ASCII)

MOST_ENDPOINTS: Final = 1000  #: of a function; more are a slip, or an attack on who reads them
MOST_WORDS: Final = 1000  #: of one list


class Startup(StrEnum):
    """What a program begins with where a source is silent, or holds nothing that can be used."""

    STATIC = "static"  #: with its other settings
    CACHE = "cache"  #: with the last document that was taken, kept on the disk; where there is none, as STATIC
    FAIL = "fail"  #: not at all


def text(raw: Any) -> str:
    """A line of text."""
    if not isinstance(raw, str):
        raise Unfit(f"must be text, not {type(raw).__name__}", "Put it in quotes.")
    if not raw.isprintable():
        raise Unfit("has a line break or another control character in it", "Remove it.")
    return raw


def key(raw: Any) -> Secret:
    """A key or token as a Secret; `none` as NO_KEY. A key with a blank or line break inside is refused unseen."""
    if isinstance(raw, Secret):
        return raw if raw == NO_KEY else key(raw.reveal())
    if not isinstance(raw, str):
        raise Unfit(f"must be text, not {type(raw).__name__}", "Put it in quotes.")
    if raw.lower() == "none":
        return NO_KEY
    if any(character.isspace() for character in raw):
        raise Unfit("has a blank or a line break in it", "Write the bare key, without 'Bearer' and on one line.")
    if not _fits_header(raw):
        raise Unfit("has a character that no HTTP header can carry", "Copy the key once more.")
    return Secret(raw)


def header_text(raw: Any) -> str:
    """A line of text that goes into a header."""
    if isinstance(raw, str) and not _fits_header(raw):
        raise Unfit("has a character that no HTTP header can carry", "Use printable ASCII on one line.")
    return text(raw)


def path(raw: Any) -> str:
    """A path of a URL, and nothing else of it."""
    if isinstance(raw, str) and (not raw.isprintable() or any(part in raw for part in (" ", "?", "#", "://"))):
        raise Unfit("must be a path", "Write it as in /v1.")
    return text(raw)


def seconds(raw: Any) -> float:
    """A time above 0, in seconds, of at most a day."""
    meaning = "a number of seconds above 0, as in 30, and at most a day"
    number = _number(raw, float, meaning)
    if number > A_DAY_S:
        raise Unfit(f"must be {meaning}, not {_quoted(raw)}", f"Write {meaning}.")
    return number


def count(raw: Any) -> int:
    """A whole number above 0."""
    return _number(raw, int, "a whole number above 0")


def tier(raw: Any) -> int:
    """A whole number from 0."""
    return _number(raw, int, "a whole number from 0", fits=_from_0)


def weight(raw: Any) -> float:
    """A number above 0. Without bounds it would leave the others nothing, for ever."""
    return _number(raw, float, "a number above 0, from 0.000001 to 1000000, as in 2 or 0.5", fits=_is_weight)


def ledger(raw: Any) -> Secret:
    """A URL that may hold a password."""
    return raw if isinstance(raw, Secret) else Secret(text(raw))


def share(raw: Any) -> float:
    """A share of the calls, from 0 to a half; `off` is 0."""
    if raw is False or (isinstance(raw, str) and raw.lower() in ("off", "no", "false")):
        return 0.0
    return _number(raw, float, "a share of the calls from 0 to 0.5, as in 0.05, or off", fits=_up_to_a_half)


def cosine(raw: Any) -> float:
    """How like two texts are, from -1 to 1."""
    return _number(raw, float, "a cosine from -1 to 1, as in 0.5", fits=_from_minus_1_to_1)


def price(raw: Any) -> Price:
    """What a million tokens cost: one number for both ways, a table of `input`, `output` and perhaps `cached`, or text.

    As text 0.5, 0.5/1.5 for input and output, or 0.5/1.5/0.05 with that of input from the server's cache.
    """
    if isinstance(raw, Mapping):
        if not {"input", "output"} <= set(raw) <= {"input", "output", "cached"}:
            problem = "must hold input and output, perhaps cached, and nothing else"
            raise Unfit(problem, "Write { input = 0.5, output = 1.5 }.")
        cached = None if raw.get("cached") is None else _amount(raw["cached"])
        return Price(input=_amount(raw["input"]), output=_amount(raw["output"]), cached=cached)
    parts = raw.split("/", 2) if isinstance(raw, str) else [raw]
    cached = _amount(parts[2]) if len(parts) > 2 else None
    return Price(input=_amount(parts[0]), output=_amount(parts[min(1, len(parts) - 1)]), cached=cached)


def _amount(raw: Any) -> float:
    meaning = "a price of a million tokens, as in 0.5, or 0.5/1.5 for input and output"
    return _number(raw, float, f"{meaning}, and at most 1000000", fits=_is_price)


def budgets(raw: Any) -> tuple[SpendingLimit, ...]:
    """What may be spent: text as in 5/day or 200000 tokens/minute, with a tag as in overnight: 1/day; or tables.

    Several are divided by commas, or stand in a list.
    """
    each = [part for part in raw.split(",") if part.strip()] if isinstance(raw, str) else raw
    if isinstance(each, Mapping):
        each = [each]
    if not isinstance(each, list | tuple) or not each:
        raise Unfit("must be a budget, or a list of them", BUDGET)
    limits = tuple(_budget_of_text(one) if isinstance(one, str) else _budget_of_table(one) for one in each)
    seen: set[str] = set()
    for limit in limits:
        if limit.scope in seen:
            whose = "" if limit.tag is None else f" of the tag {limit.tag}"
            raise Unfit(f"holds two budgets{whose} in {limit.unit} for one {limit.per}", "Keep one of them.")
        seen.add(limit.scope)
    return limits


def _budget_of_text(written: str) -> SpendingLimit:
    found = _BUDGET.fullmatch(written.strip())
    if found is None:
        raise Unfit(f"holds {written.strip()!r}, which is no budget", BUDGET)
    unit = Unit.TOKENS if found["tokens"] else Unit.COST
    tag = None if found["tag"] is None else word(found["tag"].strip())
    return SpendingLimit(limit=_limit(found["amount"], unit), unit=unit, per=Period(found["per"].lower()), tag=tag)


def _budget_of_table(table: Any) -> SpendingLimit:
    if not isinstance(table, Mapping) or len({"cost", "tokens"} & set(table)) != 1 or "per" not in table:
        raise Unfit("must say cost or tokens, and per", BUDGET_TABLE)
    if unknown := set(table) - {"cost", "tokens", "per", "tag"}:
        raise Unfit(f"holds {', '.join(sorted(map(str, unknown)))}, which no budget has", BUDGET_TABLE)
    unit = Unit.TOKENS if "tokens" in table else Unit.COST
    per = Period(_one_of(table["per"], [period.value for period in Period]))
    tag = None if table.get("tag") is None else word(table["tag"])
    return SpendingLimit(limit=_limit(table[unit.value], unit), unit=unit, per=per, tag=tag)


def _limit(raw: Any, unit: Unit) -> float:
    written = raw.replace("_", "") if isinstance(raw, str) else raw
    if unit is Unit.TOKENS:
        return _number(written, float, "a whole number of tokens up to 1e12, as in 200000", fits=_is_whole)
    return _number(written, float, "an amount above 0, from a billionth to 1e12, as in 5 or 0.25", fits=_is_amount)


def _above_0(number: float) -> bool:
    return number > 0


def _is_whole(number: float) -> bool:
    return 1 <= number <= 1e12 and number == int(number)


def _is_amount(number: float) -> bool:
    return 1e-9 <= number <= 1e12


def _from_0(number: float) -> bool:
    return number >= 0


def _is_weight(number: float) -> bool:
    return 1e-6 <= number <= 1e6


def _is_price(number: float) -> bool:
    return 0 <= number <= 1e6


def _up_to_a_half(number: float) -> bool:
    return 0 <= number <= 0.5


def _from_minus_1_to_1(number: float) -> bool:
    return -1 <= number <= 1


def _quoted(raw: Any) -> str:
    """What was written, as far as it helps; also of what is too long to be shown, or even to be written out."""
    try:
        return shorten(repr(raw), 80, placeholder="…")
    except ValueError:  # a number of very many digits
        return "that"


def _number(raw: Any, kind: Callable[[Any], N], meaning: str, *, fits: Callable[[float], bool] = _above_0) -> N:
    remedy = f"Write {meaning}."
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise Unfit(f"must be {meaning}, not {type(raw).__name__}", remedy)
    try:
        number = kind(raw)
    except (ValueError, OverflowError):
        raise Unfit(f"must be {meaning}, not {_quoted(raw)}", remedy) from None
    if not fits(number) or abs(number) > _MOST or (isinstance(raw, float) and number != raw):
        raise Unfit(f"must be {meaning}, not {_quoted(raw)}", remedy)
    return number


def switch(raw: Any) -> bool:
    """Yes or no, in the spellings of environment variables."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(raw, bool):
        return raw
    if str(raw).lower() not in words:
        raise Unfit(f"must be true or false, not {_quoted(raw)}", "Write true or false.")
    return words[str(raw).lower()]


def dialect(raw: Any) -> Dialect:
    """One of the dialects."""
    return Dialect(_one_of(raw, [member.value for member in Dialect]))


def strategy(raw: Any) -> Strategy:
    """One of the ways to choose among endpoints."""
    return Strategy(_one_of(raw, [member.value for member in Strategy]))


def after_send(raw: Any) -> AfterSend:
    """Whether a request that may have arrived is sent to another endpoint too."""
    return AfterSend(_one_of(raw, [member.value for member in AfterSend]))


def mode(raw: Any) -> Mode:
    """What becomes of the decisions of routes. True and false are on and off."""
    if isinstance(raw, bool):
        return Mode.ON if raw else Mode.OFF
    return Mode(_one_of(raw, [member.value for member in Mode]))


def tokenizer(raw: Any) -> str:
    """`auto`, `estimate`, or an encoding of tiktoken's as it calls it."""
    name = text(raw)
    return name.lower() if name.lower() in ("auto", "estimate") else name


def startup(raw: Any) -> Startup:
    """What a program begins with where a source is silent."""
    return Startup(_one_of(raw, [member.value for member in Startup]))


def credential_name(raw: Any) -> str:
    """The name of a credential that is declared elsewhere. Not shown where it is none: it may be the key itself."""
    if not isinstance(raw, str) or not _NAME.fullmatch(raw):
        raise Unfit(
            "is no credential's name",
            "Write a name, as in vendor: a letter, then letters, digits, - and _. Its key is declared beside it.",
        )
    return raw.lower()


def key_fallback(raw: Any) -> str:
    """What happens when the shared key would go to another host than the one it was given with."""
    return _one_of(raw, ["warn", "same-host"])


def _one_of(raw: Any, choices: list[str]) -> str:
    if str(raw).lower() not in choices:
        raise Unfit(f"must be one of {', '.join(choices)}, not {_quoted(raw)}", f"Write {' or '.join(choices)}.")
    return str(raw).lower()


def tags(raw: Any) -> tuple[str, ...]:
    """Words, from a list or divided by commas."""
    words = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise Unfit("must be a list of words", "Write it as in ['eu', 'cheap'], or as in eu,cheap.")
    if len(words) > MOST_WORDS:
        raise Unfit(f"holds {len(words)} words, of {MOST_WORDS} at most", "Divide them among several.")
    if not all(word.strip().isprintable() for word in words):
        raise Unfit("holds a control character", "Remove it.")
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def words(raw: Any) -> tuple[str, ...]:
    """The same where there must be one: a condition or a demand that names nothing would be none at all."""
    if not (named := tags(raw)):
        raise Unfit("names nothing", "Name one, or leave it out.")
    return named


def word(raw: Any) -> str:
    """One word, which others name in lists."""
    said = text(raw)
    if "," in said or said.split() != [said]:
        raise Unfit(f"must be one word, not {said!r}", "Write it without blanks and commas, as in eu.")
    return said


def modalities(raw: Any) -> frozenset[str]:
    """What a model takes beside text. `text` may be named, and goes without saying."""
    named = [name.lower() for name in words(raw)]
    for name in named:
        if name not in MODALITIES:
            raise Unfit(f"holds {name!r}, and must be of {', '.join(MODALITIES)}", "Write it as in text,image.")
    return frozenset(named) - {"text"}


def pool_names(raw: Any) -> tuple[str, ...]:
    """Names of pools, from a list or divided by commas or blanks."""
    return tuple(dict.fromkeys(map(pool_name, words(raw.replace(" ", ",") if isinstance(raw, str) else raw))))


def pool_name(raw: Any) -> str:
    """The name of a pool, in lower case."""
    if not _NAME.fullmatch(text(raw)):
        remedy = "Write a letter, then letters, digits, - and _, as in long-2."
        raise Unfit(f"is no name for a pool: {_quoted(raw)}", remedy)
    return str(raw).lower()


def endpoint_names(raw: Any) -> tuple[str, ...]:
    """Names of endpoints in their order: those of a table of tables as they are written there, or a text's."""
    if isinstance(raw, Mapping):
        _check_holds_tables(raw)
    elif not isinstance(raw, str):
        raise Unfit("must be a table of endpoints", ENDPOINT_TABLE)
    names = list(raw) if isinstance(raw, Mapping) else raw.lower().replace(",", " ").split()
    if not names:
        raise Unfit("names no endpoint", "Name one, as in primary, or leave it out.")
    if len(names) > MOST_ENDPOINTS:
        raise Unfit(f"names {len(names)} endpoints, of {MOST_ENDPOINTS} at most", "Name a load balancer before them.")
    for place, name in enumerate(names, start=1):
        if not isinstance(name, str) or not _NAME.fullmatch(name):  # not shown: it may be a URL with its key
            remedy = "Write a letter, then letters, digits, - and _, as in backup-2; a URL goes into base_url."
            raise Unfit(f"holds at place {place} what is no name for an endpoint", remedy)
    _check_unlike(names)
    return tuple(names)


def _check_holds_tables(table: Mapping[Any, Any]) -> None:
    for name, held in table.items():
        if held is not None and not isinstance(held, Mapping):
            raise Unfit(f"holds {name}, which is no table", ENDPOINT_TABLE)


def _check_unlike(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(variable_part(name))) is not None:
            twins = f"{name} twice" if other == name else f"{other} and {name}, which are one name in the environment"
            raise Unfit(f"holds {twins}", "Rename or remove one of them.")
        seen[variable_part(name)] = name


def variable_part(name: str) -> str:
    """An endpoint's name as its variables spell it: `backup-2` as BACKUP_2."""
    return name.upper().replace("-", "_")


def headers(raw: Any) -> tuple[tuple[str, str], ...]:
    """Headers as pairs, from a table, a JSON object, or lines of `Name: value`."""
    if isinstance(raw, str):
        raw = _headers_of_text(raw)
    if not isinstance(raw, Mapping) or not all(isinstance(part, str) for pair in raw.items() for part in pair):
        raise Unfit("must be a table of header names and texts", "Write it as in { X-Team = 'search' }.")
    for name, value in raw.items():
        if not _HEADER_NAME.fullmatch(name):  # not shown: it may be a whole header with its secret
            raise Unfit("has an impossible header name", "Write a name as in X-Team.")
        if not _fits_header(value):
            raise Unfit(f"has a value for {name} that no HTTP header can carry", "Use printable ASCII on one line.")
    return tuple((name, value.strip()) for name, value in raw.items())


def _fits_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _headers_of_text(raw: str) -> Any:
    if raw.lstrip().startswith("{"):
        try:
            return json.loads(raw)
        except ValueError:
            raise Unfit("starts as a JSON object, but is none", "Correct it.") from None
    lines = [line for line in raw.splitlines() if line.strip()]
    if any(":" not in line for line in lines):
        raise Unfit("has a line without a colon", "Write each header on a line of its own, as in X-Team: search.")
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
