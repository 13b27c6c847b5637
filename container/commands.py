"""What `llmwire` can be asked. Knows terminals; the answers come from elsewhere."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from llmwire.services.errors import ConfigError, DiscoveryError
from llmwire.services.ping import Ping, paid_ping, ping
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.member import Health
from llmwire.services.routing.pool import EndpointState

from .application import LLMContainer
from .embed import embed_command
from .explain import Explanation, FunctionExplanation, Row, title, told
from .push import push_command
from .route import route_command
from .settings import FUNCTIONS
from .top import top_command
from .watch import watch_command

FAILED = 1  #: the exit code where a check failed
INTERRUPTED = 130  #: where Ctrl-C came before there was anything to show: that of a shell
PIPE_COLUMNS = 160  #: of a table that goes into a pipe, which has no width of its own
_STATE_COLUMNS = (
    *("function", "endpoint", "server", "health", "breaker"),
    *("in flight", "latency", "served", "failed", "last error"),
)
_NUMBERS = frozenset({"in flight", "latency", "served", "failed"})

app = typer.Typer(
    name="llmwire",
    help="Separate completion and embedding endpoints: see how they are configured, check them, stand in for them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command("embed")(embed_command)
app.command("route")(route_command)
app.command("top")(top_command)
app.command("watch")(watch_command)
app.command("push")(push_command)

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file with settings.")]
EnvFile = Annotated[
    Path | None, typer.Option("--env-file", help="The .env file; without it, the one in this folder or above.")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


@app.command("explain")
def explain_command(config: ConfigFile = None, env_file: EnvFile = None, as_json: AsJSON = False) -> None:
    """Show every setting: its value, where it comes from, what it shadows. Calls no endpoint.

    The sources of the endpoints are asked, where there are any: Consul, etcd, files.
    Exits with 1 where a function cannot be used as it is configured.
    """
    explanation = _explanation(_container(config, env_file, listener=lambda _: None))  # what it hears is shown anyway
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


@app.command("endpoints")
def endpoints_command(
    config: ConfigFile = None,
    env_file: EnvFile = None,
    as_json: AsJSON = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Ask again and again, until Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two rounds of --watch.")] = 2.0,
) -> None:
    """Ask every endpoint for its models, which is free, and show the state of each: health, latency, failures.

    This is the pool of this command, not that of a running program: there, container.completion.pool().snapshot().
    Exits with 1 where an endpoint is not well.
    """
    container = _container(config, env_file)
    states: list[tuple[str, EndpointState]] = []
    problems: list[str] = []
    try:
        with Live(console=Console(), auto_refresh=False) if watch and not as_json else nullcontext() as live:
            while True:
                states, problems = _round(container)
                _show_states(states, problems, as_json=as_json, live=live)
                if not watch:
                    break
                time.sleep(every_s)
    except KeyboardInterrupt:
        if not watch:
            raise typer.Exit(INTERRUPTED) from None
    finally:
        container.shutdown_resources()
    is_well = not problems and all(state.health is Health.OK and not state.failed for _, state in states)
    raise typer.Exit(0 if is_well else FAILED)


@app.command("serve-faults")
def serve_faults_command(
    faults: Annotated[list[str], typer.Argument(help="What goes wrong, in turn, as in 429:retry-after=2 or hang.")],
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve a stand-in that fails as it is told, for tests of what an application does then. Ends with Ctrl-C.

    The last of the faults stays. GET /faultd/seen tells what came; PUT /faultd/script changes what goes wrong.
    """
    from llmwire.services.testing.faultd import serve

    try:
        serve(faults, host=host, port=port)
    except ValueError as error:
        raise ConfigError(f"cannot be done: {error}", key="FAULTS", remedy="Correct the fault's name.") from error
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot be used: {reason}", key=f"{host}:{port}", remedy="Choose another --port.") from error


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


def _container(config: Path | None, env_file: Path | None, **overriding: Any) -> LLMContainer:
    container = LLMContainer(**overriding) if config is None else LLMContainer.from_toml(config, **overriding)
    container.env.read_dotenv(env_file)
    return container


def _explanation(container: LLMContainer) -> Explanation:
    """With what the sources say, who are asked; where a function cannot begin without it, that is its error."""
    errors: dict[str, str] = {}
    try:
        for function in FUNCTIONS:
            lane: Any = container.providers[function]
            try:
                lane.watcher().settled()
            except DiscoveryError as error:
                errors[function] = str(error)
            except ConfigError:  # it is told as the function's error
                pass
        explained = container.explain().functions
    finally:
        container.shutdown_resources()
    return Explanation(
        functions=tuple(replace(each, error=errors.get(each.function, each.error)) for each in explained)
    )


