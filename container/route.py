"""`llmwire route`: where would this request go, and why? Knows terminals and options; decides nothing itself."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from llmwire.services.errors import ConfigError
from llmwire.services.routing.explanation import RouteExplanation

from .application import LLMContainer

FAILED: Final = 1  #: the exit code where nobody may have the request
STDIN: Final = "-"
_STYLES: Final = {"chosen": "green", "undecided": "yellow", "passed over": "yellow"}
#: stand-ins for what is attached: nobody looks into it
_IMAGE: Final = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
_AUDIO: Final = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
_FILE: Final = {"type": "file", "file": {"file_data": ""}}
_TOOL: Final = {"type": "function", "function": {"name": "tool", "parameters": {"type": "object", "properties": {}}}}


class Function(StrEnum):
    """Whose routes are asked."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"


def route_command(
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What the user says, or is to be embedded; - is stdin.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each route said, and who may answer.")] = False,
    function: Annotated[Function, typer.Option(help="Whose routes.")] = Function.COMPLETION,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    model: Annotated[str | None, typer.Option(help="That is asked for; else that of the settings.")] = None,
    tags: Annotated[str, typer.Option(help="That the caller attaches, divided by commas.")] = "",
    trust: Annotated[str, typer.Option(help="Labels that the caller demands, divided by commas.")] = "",
    image: Annotated[bool, typer.Option("--image", help="An image is attached.")] = False,
    audio: Annotated[bool, typer.Option("--audio", help="Audio is attached.")] = False,
    file: Annotated[bool, typer.Option("--file", help="A file is attached.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Tools may be called.")] = False,
    structured: Annotated[bool, typer.Option("--structured", help="The answer must be JSON.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="The answer is wanted piece by piece.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of the answer.")] = None,
    request: Annotated[
        Path | None, typer.Option(help="A JSON file with a whole request, in place of TEXT and of what describes it.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file with settings.")] = None,
    env_file: Annotated[Path | None, typer.Option("--env-file", help="The .env file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole explanation as JSON.")] = False,
) -> None:
    """Show which pool a request would go to, by which route. Sends nothing to a completion endpoint.

    Where the meaning of a text decides, the embedding endpoint is asked. The state of the endpoints is that of this
    command; in a running program: container.completion.router().explain(request).

    Exits with 1 where no endpoint may have the request.
    """
    container = LLMContainer() if config is None else LLMContainer.from_toml(config)
    container.env.read_dotenv(env_file)
    lane: Any = container.providers[function.value]
    if request is not None:
        asked = _read(request)
    else:
        said = sys.stdin.read() if text == STDIN else text or ""
        parts = [part for part, is_there in ((_IMAGE, image), (_AUDIO, audio), (_FILE, file)) if is_there]
        asked = _embedding(said) if function is Function.EMBEDDING else _chat(said, system, parts)
        asked |= {"tools": [_TOOL]} if tools else {}
        asked |= {"response_format": {"type": "json_object"}} if structured else {}
        asked |= {"stream": True} if stream else {}
        asked |= {"max_completion_tokens": max_tokens} if max_tokens is not None else {}
    try:
        router = lane.router()  # first, as the sources of the endpoints may name the model
        asked.setdefault("model", model or lane.model())
        explained = router.explain(asked, tags=tags, trust=trust or None)
    finally:
        container.shutdown_resources()
    _show(explained, is_whole=explain, as_json=as_json)
    raise typer.Exit(0 if explained.pool is not None else FAILED)


def _chat(said: str, system: str | None, parts: list[dict[str, Any]]) -> dict[str, Any]:
    content: Any = [{"type": "text", "text": said}, *parts] if parts else said
    messages = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*messages, {"role": "user", "content": content}]}


def _embedding(said: str) -> dict[str, Any]:
    return {"input": [said]}


def _read(path: Path) -> dict[str, Any]:
    try:
        written = sys.stdin.read() if str(path) == STDIN else path.read_text(encoding="utf-8")
        asked = json.loads(written)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"cannot be read: {reason}", key=str(path), remedy="Name a JSON file.") from error
    except ValueError as error:
        raise ConfigError(f"is no JSON: {error}", key=str(path), remedy="Correct it.") from error
    if not isinstance(asked, dict):
        remedy = 'Write the arguments of a call, as in {"messages": [...]}.'
        raise ConfigError("is no JSON object", key=str(path), remedy=remedy)
    return asked


def _show(explained: RouteExplanation, *, is_whole: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(explained.as_dict(), indent=2))
        return
    if not is_whole:
        if explained.pool is None:
            typer.echo(explained.problem, err=True)
        else:
            typer.echo(f"{explained.pool} ({explained.decided_by})")
        return
    console = Console()
    if not console.is_terminal:
        typer.echo(str(explained))
        return
    console.print(Group(*_tables(explained)))


def _tables(explained: RouteExplanation) -> list[Any]:
    shown: list[Any] = [f"[bold]{explained.function}[/bold]: {escape(explained.headline)}"]
    if explained.rules:
        rules = Table(box=SIMPLE)
        for name in ("route", "pool", "", "why", "score"):
            rules.add_column(name, overflow="fold")
        for rule in explained.rules:
            verdict = f"{rule.verdict}, shadow" if rule.is_shadow else rule.verdict
            style = _STYLES.get(rule.verdict, "dim")
            score = "" if rule.score is None else f"{rule.score:.3f}"
            rules.add_row(escape(rule.route), rule.pool, f"[{style}]{verdict}[/{style}]", escape(rule.reason), score)
        shown.append(rules)
    endpoints = Table(box=SIMPLE)
    for name in ("endpoint", "", "why"):
        endpoints.add_column(name, overflow="fold")
    for name, health in explained.candidates.items():
        endpoints.add_row(name, "[green]candidate[/green]", health)
    for name, why in explained.left_out.items():
        endpoints.add_row(name, "[bold red]not[/bold red]", escape(f"it is {why}"))
    shown.append(endpoints)
    if explained.larger is not None:
        shown.append(f"  where it is too long: pool {explained.larger}")
    if explained.problem is not None:
        shown.append(f"  [bold red]error[/bold red] {escape(explained.problem)}")
    return shown
