"""The command line. Knows what a person types and reads; the work is done by what the container gives."""

# No `from __future__ import annotations`: typer reads the annotations when it builds its commands.
import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app_example.application import DATABASE, EXAMPLES, Application
from app_example.asking import Piece, Sources, Trouble
from app_example.endpoints import standing_in, unset
from app_example.failures import EXPECTED
from app_example.journal import COLUMNS, Journal, row_of
from app_example.screen import Screen
from app_example.store import Nearby

INTERRUPTED = 128 + 2  #: what a shell expects of a command that Ctrl-C ended

app = typer.Typer(
    name="python -m app_example",
    help="Ask your documents: ingest a folder of texts, then ask questions about it.\n\n"
    "Two language-model functions are used, and they may live on different servers: EMBEDDING_BASE_URL,"
    " EMBEDDING_API_KEY and EMBEDDING_MODEL name the one that finds passages; COMPLETION_BASE_URL,"
    " COMPLETION_API_KEY and COMPLETION_MODEL the one that writes answers. OPENAI_BASE_URL and OPENAI_API_KEY serve"
    " both. A .env file is read too. A function for which nothing is set gets a local stand-in, which is no language"
    " model but shows how everything works.\n\n"
    "Try it: python -m app_example demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)

Database = Annotated[
    Path, typer.Option(help="The file that holds passages and vectors.", envvar="ASK_DATABASE", show_envvar=True)
]


def main() -> None:
    """Run the command that was typed; exit with 0, 1 for a failure or 2 for a wrong call."""
    app()


@app.command()
def ingest(
    folder: Annotated[
        Path, typer.Argument(help="A folder with .md and .txt files.", metavar="FOLDER", exists=True, file_okay=False)
    ],
    *,
    database: Database = Path(DATABASE),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget everything ingested before, as after a change of the model.")
    ] = False,
) -> None:
    """Read a folder into the database. Run it again after changes: only what is new is embedded."""
    screen = Screen()
    kept = "What was embedded is kept; the same command goes on from there."
    with _sentences(screen, stopped=kept), _application(screen, database, needs=["embedding"]) as application:
        _ingest(screen, application, folder, is_fresh=fresh)
        _tell_who_answered(screen, application.journal())


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="In quotes.", metavar="QUESTION")],
    *,
    database: Database = Path(DATABASE),
) -> None:
    """Answer a question from the ingested documents, and name the sources."""
    screen = Screen()
    if not question.strip():
        raise typer.BadParameter("the question is empty.", param_hint="QUESTION")
    with _sentences(screen), _application(screen, database) as application:
        is_answered = asyncio.run(_ask(screen, application, question))
        _tell_who_answered(screen, application.journal())
    raise typer.Exit(0 if is_answered else 1)


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on. 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.", min=0, max=65_535)] = 8_000,
    examples: Annotated[bool, typer.Option("--examples", help="Ingest the shipped example documents first.")] = False,
    database: Database = Path(DATABASE),
) -> None:
    """Serve the page until Ctrl-C."""
    from app_example.serving import listen, serve_page  # fastapi and uvicorn only where a page is served

    screen = Screen()
    with _sentences(screen), _application(screen, database) as application:
        with closing(listen(host, port)) as listening:
            if examples:
                _ingest(screen, application, EXAMPLES, is_fresh=False)
            screen.line(f"Open http://{_shown(host)}:{listening.getsockname()[1]} in a browser. Ctrl-C stops.")
            serve_page(application, listening)
        screen.line("Stopped.")


@app.command()
def demo() -> None:
    """Show it all in a few seconds: two endpoints, three questions, and one endpoint failing without the other."""
    from app_example.demo import Demo

    screen = Screen()
    with _sentences(screen):
        asyncio.run(Demo(screen).run())


@app.command()
def routes(
    *,
    rules: Annotated[bool, typer.Option("--rules", help="Only print the rules, as TOML to copy.")] = False,
) -> None:
    """Show what a request says choosing who answers: twelve requests, four endpoints, rules in TOML."""
    from app_example.routing import RULES, Routes

    if rules:
        typer.echo(RULES.strip())
        return
    screen = Screen()
    with _sentences(screen):
        Routes(screen).run()


def _ingest(screen: Screen, application: Application, folder: Path, *, is_fresh: bool) -> None:
    ingesting = application.ingesting()
    plan = ingesting.plan_afresh(folder) if is_fresh else ingesting.plan(folder)
    with screen.progress("Embedding passages", len(plan.new)) as show, closing(ingesting.carry_out(plan)) as steps:
        for done in steps:
            show(done)
    screen.line(f"{len(plan.new)} passages embedded, {plan.unchanged} unchanged, {len(plan.gone)} removed.")


async def _ask(screen: Screen, application: Application, question: str) -> bool:
    """Show the answer and its sources; false where there was trouble."""
    nearby: list[Nearby] = []
    trouble = ""
    try:
        async with aclosing(application.asking().ask(question)) as told:
            async for item in told:
                match item:
                    case Sources():
                        nearby = list(item.nearby)
                    case Piece():
                        screen.piece(item.text)
                    case Trouble():
                        trouble = item.message
    finally:
        await application.llm.aclose()
    screen.line()
    if nearby:
        screen.line()
        screen.table("Sources", ("", "file", "passage"), _source_rows(nearby))
    if trouble:
        screen.error(trouble)
    return not trouble


@contextmanager
def _application(screen: Screen, database: Path, *, needs: list[str] | None = None) -> Iterator[Application]:
    """The container, with stand-ins for what it needs and nothing is set for."""
    application = Application()
    application.config.database.from_value(database)
    application.llm.env.read_dotenv()  # type: ignore[attr-defined]  # an Environment, which no stub knows down here
    missing = [function for function in unset(application) if needs is None or function in needs]
    with standing_in(application, missing) as stand_ins:
        for function, stand_in in stand_ins.items():
            screen.notice(
                f"Nothing is set for {function}: a local stand-in answers at {stand_in.base_url}. It is no language"
                f" model. Set {function.upper()}_BASE_URL or {function.upper()}_API_KEY to use a real one."
            )
        try:
            yield application
        finally:
            application.shutdown_resources()


@contextmanager
def _sentences(screen: Screen, *, stopped: str = "") -> Iterator[None]:
    """Expected failures become a sentence and an exit code."""
    try:
        yield
    except EXPECTED as error:
        screen.error(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        screen.notice(f"\nStopped. {stopped}".rstrip())
        raise typer.Exit(INTERRUPTED) from None


def _tell_who_answered(screen: Screen, journal: Journal) -> None:
    for warning in journal.warnings():
        screen.notice(f"warning: {warning}")
    if records := journal.records():
        screen.line()
        screen.table("Who answered", COLUMNS, [row_of(record) for record in records])


def _source_rows(nearby: list[Nearby]) -> list[tuple[str, str, str]]:
    return [
        (f"[{number}]", found.passage.file, found.passage.heading or found.passage.text[:60])
        for number, found in enumerate(nearby, start=1)
    ]


def _shown(host: str) -> str:
    host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104  # only shown, not listened on
    return f"[{host}]" if ":" in host else host
