"""Text from a language model, through any openai client. Knows messages and answers; knows no container and no HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ConfigError, InvalidReply, NoText, StreamTruncated, as_they_are

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_NO_COMPLETION = "the server's answer is no completion: does COMPLETION_BASE_URL name the right server?"

Prompt = str | Iterable[Mapping[str, Any]]
Parsed = TypeVar("Parsed")


class _Asking:
    """What both services share: how a prompt becomes a request."""

    def __init__(self, client: Any, *, model: str | None = None) -> None:
        self._client, self.model = client, model

    def _request(
        self, prompt: Prompt, system: str | None, model: str | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        chosen = model or self.model
        if chosen is None:
            remedy = "Give model= to the call or to the service, or set COMPLETION_MODEL."
            raise ConfigError("is not set", key="completion.model", remedy=remedy)
        return {"messages": messages_of(prompt, system=system), "model": chosen, **options}


class CompletionService(_Asking):
    """Completions from an openai client, or from anything with its `.chat.completions.create`.

    Args:
        client: an `openai.OpenAI`, or a fake of it.
        model: what is asked for where a call names none.
    """

    def complete(self, prompt: Prompt, *, system: str | None = None, model: str | None = None, **options: Any) -> str:
        """The model's answer as text.

        Args:
            prompt: the user's words, or whole messages in the SDK's form.
            system: a system message to put before them.
            options: handed to the SDK unread, as `temperature=0` or `timeout=5`.
        Raises:
            NoText: the answer carries no text: tool calls, a refusal or a content filter.
            AllEndpointsFailed: no endpoint could answer. Where one gave an HTTP error it is the SDK's, as ever.
        """
        return text_of(self.chat(prompt, system=system, model=model, **options))

    def chat(
        self, prompt: Prompt, *, system: str | None = None, model: str | None = None, **options: Any
    ) -> ChatCompletion:
        """The model's whole answer, as the SDK gives it. Arguments as in `complete`."""
        request, create = self._request(prompt, system, model, options), self._client.chat.completions.create
        with _readable():
            answer: ChatCompletion = create(**request)
        return answer

    def stream(
        self, prompt: Prompt, *, system: str | None = None, model: str | None = None, **options: Any
    ) -> Generator[str]:
        """The answer's text piece by piece; the request is sent with the first. Arguments as in `complete`.

        The connection is given back at the end, on `close()`, and when the iteration is given up.

        Raises:
            StreamInterrupted: the stream broke off after its first piece; carries what had arrived.
            StreamTruncated: it ended before the model said that it was done; carries what had arrived.
            NoText: it ended well, but without a text: tool calls, a refusal or a content filter.
        """
        request = self._request(prompt, system, model, options)
        ending = _Ending()
        with as_they_are(), _closing(self._client.chat.completions.create(stream=True, **request)) as chunks:
            for chunk in chunks:
                yield from ending.pieces(chunk)
        ending.check()

    def parse(
        self,
        prompt: Prompt,
        *,
        response_format: type[Parsed],
        system: str | None = None,
        model: str | None = None,
        **options: Any,
    ) -> Parsed:
        """The answer as an object of `response_format`, a pydantic model. Arguments as in `complete`.

        Raises:
            NoText: the model refused, or its answer is empty.
        """
        request, parse = self._request(prompt, system, model, options), self._client.chat.completions.parse
        with _readable():
            answer = parse(response_format=response_format, **request)
        parsed: Parsed = parsed_of(answer)
        return parsed


