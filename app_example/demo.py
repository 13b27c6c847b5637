"""A narrated run: two endpoints, three questions, and each endpoint failing without the other.

Every claim is checked on what the container told of its attempts; the first that does not hold ends the run.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from app_example.application import EXAMPLES, Application
from app_example.asking import Piece, Sources, Trouble
from app_example.endpoints import FUNCTIONS, standing_in
from app_example.failures import AppError
from app_example.journal import COLUMNS, answered, row_of
from llmwire.container import overriding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from app_example.screen import Screen
    from app_example.store import Nearby
    from llmwire.services import AttemptEnded
    from llmwire.services.testing import StandIn

QUESTIONS = (
    "At what wind is the goods lift stopped?",
    "What is checked after lightning strikes the hut?",
    "How long does the water in the tank last?",
)

INDENT = 3  #: what belongs to a step stands behind its number


class DemoError(AppError):
    """Something did not happen as told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a question."""

    nearby: Sequence[Nearby]
    answer: str
    trouble: str


class Demo:
    """The run, in a temporary database. Uses stand-ins alone, whatever the environment says."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._steps = 0

    async def run(self) -> None:
        """Raises DemoError where something did not happen as told."""
        with TemporaryDirectory(prefix="ask-your-documents-") as folder:
            database = Path(folder) / "documents.sqlite"
            async with self._started(database) as run:
                self._ingest(run)
                first = await self._ask_all(run)
                await self._without_embedding(run, first)
                await self._without_completion(run)
        self._screen.line("\nAll of it happened as told.", style="bold green")

    @asynccontextmanager
    async def _started(self, database: Path) -> AsyncIterator[_Run]:
        application = Application()
        application.config.database.from_value(database)
        with overriding(application, **{"llm.env": {}}), standing_in(application, list(FUNCTIONS)) as stand_ins:
            self._step("Two local stand-ins start, one for each function. They are no language models.")
            for function in FUNCTIONS:
                self._screen.line(f"{function:<11} {stand_ins[function].base_url}", indent=INDENT)
            try:
                yield _Run(application, stand_ins)
            finally:
                await application.llm.aclose()
                application.shutdown_resources()

    def _ingest(self, run: _Run) -> None:
        self._step("The handbook of a mountain hut is ingested through the embedding endpoint.")
        ingesting = run.application.ingesting()
        plan = ingesting.plan(EXAMPLES)
        with self._screen.progress("   Embedding passages", len(plan.new)) as show:
            for done in ingesting.carry_out(plan):
                show(done)
        attempts = run.new_attempts()
        with run.application.store() as store:
            self._check(f"{len(plan.new)} passages are in the database", store.count() == len(plan.new) > 0)
        self._check("the embedding endpoint gave every vector", run.all_answered(attempts, "embedding"))
        self._check("the completion endpoint was not asked", not _of(attempts, "completion"))

    async def _ask_all(self, run: _Run) -> Outcome:
        self._step("Questions are answered through the completion endpoint.")
        outcomes = [await self._ask(run, question) for question in QUESTIONS]
        attempts = run.new_attempts()
        self._screen.line()
        self._check("every question has an answer with sources", all(map(_is_whole, outcomes)))
        for function in FUNCTIONS:
            of_function = _of(attempts, function)
            claim = f"the {function} endpoint, and no other, served its {len(of_function)} requests"
            self._check(claim, len(of_function) == len(QUESTIONS) and run.all_answered(of_function, function))
        self._show_records(run)
        return outcomes[0]

    async def _without_embedding(self, run: _Run, earlier: Outcome) -> None:
        self._step("The embedding endpoint is stopped. Completions still work.")
        run.stop("embedding")
        outcome = await self._ask(run, QUESTIONS[0])
        attempts = run.new_attempts()
        self._check("without embeddings a question fails, with a clear message", _fails(outcome, "embedding"))
        self._check("the embedding endpoint did not answer", run.none_answered(attempts, "embedding"))

        self._screen.line("The passages found before are given to the completion endpoint again:", indent=INDENT)
        asking = run.application.asking()
        async with aclosing(asking.answer(QUESTIONS[0], earlier.nearby)) as pieces:
            answer = "".join([piece async for piece in pieces])
        self._screen.line(answer, indent=INDENT, style="cyan")
        self._check("the completion answers as before", answer == earlier.answer != "")
        self._check("the completion endpoint served it", run.all_answered(run.new_attempts(), "completion"))
        self._show_records(run)

    async def _without_completion(self, run: _Run) -> None:
        self._step("The embedding endpoint is back, the completion endpoint is stopped. Embeddings still work.")
        run.start("embedding")
        run.stop("completion")
        outcome = await self._ask(run, QUESTIONS[1])
        attempts = run.new_attempts()
        self._check("without completions the answer fails, with a clear message", _fails(outcome, "completion"))
        self._check("its sources are found all the same", bool(outcome.nearby))
        self._check("the embedding endpoint served them", run.all_answered(_of(attempts, "embedding"), "embedding"))
        self._check("the completion endpoint did not answer", run.none_answered(attempts, "completion"))
        self._show_records(run)

    async def _ask(self, run: _Run, question: str) -> Outcome:
        self._screen.line()
        self._screen.line(question, indent=INDENT, style="bold")
        outcome = await run.ask(question)
        if outcome.answer:
            self._screen.line(outcome.answer, indent=INDENT, style="cyan")
        for number, found in enumerate(outcome.nearby, start=1):
            source = f"[{number}] {found.passage.file}: {found.passage.heading}"
            self._screen.line(source, indent=INDENT + 2, style="dim")
        if outcome.trouble:
            self._screen.line(outcome.trouble, indent=INDENT, style="red")
        return outcome

    def _step(self, text: str) -> None:
        self._steps += 1
        self._screen.line(f"\n{self._steps}. {text}", style="bold")

    def _check(self, claim: str, is_true: bool) -> None:  # a claim and its truth
        if not is_true:
            raise DemoError(f"This did not happen: {claim}.")
        self._screen.line(f"ok: {claim}", indent=INDENT, style="green")

    def _show_records(self, run: _Run) -> None:
        self._screen.line()
        self._screen.table("Who answered", COLUMNS, [row_of(record) for record in run.application.journal().records()])