def _pings(container: LLMContainer, function: str, paid: bool) -> list[Ping]:
    lane: Any = container.providers[function]
    try:
        client, model = lane.client(), lane.model()  # in this order: the sources are asked for the client
    except (ConfigError, DiscoveryError) as error:
        return [Ping(function=function, server="", check="settings", took_ms=None, problem=str(error))]
    return [
        outcome for endpoint in lane.pool().endpoints for outcome in _of_one(client, function, model, endpoint, paid)
    ]


def _of_one(client: Any, function: str, model: str, endpoint: Endpoint, paid: bool) -> list[Ping]:
    free = ping(client, function=function, model=model, endpoint=endpoint)
    if not (paid and free.is_ok):
        return [free]
    return [free, paid_ping(client, function=function, model=model, endpoint=endpoint)]


def _round(container: LLMContainer) -> tuple[list[tuple[str, EndpointState]], list[str]]:
    """The state of every endpoint after each was asked once, and what is wrong with a function's settings."""
    states, problems = [], []
    for function in FUNCTIONS:
        pings = _pings(container, function, paid=False)
        if wrong := [str(outcome.problem) for outcome in pings if outcome.check == "settings"]:
            problems += wrong
        else:
            lane: Any = container.providers[function]
            states += [(function, state) for state in lane.pool().snapshot()]
    return states, problems


def _show_states(
    states: list[tuple[str, EndpointState]], problems: list[str], *, as_json: bool, live: Live | None
) -> None:
    if as_json:
        rows = [{"function": function, **asdict(state)} for function, state in states]
        typer.echo(json.dumps({"endpoints": rows, "problems": problems}, indent=2))
        return
    shown = Group(_states_table(states), *(f"[bold red]error[/bold red] {escape(problem)}" for problem in problems))
    if live is None:
        console = Console()
        (console if console.is_terminal else Console(width=PIPE_COLUMNS)).print(shown)
    else:
        live.update(shown, refresh=True)


def _states_table(states: list[tuple[str, EndpointState]]) -> Table:
    table = Table(box=SIMPLE)
    for name in _STATE_COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name in _NUMBERS else "left")
    for function, state in states:
        rest_s = max(state.paused_for_s, state.disabled_for_s)
        health = f"{state.health} for {rest_s:.0f} s" if rest_s else str(state.health)
        latency = "" if state.ewma_s is None or not state.served else f"{state.ewma_s * 1000:.0f} ms"
        style = "green" if state.health is Health.OK and not state.last_error else "bold red"
        cells = [function, state.name, state.server, f"[{style}]{health}[/{style}]", str(state.breaker)]
        counts = [str(state.in_flight), latency, str(state.served), str(state.failed), state.last_error]
        table.add_row(*cells, *counts)
    return table


def _show(console: Console, function: FunctionExplanation) -> None:
    console.print(_table(f"{function.function}: {title(function) or 'not usable'}", function.rows))
    for endpoint in function.endpoints if function.has_named_endpoints else ():
        place = f"{function.function}, {endpoint.name}"
        console.print(_table(f"{place}: {title(endpoint)}" if endpoint.server else place, endpoint.rows))
    for source in function.sources:
        style = "bold red" if source.error else "dim"
        console.print(f"  [{style}]source[/{style}] {escape(told(source))}")
    for note in function.notes:
        console.print(f"  [dim]note[/dim] {escape(note)}")
    for warning in function.warnings:
        console.print(f"  [yellow]warning[/yellow] {escape(warning)}")
    if function.error:
        console.print(f"  [bold red]error[/bold red] {escape(function.error)}")
    console.print()


def _table(title: str, rows: tuple[Row, ...]) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE)
    for name in ("setting", "value", "from", "shadows"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in (row.setting, row.value or "", row.origin, ", ".join(row.shadows))))
    return table


def _show_pings(pings: list[Ping]) -> None:
    console = Console()
    for outcome in pings:
        mark, style = ("ok", "green") if outcome.is_ok else ("failed", "bold red")
        took = f"{outcome.took_ms:.0f} ms" if outcome.took_ms is not None else ""
        whose = outcome.function if outcome.endpoint in (None, "default") else f"{outcome.function}/{outcome.endpoint}"
        words: list[Any] = [whose, f"[{style}]{mark}[/{style}]", outcome.check, escape(outcome.server), took]
        console.print(*(word for word in words if word), soft_wrap=True)
        for line in (outcome.problem, outcome.remedy):
            if line:
                console.print(f"  {escape(line)}", soft_wrap=True)
