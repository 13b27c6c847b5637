"""What `llmwire` can be asked: explain, ping, serve-fake. Knows terminals; the answers come from elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmwire.services.errors import ConfigError
from llmwire.services.ping import Ping, paid_ping, ping

from .application import LLMContainer
from .explain import FunctionExplanation
from .settings import FUNCTIONS

FAILED = 1  #: the exit code where a check failed

app = typer.Typer(
    name="llmwire",
    help="Separate completion and embedding endpoints: see how they are configured, check them, stand in for them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file with settings.")]
EnvFile = Annotated[
    Path | None, typer.Option("--env-file", help="The .env file; without it, the one in this folder or above.")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


@app.command("explain")
def explain_command(config: ConfigFile = None, env_file: EnvFile = None, as_json: AsJSON = False) -> None:
    """Show every setting: its value, where it comes from, what it shadows. Calls no server.

    Exits with 1 where a function cannot be used as it is configured.
    """
    explanation = _container(config, env_file).explain()
    if as_json:
        typer.echo(json.dumps(explanation.as_dict(), indent=2))
    elif (console := Console()).is_terminal:
        for function in explanation.functions:
            _show(console, function)
    else:
        typer.echo(str(explanation))
    raise typer.Exit(0 if explanation.is_usable else FAILED)


@app.command("ping")
def ping_command(
    config: ConfigFile = None,
    env_file: EnvFile = None,
    as_json: AsJSON = False,
    paid: Annotated[
        bool, typer.Option("--paid", help="Also make one token and embed one word, which may cost.")
    ] = False,
) -> None:
    """Ask each server whether it answers, and say how to mend what is wrong. Free, unless --paid.

    Exits with 1 where a server did not answer as it should.
    """
    container = _container(config, env_file)
    try:
        pings = [outcome for function in FUNCTIONS for outcome in _pings(container, function, paid)]
    finally:
        container.shutdown_resources()
    if as_json:
        typer.echo(json.dumps([{**asdict(outcome), "is_ok": outcome.is_ok} for outcome in pings], indent=2))
    else:
        _show_pings(pings)
    raise typer.Exit(0 if all(outcome.is_ok for outcome in pings) else FAILED)


@app.command("serve-fake")
def serve_fake_command(
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    api_key: Annotated[str | None, typer.Option(help="Demand this key.")] = None,
    dimensions: Annotated[int, typer.Option(min=2, help="Of the embeddings.")] = 256,
) -> None:
    """Serve a stand-in for an OpenAI-compatible server. It is no language model.

    Its completions pick sentences out of the prompt; its embeddings are hashed words. Ends with Ctrl-C.
    """
    from llmwire.services.testing import StandIn

    try:
        server = StandIn(host=host, port=port, api_key=api_key, dimensions=dimensions)
        server.start()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot be used: {reason}", key=f"{host}:{port}", remedy="Choose another --port.") from error
    typer.echo(f"A stand-in, no language model, serves at {server.base_url} until Ctrl-C. In another terminal:")
    typer.echo(f"  export COMPLETION_BASE_URL={server.base_url} EMBEDDING_BASE_URL={server.base_url}")
    server.serve_forever()
    typer.echo("Stopped.")


def _container(config: Path | None, env_file: Path | None) -> LLMContainer:
    container = LLMContainer() if config is None else LLMContainer.from_toml(config)
    container.env.read_dotenv(env_file)
    return container


def _pings(container: LLMContainer, function: str, paid: bool) -> list[Ping]:
    lane: Any = container.providers[function]
    try:
        client, model = lane.client(), lane.model()
    except ConfigError as error:
        return [Ping(function=function, server="", check="settings", took_ms=None, problem=str(error))]
    free = ping(client, function=function, model=model)
    return [free, paid_ping(client, function=function, model=model)] if paid and free.is_ok else [free]


def _show(console: Console, function: FunctionExplanation) -> None:
    key = "with a key" if function.sends_key else "without a key"
    place = f"{function.server} ({function.dialect}, {key})" if function.server else "not usable"
    table = Table(title=f"{function.function}: {escape(place)}", title_justify="left", title_style="bold", box=SIMPLE)
    for name in ("setting", "value", "from", "shadows"):
        table.add_column(name, overflow="fold")
    for row in function.rows:
        table.add_row(*(escape(cell) for cell in (row.setting, row.value or "", row.origin, ", ".join(row.shadows))))
    console.print(table)
    for note in function.notes:
        console.print(f"  [dim]note[/dim] {escape(note)}")
    for warning in function.warnings:
        console.print(f"  [yellow]warning[/yellow] {escape(warning)}")
    if function.error:
        console.print(f"  [bold red]error[/bold red] {escape(function.error)}")
    console.print()


def _show_pings(pings: list[Ping]) -> None:
    console = Console()
    for outcome in pings:
        mark, style = ("ok", "green") if outcome.is_ok else ("failed", "bold red")
        took = f"{outcome.took_ms:.0f} ms" if outcome.took_ms is not None else ""
        words: list[Any] = [outcome.function, f"[{style}]{mark}[/{style}]", outcome.check, escape(outcome.server), took]
        console.print(*(word for word in words if word), soft_wrap=True)
        for line in (outcome.problem, outcome.remedy):
            if line:
                console.print(f"  {escape(line)}", soft_wrap=True)
