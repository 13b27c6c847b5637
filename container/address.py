"""What an operator's URL means. Knows the forms that people paste; knows nothing of where they were written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit, urlunsplit

from llmwire.services.secrets import MASK

DEFAULT_API_PATH = "/v1"
MOST_CHARACTERS = 2048  #: of a URL; servers take no more

#: the ends of pasted URLs: a path of the API itself, which the client adds on its own
_PASTED = re.compile(r"/(chat/completions|completions|embeddings|responses|models)/*$")
_AZURE_PASTED = re.compile(r"/openai(/.*)?$")
#: a scheme or what looks like a host, and then neither a user nor a query: a key in the wrong variable is none
_SHOWABLE = re.compile(r"([a-z]+://|localhost\b|\[|[^@?#\s/:]+\.)[^@?#\s]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A usable base URL and what was done to make it so."""

    base_url: str
    notes: tuple[str, ...] = ()


class UnusableURL(ValueError):  # noqa: N818
    """A URL that cannot be a base URL. Carries what is wrong and what to do; never a password."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}. {remedy}")


def openai_address(url: str, api_path: str | None = None) -> Address:
    """The base URL of an OpenAI-compatible server: `/v1` where no path is given, pasted API paths cut off.

    Args:
        url: as the operator wrote it, as in `http://localhost:8000`.
        api_path: takes the place of the URL's whole path; `/` means none.
    Raises:
        UnusableURL: no scheme or host, or a user, query or fragment in it.
    """
    parts = _checked(url)
    if api_path is not None:
        return Address(base_url=_joined(parts, "/" + api_path.strip("/")))
    path = parts.path.rstrip("/")
    if cut := _PASTED.search(path):
        path = path[: cut.start()]
        note = f"{cut.group().rstrip('/')} was cut off: the client adds it"
        return Address(base_url=_joined(parts, path or DEFAULT_API_PATH), notes=(note,))
    if not path:
        return Address(base_url=_joined(parts, DEFAULT_API_PATH), notes=(f"{DEFAULT_API_PATH} was added",))
    return Address(base_url=_joined(parts, path))


def azure_address(url: str, api_path: str | None = None) -> Address:
    """The base URL of an Azure OpenAI resource, which ends in `/openai`. Raises UnusableURL."""
    parts = _checked(url)
    if api_path is not None:
        return Address(base_url=_joined(parts, "/" + api_path.strip("/")))
    path = parts.path.rstrip("/")
    cut = _AZURE_PASTED.search(path)
    notes = (f"{cut.group()} was cut off: the client adds it",) if cut and cut.group(1) else ()
    return Address(base_url=_joined(parts, (path[: cut.start()] if cut else path) + "/openai"), notes=notes)


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine, by its host alone."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def masked(url: str) -> str:
    """The URL for showing what was written: itself, or the mask where a password or key may stand in it."""
    return url if _SHOWABLE.fullmatch(url) else MASK


def _checked(url: str) -> SplitResult:
    if any(character.isspace() or not character.isprintable() for character in url):
        raise UnusableURL("has a blank or a line break in it", "Remove it.")
    if "@" in url:
        raise UnusableURL("has a user or password in it", "Remove it and set the key with the api_key setting.")
    if "?" in url or "#" in url:
        raise UnusableURL(
            "has a query or fragment in it",
            "Remove what follows the path; Azure's version goes into azure.api_version.",
        )
    if len(url) > MOST_CHARACTERS:
        raise UnusableURL(f"has more than {MOST_CHARACTERS} characters", "Write it shorter.")
    if "://" not in url:
        near = "http" if re.match(r"(localhost|127\.|\[::1\])", url) else "https"
        raise UnusableURL("has no scheme", f"Write {near}://{masked(url)}.")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UnusableURL("has no valid host", "Write it as in http://localhost:8000.") from error
    if parts.scheme not in ("http", "https"):
        raise UnusableURL(f"has the scheme {parts.scheme!r}", "Use http or https.")
    if not parts.hostname:
        raise UnusableURL("names no host", "Write it as in http://localhost:8000.")
    if "[" in parts.netloc and not _is_ipv6(parts.hostname):
        raise UnusableURL("has no valid host", "Write an address of IPv6 as in http://[::1]:8000.")
    if not _has_possible_port(parts):
        raise UnusableURL("has an impossible port", "Write a port from 1 to 65535.")
    return parts


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def _has_possible_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _joined(parts: SplitResult, path: str) -> str:
    return urlunsplit((parts.scheme, parts.netloc, path.rstrip("/"), "", ""))