class _Run:
    """An application over two stand-ins, and what it told of its attempts."""

    def __init__(self, application: Application, stand_ins: Mapping[str, StandIn]) -> None:
        self.application, self._stand_ins = application, stand_ins
        self._urls = {function: stand_in.base_url for function, stand_in in stand_ins.items()}
        self._seen = 0

    async def ask(self, question: str) -> Outcome:
        nearby: Sequence[Nearby] = ()
        answer = trouble = ""
        async with aclosing(self.application.asking().ask(question)) as told:
            async for item in told:
                match item:
                    case Sources():
                        nearby = item.nearby
                    case Piece():
                        answer += item.text
                    case Trouble():
                        trouble = item.message
        return Outcome(nearby=nearby, answer=answer, trouble=trouble)

    def start(self, function: str) -> None:
        self._stand_ins[function].start()

    def stop(self, function: str) -> None:
        self._stand_ins[function].stop()

    def new_attempts(self) -> list[AttemptEnded]:
        """The attempts since this was last asked."""
        attempts = self.application.journal().attempts()
        new, self._seen = attempts[self._seen :], len(attempts)
        return new

    def all_answered(self, attempts: list[AttemptEnded], function: str) -> bool:
        """Whether there were attempts, all of them of this function, at its own endpoint, and answered."""
        return bool(attempts) and all(
            attempt.function == function and self._urls[function].startswith(f"{attempt.server}/") and answered(attempt)
            for attempt in attempts
        )

    def none_answered(self, attempts: list[AttemptEnded], function: str) -> bool:
        """Whether this function's endpoint was tried, in vain."""
        tried = _of(attempts, function)
        return bool(tried) and not any(map(answered, tried))


def _of(attempts: list[AttemptEnded], function: str) -> list[AttemptEnded]:
    return [attempt for attempt in attempts if attempt.function == function]


def _is_whole(outcome: Outcome) -> bool:
    return bool(outcome.nearby and outcome.answer and not outcome.trouble)


def _fails(outcome: Outcome, function: str) -> bool:
    return f"{function} server" in outcome.trouble and not outcome.answer
