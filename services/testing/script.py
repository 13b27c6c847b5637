"""What a fake answers, and what it was asked. Knows scripts and replies; knows nothing of the SDK or of transports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeGuard, runtime_checkable

from ..errors import LLMWireError
from .failures import Failure, Refused, refuse
from .reading import FUNCTIONS, TextRequest, read_text_request, read_vector_request, text_of
from .replies import Reply, failure_reply, json_reply, model_body, models_body, text_reply, vector_reply
from .spoken import Choice, Stamp, ToolCall, called
from .vectors import distinct

_SHOWN = 300  #: characters of a value that an error message quotes

_MARKS: Mapping[str, object] = {"system_fingerprint": "llmwire-fake"}


@runtime_checkable
class Model(Protocol):
    """A pydantic model, as far as a script needs it."""

    def model_dump_json(self, *, by_alias: bool) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """One request that a fake received.

    Attributes:
        method: as in `POST`.
        path: below the base URL, as in `chat/completions`.
        body: the request's JSON; empty where it had none.
        headers: by their names in lower case, without the credential.
    """

    method: str
    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(repr=False)


#: one answer: a text; a whole JSON body, sent as it is; a pydantic model, sent as its JSON; or what goes wrong
Answer = str | Mapping[str, Any] | Model | Failure | Exception
#: an answer for every call, a list with one for each call in order, or a function of the call
Script = Answer | Sequence[Answer] | Callable[[RecordedCall], Answer]


class ScriptExhausted(LLMWireError):  # noqa: N818  # reads as what it is
    """A fake was called more often than its script has answers."""


class Role(Protocol):
    """What one fake is: how it answers the calls of its function."""

    name: str
    function: str
    model: str

    def reply(self, call: RecordedCall) -> Reply:
        """Answer a call of the role's function; may raise what the script says, or Refused."""


class Stage:
    """Where a fake plays its role: records every call and answers it. Any number of threads may call at once."""

    def __init__(self, role: Role) -> None:
        self.calls: list[RecordedCall] = []
        self._role = role

    def play(self, call: RecordedCall) -> Reply:
        """The answer to a call. Raises what the script raises, as a transport would raise it."""
        self.calls.append(call)
        try:
            return self._reply(call)
        except Refused as refused:
            return failure_reply(refused.failure, {})

    def _reply(self, call: RecordedCall) -> Reply:
        head, _, rest = call.path.partition("/")
        if call.method == "GET" and head == "models":
            return json_reply(model_body(rest, {}) if rest else models_body([self._role.model], {}))
        if call.method == "POST" and FUNCTIONS.get(call.path) == self._role.function:
            return self._role.reply(call)
        raise refuse(f"{self._role.name} has no {call.method} {call.path}{_hint(call.path)}", status=404)


def _hint(path: str) -> str:
    fakes = {"completion": "FakeCompletions", "embedding": "FakeEmbeddings"}
    known = fakes.get(FUNCTIONS.get(path, ""))
    return f": use {known}, or AsyncFake{known.removeprefix('Fake')}." if known else ": no fake knows this path."


class ScriptedCompletions:
    """Answers requests for text by a script."""

    name, function, model = "FakeCompletions", "completion", "fake-completion"

    def __init__(self, script: Script) -> None:
        self._next = _reader(script)
        self._numbers = count(1)  # next() of it is atomic

    def reply(self, call: RecordedCall) -> Reply:
        request = read_text_request(call.path, call.body)
        answer = self._next(call)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Failure):
            raise Refused(answer)
        if isinstance(answer, Mapping) and not request.is_streamed:
            return json_reply(answer)
        choices = _choices(answer, request)
        stamp = Stamp(serial=f"fake{next(self._numbers)}", created_s=0, marks=_MARKS)
        return text_reply(request, choices, stamp)


class HashedEmbeddings:
    """Answers requests for embeddings with a vector that depends on the input alone."""

    name, function, model = "FakeEmbeddings", "embedding", "fake-embedding"

    def __init__(self, dimensions: int, failure: Failure | Exception | None) -> None:
        if dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, not {dimensions}")
        self._dimensions, self._failure = dimensions, failure

    def reply(self, call: RecordedCall) -> Reply:
        request = read_vector_request(call.body)
        if isinstance(self._failure, Failure):
            raise Refused(self._failure)
        if self._failure is not None:
            raise self._failure
        dimensions = request.dimensions or self._dimensions
        vectors = [distinct(repr(item).encode("utf-8"), dimensions) for item in request.inputs]
        return vector_reply(request, vectors, {})


def _reader(script: Script) -> Callable[[RecordedCall], Answer]:
    """The script as a function of the call, checked as far as it can be now."""
    if _is_answer(script):
        return lambda _: script
    if isinstance(script, Sequence):
        return _InOrder([_checked(answer) for answer in script])
    if callable(script) and not isinstance(script, type):
        return lambda call: _checked(script(call))
    raise TypeError(f"a script is an answer, a list of answers or a function of the call, not {_shown(script)}")


class _InOrder:
    """One answer for each call, in the order of the calls."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = answers
        self._positions = count()

    def __call__(self, call: RecordedCall) -> Answer:
        position = next(self._positions)
        if position < len(self._answers):
            return self._answers[position]
        plural = "" if len(self._answers) == 1 else "s"
        raise ScriptExhausted(
            f"the script has {len(self._answers)} answer{plural}, and this is call {position + 1}: "
            f"{call.method} {call.path} {_shown(call.body)}. Script an answer for it, or find out who calls."
        )


def _is_answer(value: object) -> TypeGuard[Answer]:
    # A class has the methods of its instances, but is no answer.
    return isinstance(value, str | Mapping | Model | Failure | Exception) and not isinstance(value, type)


def _checked(answer: object) -> Answer:
    if _is_answer(answer):
        return answer
    raise TypeError(
        f"{_shown(answer)} is no answer: give a str, a whole JSON body as a dict, a pydantic model, "
        "a Failure or an exception"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _choices(answer: str | Mapping[str, Any] | Model, request: TextRequest) -> list[Choice]:
    """The answer as often as the request asks for it; a whole body as the choices that it has."""
    if isinstance(answer, Mapping):
        return _choices_of(answer)
    choice = Choice(text=answer) if isinstance(answer, str) else _structured(answer, request)
    return [choice] * (request.choices * len(request.conversations))


def _structured(model: Model, request: TextRequest) -> Choice:
    """The model as JSON: in a call of a function where the request wants one, else as the text."""
    arguments = model.model_dump_json(by_alias=True)
    name = type(model).__name__
    tool = name if name in request.tools else request.tool
    if tool is None or request.schema is not None:
        return Choice(text=arguments)
    return called(tool, arguments)


def _choices_of(body: Mapping[str, Any]) -> list[Choice]:
    """What a whole body says, so that it can be streamed."""
    if "output" in body:
        items = body["output"]
        texts = [text_of(item["content"]) for item in items if item.get("type") == "message"]
        calls = [item for item in items if item.get("type") == "function_call"]
        return [_choice("".join(texts) if texts else None, calls, "stop")]
    return [_choice_of(choice) for choice in body.get("choices", ())]


def _choice_of(choice: Mapping[str, Any]) -> Choice:
    message = choice.get("message", {"content": choice.get("text")})
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return _choice(message.get("content"), calls, choice.get("finish_reason") or "stop")


def _choice(text: str | None, calls: Sequence[Mapping[str, Any]], finish: str) -> Choice:
    made = tuple(ToolCall(name=call["name"], arguments=call["arguments"]) for call in calls)
    return Choice(text=text, calls=made, finish=finish)
