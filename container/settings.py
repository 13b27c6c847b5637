"""What an operator may write: every setting, its places, what it can take.

One line of a chain is one place, most specific first. Knows names and values; knows nothing of clients.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from dependency_injector import providers

from llmwire.services.routing.endpoint import Dialect
from llmwire.services.secrets import Secret

from .configuration import Environment, FirstOf, Unfit, option

N = TypeVar("N", int, float)

FUNCTIONS: Final = ("completion", "embedding")

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
A_DAY_S: Final = 86_400.0  #: a longer deadline is a slip of the unit, and a much longer one overflows in the socket
NO_KEY: Final = Secret("")  #: what the word `none` means: send no Authorization

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110


def text(raw: Any) -> str:
    """A line of text."""
    if not isinstance(raw, str):
        raise Unfit(f"must be text, not {type(raw).__name__}", "Put it in quotes.")
    return raw


def key(raw: Any) -> Secret:
    """A key or token as a Secret; `none` as NO_KEY. A key with a blank or line break inside is refused unseen."""
    if isinstance(raw, Secret):
        return raw
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
    if not _fits_header(text(raw)):
        raise Unfit("has a character that no HTTP header can carry", "Use printable ASCII on one line.")
    return text(raw)


def path(raw: Any) -> str:
    """A path of a URL, and nothing else of it."""
    if not text(raw).isprintable() or any(part in text(raw) for part in (" ", "?", "#", "://")):
        raise Unfit("must be a path", "Write it as in /v1.")
    return text(raw)


def seconds(raw: Any) -> float:
    """A time above 0, in seconds, of at most a day."""
    meaning = "a number of seconds above 0, as in 30, and at most a day"
    number = _number(raw, float, meaning)
    if number > A_DAY_S:
        raise Unfit(f"must be {meaning}, not {raw!r}", f"Write {meaning}.")
    return number


def count(raw: Any) -> int:
    """A whole number above 0."""
    return _number(raw, int, "a whole number above 0")


def _number(raw: Any, kind: Callable[[Any], N], meaning: str) -> N:
    remedy = f"Write {meaning}."
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise Unfit(f"must be {meaning}, not {type(raw).__name__}", remedy)
    try:
        number = kind(raw)
    except (ValueError, OverflowError):
        raise Unfit(f"must be {meaning}, not {raw!r}", remedy) from None
    if not 0 < number < float("inf") or (isinstance(raw, float) and number != raw):
        raise Unfit(f"must be {meaning}, not {raw!r}", remedy)
    return number


def switch(raw: Any) -> bool:
    """Yes or no, in the spellings of environment variables."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(raw, bool):
        return raw
    if str(raw).lower() not in words:
        raise Unfit(f"must be true or false, not {raw!r}", "Write true or false.")
    return words[str(raw).lower()]


def dialect(raw: Any) -> Dialect:
    """One of the dialects."""
    return Dialect(_one_of(raw, [member.value for member in Dialect]))


def key_fallback(raw: Any) -> str:
    """What happens when the shared key would go to another host than the one it was given with."""
    return _one_of(raw, ["warn", "same-host"])


def _one_of(raw: Any, choices: list[str]) -> str:
    if str(raw).lower() not in choices:
        raise Unfit(f"must be one of {', '.join(choices)}, not {raw!r}", f"Write {' or '.join(choices)}.")
    return str(raw).lower()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of a function: its places as templates over the function's name, its default, its parser."""

    name: str
    own: tuple[str, ...]
    shared: tuple[str, ...] = ()
    default: Mapping[str, Any] | None = None
    parse: Callable[[Any], Any] = text
    only: tuple[str, ...] = FUNCTIONS

    def chain(self, function: str, config: providers.Configuration, env: Environment) -> FirstOf[Any]:
        """The chain of this setting for one function, over the two layers."""
        own = [place.format(function=function, FUNCTION=function.upper()) for place in self.own]
        return FirstOf(
            *(option(config, env, place) for place in own),
            shared=tuple(option(config, env, place) for place in self.shared),
            default=(self.default or {}).get(function),
            key=own[0].removeprefix("config."),
            parse=self.parse,
        )


def _each(value: object) -> dict[str, object]:
    return dict.fromkeys(FUNCTIONS, value)


