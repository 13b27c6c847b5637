"""What a request asks for: checked, and in one shape, by whichever API it came. Knows nothing of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from .failures import refuse

#: the operations, by their path below the base URL, and the function each belongs to
FUNCTIONS = {
    "chat/completions": "completion",
    "completions": "completion",
    "responses": "completion",
    "embeddings": "embedding",
}

MAX_CHOICES = 128  #: as OpenAI
MAX_INPUTS = 2048  #: as OpenAI
MAX_DIMENSIONS = 16_384  #: above any model in use; a typing error must not cost gigabytes
CHARACTERS_PER_TOKEN = 4  #: OpenAI's rule of thumb for English

Message = Mapping[str, Any]
Schema = Mapping[str, Any]

_ANY_OBJECT: Schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A request for text.

    Attributes:
        operation: `chat/completions`, `completions` or `responses`.
        body: the request's JSON as it came.
        conversations: the messages; for `completions` one conversation for each prompt.
        choices: how many answers each conversation gets.
        wants_usage: a stream is to end with its usage.
        schema: what the text must be as JSON, or None for plain text.
        tools: the parameters' schema of each function that may be called.
        tool: the function that must be called, or None.
    """

    operation: str
    model: str
    body: Mapping[str, Any]
    conversations: tuple[tuple[Message, ...], ...]
    choices: int
    is_streamed: bool
    wants_usage: bool
    max_tokens: int | None
    stop: tuple[str, ...]
    schema: Schema | None
    tools: Mapping[str, Schema]
    tool: str | None

    @property
    def tokens(self) -> int:
        """How long the conversations are, estimated."""
        return sum(tokens(text_of(message.get("content"))) for turn in self.conversations for message in turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRequest:
    """A request for embeddings. An input is a text, or the numbers of its tokens."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None
    is_base64: bool

    @property
    def tokens(self) -> int:
        """How long the inputs are; estimated for texts, counted for tokens."""
        return sum(tokens(item) if isinstance(item, str) else len(item) for item in self.inputs)


def tokens(text: str) -> int:
    """An estimate: one token for every four characters begun. Wrong for code and for most scripts but Latin."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def text_of(content: object) -> str:
    """The text of a message's content, a string or a list of parts; images and sounds are passed over."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "\n".join(part for part in parts if isinstance(part, str))


def read_text_request(operation: str, body: Mapping[str, Any], *, deployment: str | None = None) -> TextRequest:
    """Read a request for text.

    Args:
        deployment: the model by the request's path, as Azure has it; it wins over the body's.
    Raises:
        Refused: a field is missing or impossible; names the field.
    """
    options = body.get("stream_options") or {}
    form = _form(operation, body)
    declared = _tools(body)
    return TextRequest(
        operation=operation,
        model=deployment or _model(body),
        body=body,
        conversations=_conversations(operation, body),
        choices=_whole(body, "n", most=MAX_CHOICES) or 1,
        is_streamed=bool(body.get("stream")),
        wants_usage=isinstance(options, Mapping) and bool(options.get("include_usage")),
        max_tokens=_max_tokens(body),
        stop=_stop(body),
        schema=form,
        tools=declared,
        tool=_forced(body.get("tool_choice"), declared),
    )


def read_vector_request(body: Mapping[str, Any], *, deployment: str | None = None) -> VectorRequest:
    """Read a request for embeddings; arguments and errors as of `read_text_request`."""
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise refuse("'encoding_format' must be 'float' or 'base64'.", param="encoding_format")
    return VectorRequest(
        model=deployment or _model(body),
        inputs=_inputs(body),
        dimensions=_whole(body, "dimensions", most=MAX_DIMENSIONS),
        is_base64=encoding == "base64",
    )


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise refuse("You must provide a 'model' parameter.", param="model")
    return model


def _whole(body: Mapping[str, Any], name: str, *, most: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        limit = "at least 1" if most is None else f"from 1 to {most}"
        raise refuse(f"'{name}' must be an integer, {limit}.", param=name)
    return value


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    limits = (_whole(body, name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    return next((limit for limit in limits if limit is not None), None)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop") or ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, Sequence) or not all(isinstance(item, str) and item for item in stop):
        raise refuse("'stop' must be a string or a list of strings.", param="stop")
    return tuple(stop)


def _conversations(operation: str, body: Mapping[str, Any]) -> tuple[tuple[Message, ...], ...]:
    if operation == "completions":
        prompts = _texts_or_tokens(body, "prompt")
        return tuple(({"role": "user", "content": _as_text(prompt)},) for prompt in prompts)
    if operation == "responses":
        return (_response_messages(body),)
    return (_checked_messages(body.get("messages")),)


def _as_text(prompt: str | tuple[int, ...]) -> str:
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def _checked_messages(messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise refuse("You must provide 'messages', a list of at least one message.", param="messages")
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise refuse(f"'messages[{position}]' must be an object with a 'role'.", param=f"messages[{position}]")
    return tuple(messages)


def _response_messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    given = body.get("input")
    if not isinstance(given, str | Sequence) or not given:
        raise refuse("You must provide 'input', a string or a list of items.", param="input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    return (*system, *(_response_message(item) for item in items))


def _response_message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise refuse("Every item of 'input' must be an object.", param="input")
    if "output" in item:  # what a called function returned
        return {"role": "tool", "content": item["output"]}
    return {"role": item.get("role", "assistant"), "content": item.get("content")}


def _inputs(body: Mapping[str, Any]) -> tuple[str | tuple[int, ...], ...]:
    inputs = _texts_or_tokens(body, "input")
    if len(inputs) > MAX_INPUTS:
        raise refuse(f"'input' may have at most {MAX_INPUTS} entries, not {len(inputs)}.", param="input")
    if not all(inputs):
        raise refuse("'input' must not have an empty string or an empty list in it.", param="input")
    return inputs


def _texts_or_tokens(body: Mapping[str, Any], name: str) -> tuple[str | tuple[int, ...], ...]:
    value = body.get(name)
    if isinstance(value, str):
        return (value,)
    if _is_tokens(value):
        return (tuple(value),)
    if isinstance(value, list) and value and all(isinstance(item, str) or _is_tokens(item) for item in value):
        return tuple(item if isinstance(item, str) else tuple(item) for item in value)
    raise refuse(f"You must provide '{name}': a string, a list of strings, or lists of tokens.", param=name)


def _is_tokens(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _form(operation: str, body: Mapping[str, Any]) -> Schema | None:
    holder, name = (body.get("text"), "format") if operation == "responses" else (body, "response_format")
    form = holder.get(name) if isinstance(holder, Mapping) else None
    if not isinstance(form, Mapping) or form.get("type") in (None, "text"):
        return None
    if form["type"] == "json_object":
        return _ANY_OBJECT
    described = form.get("json_schema", form)  # Responses has its fields beside the type
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if form["type"] != "json_schema" or not isinstance(schema, Mapping):
        raise refuse(f"'{name}' must be text, json_object, or json_schema with a schema.", param=name)
    return schema


def _tools(body: Mapping[str, Any]) -> dict[str, Schema]:
    given = body.get("tools")
    tools = [tool for tool in given if isinstance(tool, Mapping)] if isinstance(given, Sequence) else []
    # Chat puts a function into "function"; Responses spreads it.
    functions = [tool.get("function", tool) for tool in tools if tool.get("type") == "function"]
    if not all(isinstance(item, Mapping) and isinstance(item.get("name"), str) for item in functions):
        raise refuse("Every function in 'tools' must be an object with a 'name'.", param="tools")
    return {item["name"]: item.get("parameters") or {} for item in functions}


def _forced(choice: object, tools: Mapping[str, Schema]) -> str | None:
    """The last one where any will do: frameworks put the function that ends a conversation last."""
    if choice == "required" and tools:
        return list(tools)[-1]
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        return None
    named = choice.get("function", choice)
    name = named.get("name") if isinstance(named, Mapping) else None
    if name not in tools:
        raise refuse("'tool_choice' names a function that is not in 'tools'.", param="tool_choice")
    return str(name)
