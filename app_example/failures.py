"""What may go wrong and is nobody's bug: one clear sentence for each. Knows words; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import openai

from llmwire.container import (
    AllEndpointsFailed,
    ConfigError,
    DeadlineExceeded,
    DiscoveryError,
    LLMWireError,
    SpaceMismatch,
    StreamInterrupted,
)


class AppError(Exception):
    """An expected failure of this application. Its text is one sentence or two and says what to do."""


class FolderError(AppError):
    """The folder cannot be ingested: it is missing or empty, or a file in it is no text."""


class StoreError(AppError):
    """The database cannot be opened or is not ours."""


class EmptyStoreError(AppError):
    """A question came before any document."""


class SpaceError(AppError):
    """Vectors of another model or of other dimensions: they would be compared, and mean nothing."""


class EndpointError(AppError):
    """An endpoint could not be asked, or gave no answer."""


EXPECTED = (AppError, LLMWireError)
"""What a command shows as a sentence. Anything else is a bug and keeps its traceback."""


@contextmanager
def in_words(function: str) -> Iterator[None]:
    """Raise what goes wrong with a function inside the block as an EndpointError, or a SpaceError.

    Args:
        function: whose calls are made there, `completion` or `embedding`.
    """
    try:
        yield
    except SpaceMismatch as error:
        raise SpaceError(f"{error} For that: ingest FOLDER --fresh") from error
    except (openai.OpenAIError, LLMWireError) as error:
        raise EndpointError(_sentence(error, function)) from error


def _sentence(error: Exception, function: str) -> str:
    match error:
        case openai.APIConnectionError() | AllEndpointsFailed() | StreamInterrupted():
            return f"{_lost(error, function)} Start it, or set {function.upper()}_BASE_URL to a server that is running."
        case openai.APIStatusError():
            return f"The {_server(error, function)} {_refusal(error, function.upper())}"
        case ConfigError() | DiscoveryError():
            return str(error)
        case _:
            return f"The {function} endpoint failed: {error}"


def _lost(error: openai.APIConnectionError | AllEndpointsFailed | StreamInterrupted, function: str) -> str:
    match error:
        case openai.APITimeoutError() | DeadlineExceeded():
            return f"The {_server(error, function)} took too long to answer."
        case StreamInterrupted():
            return f"The {function} server stopped in the midst of its answer: {error}."
        case AllEndpointsFailed() if len({attempt.server for attempt in error.attempts}) != 1:
            return f"No {function} server could answer: {_each(error)}."
        case _:
            return f"The connection to the {_server(error, function)} failed: {_root(error)}."


def _each(error: AllEndpointsFailed) -> str:
    """What became of every endpoint."""
    tried = [str(attempt) for attempt in error.attempts]
    return "; ".join(tried + [f"{name} is {why}" for name, why in error.reasons.items()])


def _root(error: BaseException) -> str:
    """What the first of the errors said that led to this one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).rstrip(".") or type(error).__name__


def _refusal(error: openai.APIStatusError, prefix: str) -> str:
    match error.status_code:
        case 401 | 403 as status:
            return f"refused the key ({status}). Set {prefix}_API_KEY to one that this server accepts."
        case 404:
            return f"does not know this (404). Check {prefix}_MODEL and {prefix}_BASE_URL."
        case 429:
            return "is busy, or the quota is used up (429). Wait a little and try again."
        case status if status >= 500:
            return f"failed ({status}). Try again; if it stays so, look at its log."
        case status:
            return f"refused the request ({status}): {error.message}. Check {prefix}_MODEL."


def _server(error: openai.APIError | AllEndpointsFailed, function: str) -> str:
    if isinstance(error, AllEndpointsFailed):
        servers = " or ".join(dict.fromkeys(attempt.server for attempt in error.attempts))
        return f"{function} server {servers}".rstrip()
    url = error.request.url
    port = f":{url.port}" if url.port else ""
    return f"{function} server {url.scheme}://{url.host}{port}"