class AsyncCompletionService(_Asking):
    """The same for asyncio, over an `openai.AsyncOpenAI`."""

    async def complete(
        self, prompt: Prompt, *, system: str | None = None, model: str | None = None, **options: Any
    ) -> str:
        """As `CompletionService.complete`."""
        return text_of(await self.chat(prompt, system=system, model=model, **options))

    async def chat(
        self, prompt: Prompt, *, system: str | None = None, model: str | None = None, **options: Any
    ) -> ChatCompletion:
        """As `CompletionService.chat`."""
        request, create = self._request(prompt, system, model, options), self._client.chat.completions.create
        with _readable():
            answer: ChatCompletion = await create(**request)
        return answer

    async def stream(
        self, prompt: Prompt, *, system: str | None = None, model: str | None = None, **options: Any
    ) -> AsyncGenerator[str]:
        """As `CompletionService.stream`. One who leaves the loop early closes at once with `contextlib.aclosing`."""
        request = self._request(prompt, system, model, options)
        ending = _Ending()
        with as_they_are():
            async with _aclosing(await self._client.chat.completions.create(stream=True, **request)) as chunks:
                async for chunk in chunks:
                    for piece in ending.pieces(chunk):
                        yield piece
        ending.check()

    async def parse(
        self,
        prompt: Prompt,
        *,
        response_format: type[Parsed],
        system: str | None = None,
        model: str | None = None,
        **options: Any,
    ) -> Parsed:
        """As `CompletionService.parse`."""
        request, parse = self._request(prompt, system, model, options), self._client.chat.completions.parse
        with _readable():
            answer = await parse(response_format=response_format, **request)
        parsed: Parsed = parsed_of(answer)
        return parsed


def messages_of(prompt: Prompt, *, system: str | None = None) -> list[Mapping[str, Any]]:
    """The SDK's messages for a prompt: a text is the user's, messages stay as they are."""
    messages: list[Mapping[str, Any]] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
    return [{"role": "system", "content": system}, *messages] if system is not None else messages


def text_of(answer: ChatCompletion) -> str:
    """The text of the first choice.

    Raises:
        NoText: the answer has none.
        InvalidReply: the answer is no completion.
    """
    choice = _first_choice(answer)
    if choice.message.content is None:
        raise NoText(_without_text(choice))
    return str(choice.message.content)


def parsed_of(answer: Any) -> Any:
    """The parsed object of the first choice. Raises as `text_of`."""
    choice = _first_choice(answer)
    if choice.message.parsed is None:
        raise NoText(_without_text(choice))
    return choice.message.parsed


def _first_choice(answer: Any) -> Any:
    # The SDK hands on whatever came with status 200: a web page as a str, an error in the body without choices.
    choices = getattr(answer, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise InvalidReply(_NO_COMPLETION)
    return choices[0]


@contextmanager
def _readable() -> Iterator[None]:
    """Our own errors as they are; and the SDK stumbles over an answer of a foreign client that it cannot read."""
    try:
        with as_they_are():
            yield
    except (AttributeError, JSONDecodeError) as error:
        raise InvalidReply(f"{_NO_COMPLETION} ({error})") from error


def _without_text(choice: Any) -> str:
    refusal = getattr(choice.message, "refusal", None)
    reason = f"the model refused: {refusal}" if refusal else f"finish_reason is {choice.finish_reason}"
    return f"the answer carries no text ({reason}); chat() returns it whole"


class _Ending:
    """Whether a stream of chunks came to its end, and the text until then."""

    def __init__(self) -> None:
        self._received: list[str] = []
        self._reason: str | None = None

    def pieces(self, chunk: Any) -> Iterator[str]:
        """The text in a chunk, if it has any."""
        for choice in chunk.choices or []:  # none where it tells the usage
            if getattr(choice, "index", 0):  # another answer, where several were asked for
                continue
            self._reason = getattr(choice, "finish_reason", None) or self._reason
            if piece := getattr(choice.delta, "content", None):
                self._received.append(piece)
                yield piece

    def check(self) -> None:
        """Raise StreamTruncated unless the model said that it was done, and NoText where it had nothing to say."""
        received = "".join(self._received)
        if self._reason is None:
            remedy = "ask again" if received else "does COMPLETION_BASE_URL name the right server?"
            message = f"the stream ended after {len(received)} characters, before the model was done; {remedy}"
            raise StreamTruncated(message, received=received)
        if not received and self._reason not in ("stop", "length"):
            raise NoText(f"the answer carries no text (finish_reason is {self._reason}); chat() returns it whole")


def _closing(chunks: Any) -> AbstractContextManager[Any]:
    return chunks if hasattr(chunks, "__exit__") else nullcontext(chunks)


def _aclosing(chunks: Any) -> AbstractAsyncContextManager[Any]:
    return chunks if hasattr(chunks, "__aexit__") else nullcontext(chunks)
