"""What the stand-in server replies to one request. Knows paths, keys and errors; knows nothing of sockets."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, unquote
from uuid import uuid4

from . import standin
from .failures import Refused, refuse
from .reading import FUNCTIONS, read_text_request, read_vector_request
from .replies import Reply, failure_reply, json_reply, model_body, models_body, text_reply, vector_reply
from .spoken import Stamp

_MODELS = {"completion": "stand-in-completion", "embedding": "stand-in-embedding"}
_BASE_URLS = {"completion": "COMPLETION_BASE_URL", "embedding": "EMBEDDING_BASE_URL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request as it came.

    Attributes:
        method: as in `POST`.
        path: with its leading slash, without the query: `/v1/chat/completions`.
        query: what follows the question mark, as it came.
        headers: by their names in lower case, the credential among them.
        content: the body's bytes.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes = field(default=b"", repr=False)

    @property
    def body(self) -> Any:
        """The body's JSON, or None where it is none."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class _Target:
    operation: str  # the path below the base URL
    deployment: str | None = None  # Azure's name for the model


class StandInApi:
    """Replies to requests as a small server of the OpenAI API would.

    Args:
        functions: what it serves, of `completion` and `embedding`.
        api_key: what a caller must send, or None: anyone may call.
        models: what it says it has; it answers to any name.
        dimensions: of an embedding, where the request names none.
    """

    def __init__(
        self, *, functions: Collection[str], api_key: str | None, models: Sequence[str] | None, dimensions: int
    ) -> None:
        if not functions or not set(functions) <= _MODELS.keys():
            raise ValueError(f"functions must be of {', '.join(_MODELS)}, not {', '.join(functions) or 'none'}")
        if dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, not {dimensions}")
        self._functions = tuple(functions)
        self._api_key = api_key
        self._models = tuple(models if models is not None else (_MODELS[name] for name in functions))
        self._dimensions = dimensions

    def reply(self, request: ReceivedRequest) -> Reply:
        """The reply, which may be an error; it raises nothing that a request can cause."""
        try:
            return self._reply(request)
        except Refused as refused:
            return failure_reply(refused.failure, standin.MARKS)

    def _reply(self, request: ReceivedRequest) -> Reply:
        if request.path == "/health":
            _allow(request, "GET", "HEAD")
            return json_reply({"status": "ok", "functions": self._functions, **standin.MARKS})
        self._admit(request)
        target = _target(request)
        if target.operation == "models" or target.operation.startswith("models/"):
            _allow(request, "GET", "HEAD")
            return self._described(target.operation.removeprefix("models").removeprefix("/"))
        return self._answered(request, target)

    def _admit(self, request: ReceivedRequest) -> None:
        if self._api_key is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sent = token.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")
        if not hmac.compare_digest(sent.encode(), self._api_key.encode()):
            said = "Incorrect API key provided." if sent else "You didn't provide an API key."
            raise refuse(said, status=401, code="invalid_api_key")

    def _described(self, name: str) -> Reply:
        if not name:
            return json_reply(models_body(self._models, standin.MARKS))
        if name in self._models:
            return json_reply(model_body(name, standin.MARKS))
        raise refuse(f"The model '{name}' does not exist here.", status=404, param="model", code="model_not_found")

    def _answered(self, request: ReceivedRequest, target: _Target) -> Reply:
        function = FUNCTIONS.get(target.operation)
        if function is None:
            raise refuse(f"Unknown path {request.path}. The API is below /v1.", status=404, code="unknown_url")
        if function not in self._functions:
            raise refuse(_elsewhere(target.operation, function, self._functions), status=404, code="not_served")
        _allow(request, "POST")
        body = _checked_body(request)
        if function == "embedding":
            wanted = read_vector_request(body, deployment=target.deployment)
            return vector_reply(wanted, standin.embed_all(wanted, self._dimensions), standin.MARKS)
        asked = read_text_request(target.operation, body, deployment=target.deployment)
        return text_reply(asked, standin.speak(asked), _stamp())


def _stamp() -> Stamp:
    return Stamp(serial=uuid4().hex[:24], created_s=int(time.time()), marks=standin.MARKS)


def _elsewhere(operation: str, function: str, served: Sequence[str]) -> str:
    return (
        f"This server serves {' and '.join(served)}, not {function}, so it has no {operation}: "
        f"point {_BASE_URLS[function]} at one that does."
    )


def _allow(request: ReceivedRequest, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        refused = refuse(f"{request.path} takes {allowed}, not {request.method}.", status=405)
        raise Refused(replace(refused.failure, headers={"allow": allowed}))


def _target(request: ReceivedRequest) -> _Target:
    """Where a path leads: below /v1, or below /openai as Azure has it."""
    path = unquote(request.path)
    for prefix in ("/v1/", "/openai/v1/"):
        if path.startswith(prefix):
            return _Target(path.removeprefix(prefix))
    if not path.startswith("/openai/"):
        return _Target("")
    if not parse_qs(request.query).get("api-version"):
        raise refuse("Missing required query parameter: 'api-version'.", param="api-version")
    rest = path.removeprefix("/openai/")
    if not rest.startswith("deployments/"):
        return _Target(rest)
    deployment, _, operation = rest.removeprefix("deployments/").partition("/")
    return _Target(operation, deployment)


def _checked_body(request: ReceivedRequest) -> dict[str, Any]:
    body = request.body
    if body is None:
        raise refuse("We could not parse the JSON body of your request.")
    if not isinstance(body, dict):
        raise refuse("The JSON body of your request must be an object.")
    return body