SETTINGS: Final = (
    Setting(
        name="base_url",
        own=(
            "config.{function}.base_url",
            "env.{FUNCTION}_BASE_URL",
            "env.{FUNCTION}_OPENAI_BASE_URL",
            "env.{FUNCTION}_OPENAI_API_BASE",
        ),
        shared=("config.openai.base_url", "env.OPENAI_BASE_URL", "env.OPENAI_API_BASE"),
        default=_each(DEFAULT_BASE_URL),
    ),
    Setting(
        name="api_key",
        own=("config.{function}.api_key", "env.{FUNCTION}_API_KEY", "env.{FUNCTION}_OPENAI_API_KEY"),
        shared=("config.openai.api_key", "env.OPENAI_API_KEY"),
        parse=key,
    ),
    Setting(
        name="model",
        own=("config.{function}.model", "env.{FUNCTION}_MODEL", "env.{FUNCTION}_OPENAI_MODEL"),
        default={"completion": "gpt-5.4-mini", "embedding": "text-embedding-3-small"},
    ),
    Setting(
        name="organization",
        own=(
            "config.{function}.organization",
            "env.{FUNCTION}_ORG_ID",
            "env.{FUNCTION}_ORGANIZATION",
            "env.{FUNCTION}_OPENAI_ORG_ID",
        ),
        shared=("config.openai.organization", "env.OPENAI_ORG_ID"),
        parse=header_text,
    ),
    Setting(
        name="project",
        own=(
            "config.{function}.project",
            "env.{FUNCTION}_PROJECT_ID",
            "env.{FUNCTION}_PROJECT",
            "env.{FUNCTION}_OPENAI_PROJECT_ID",
        ),
        shared=("config.openai.project", "env.OPENAI_PROJECT_ID"),
        parse=header_text,
    ),
    Setting(
        name="headers",
        own=(
            "config.{function}.headers",
            "env.{FUNCTION}_HEADERS",
            "env.{FUNCTION}_CUSTOM_HEADERS",
            "env.{FUNCTION}_OPENAI_CUSTOM_HEADERS",
        ),
        shared=("config.openai.headers", "env.OPENAI_CUSTOM_HEADERS"),
        parse=headers,
    ),
    Setting(
        name="deadline_s",
        own=("config.{function}.deadline_s", "env.{FUNCTION}_DEADLINE_S"),
        default={"completion": 120.0, "embedding": 30.0},
        parse=seconds,
    ),
    Setting(name="api_path", own=("config.{function}.api_path", "env.{FUNCTION}_API_PATH"), parse=path),
    Setting(name="dialect", own=("config.{function}.dialect", "env.{FUNCTION}_DIALECT"), parse=dialect),
    Setting(
        name="dimensions",
        own=("config.{function}.dimensions", "env.{FUNCTION}_DIMENSIONS"),
        parse=count,
        only=("embedding",),
    ),
    Setting(
        name="azure_endpoint",
        own=("config.{function}.azure.endpoint", "env.{FUNCTION}_AZURE_OPENAI_ENDPOINT"),
        shared=("config.azure.endpoint", "env.AZURE_OPENAI_ENDPOINT"),
    ),
    Setting(
        name="azure_api_key",
        own=(
            "config.{function}.azure.api_key",
            "env.{FUNCTION}_AZURE_OPENAI_API_KEY",
            "env.{FUNCTION}_AZURE_OPENAI_KEY",
            "config.{function}.api_key",
            "env.{FUNCTION}_API_KEY",
        ),
        shared=("config.azure.api_key", "env.AZURE_OPENAI_API_KEY", "env.AZURE_OPENAI_KEY"),
        parse=key,
    ),
    Setting(
        name="azure_api_version",
        own=(
            "config.{function}.azure.api_version",
            "env.{FUNCTION}_AZURE_OPENAI_API_VERSION",
            "env.{FUNCTION}_OPENAI_API_VERSION",
        ),
        shared=("config.azure.api_version", "env.AZURE_OPENAI_API_VERSION", "env.OPENAI_API_VERSION"),
        default=_each("2024-10-21"),  #: the newest version that Azure calls generally available
    ),
    Setting(
        name="azure_deployment",
        own=("config.{function}.azure.deployment", "env.{FUNCTION}_AZURE_OPENAI_DEPLOYMENT"),
    ),
    Setting(
        name="azure_ad_token",
        own=("config.{function}.azure.ad_token", "env.{FUNCTION}_AZURE_OPENAI_AD_TOKEN"),
        shared=("config.azure.ad_token", "env.AZURE_OPENAI_AD_TOKEN"),
        parse=key,
    ),
    Setting(
        name="azure_keyless",
        own=("config.{function}.azure.keyless", "env.{FUNCTION}_AZURE_OPENAI_KEYLESS"),
        shared=("config.azure.keyless", "env.AZURE_OPENAI_KEYLESS"),
        default=_each(False),
        parse=switch,
    ),
    Setting(
        name="key_fallback",
        own=("config.key_fallback", "env.LLMWIRE_KEY_FALLBACK"),
        default=_each("warn"),
        parse=key_fallback,
    ),
)


def chains(function: str, config: providers.Configuration, env: Environment) -> dict[str, FirstOf[Any]]:
    """The fallback chain of every setting of a function, by the setting's name."""
    return {setting.name: setting.chain(function, config, env) for setting in SETTINGS if function in setting.only}
