"""A narrated run: one endpoint for embeddings, two for completions; each of them fails; then their list changes.

Every claim is checked on what the container told of its attempts; the first that does not hold ends the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import openai

from app_example.application import EXAMPLES, Application
from app_example.asking import Piece, Sources, Trouble
from app_example.centre import centre
from app_example.endpoints import FUNCTIONS, StandInProcess, standing_in
from app_example.failures import AppError
from app_example.journal import COLUMNS, answered, row_of
from app_example.moving import endpoints_move
from llmwire.container import LLMWireError, overriding
from llmwire.services import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from app_example.screen import Screen
    from app_example.store import Nearby
    from llmwire.services import AttemptEnded, EndpointState
    from llmwire.services.testing import StandIn

QUESTIONS = (
    "At what wind is the goods lift stopped?",
    "What is checked after lightning strikes the hut?",
    "How long does the water in the tank last?",
)

CALLS, AT_ONCE = 300, 20  #: of the run under load: enough that some are in flight when an endpoint is killed

SHOWN_EVERY = 50

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
                await self._one_killed_under_load(run)
                await self._without_embedding(run, first)
                await self._without_completion(run)
            await self._moved(Path(folder))
        self._screen.line("\nAll of it happened as told.", style="bold green")

    @asynccontextmanager
    async def _started(self, database: Path) -> AsyncIterator[_Run]:
        application = Application()
        application.config.database.from_value(database)
        with (
            overriding(application, **{"llm.env": {}}),
            standing_in(application, ["embedding"]) as stand_ins,
            StandInProcess() as primary,
            StandInProcess() as backup,
        ):
            run = _Run(application, stand_ins["embedding"], {"primary": primary, "backup": backup})
            self._step("Three local stand-ins start: one for embeddings, two for completions. No language models.")
            for name, base_url in run.urls.items():
                self._screen.line(f"{name:<19} {base_url}", indent=INDENT)
            try:
                yield run
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
            claim = f"the {function} endpoints, and no others, served its {len(of_function)} requests"
            # One more of the asynchronous client: whether its vectors are of the space of those in the database.
            expected = len(QUESTIONS) + (function == "embedding")
            self._check(claim, len(of_function) == expected and run.all_answered(of_function, function))
        self._show_records(run)
        return outcomes[0]

    async def _one_killed_under_load(self, run: _Run) -> None:
        self._step(f"{CALLS} questions, {AT_ONCE} at a time. In mid-run the primary completion endpoint is killed.")
        run.new_attempts()
        with recorded() as calls, self._screen.progress("   Asking", CALLS) as show:
            failed = await _rush(run, show)
        answered_by = Counter(call.endpoint for call in calls)
        attempts = run.new_attempts()
        self._screen.line(
            f"{CALLS} calls: {failed} failed, {answered_by['primary']} answered by the primary, "
            f"{answered_by['backup']} by the backup, with {len(attempts)} attempts",
            indent=INDENT,
        )
        if rescued := [call for call in calls if call.is_degraded]:
            self._screen.line(f"one of them: {'; '.join(map(str, rescued[0].attempts))}", indent=INDENT, style="dim")
        self._check(f"0 of {CALLS} calls failed", failed == 0 and answered_by.total() == CALLS)
        self._check("both endpoints answered", answered_by["primary"] > 0 and answered_by["backup"] > 0)
        self._check("calls that the primary took with it were answered by the backup", bool(rescued))
        self._screen.line()
        self._screen.table("The pool", STATE_COLUMNS, [state_row(state) for state in run.pool_state()])

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
        self._step("The embedding endpoint is back, the last completion endpoint is killed. Embeddings still work.")
        run.start_embedding()
        run.stop("completion")
        outcome = await self._ask(run, QUESTIONS[1])
        attempts = run.new_attempts()
        self._check("without completions the answer fails, with a clear message", _fails(outcome, "completion"))
        self._check("its sources are found all the same", bool(outcome.nearby))
        self._check("the embedding endpoint served them", run.all_answered(_of(attempts, "embedding"), "embedding"))
        self._check("the completion endpoint did not answer", run.none_answered(attempts, "completion"))
        self._show_records(run)

    async def _moved(self, folder: Path) -> None:
        self._step("Calls are made all the time. The list of their endpoints changes meanwhile.")
        await endpoints_move(centre(folder), lambda text: self._screen.line(text, indent=INDENT), self._check)

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
    """An application over its stand-ins, and what it told of its attempts."""

    def __init__(self, application: Application, embedding: StandIn, completion: Mapping[str, StandInProcess]) -> None:
        self.application, self._embedding, self._completion = application, embedding, completion
        self.urls = {"embedding": embedding.base_url} | {
            f"completion/{name}": process.base_url for name, process in completion.items()
        }
        application.config.llm.completion.from_dict(
            {
                "model": "stand-in-completion",
                "api_key": "none",
                "endpoints": {name: {"base_url": process.base_url} for name, process in completion.items()},
            }
        )
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

    def start_embedding(self) -> None:
        self._embedding.start()

    def stop(self, name: str) -> None:
        """Stop the embedding endpoint, or kill one or all of the completion endpoints."""
        if name == "embedding":
            self._embedding.stop()
        for its_name, process in self._completion.items():
            if name in ("completion", its_name):
                process.kill()

    def pool_state(self) -> Sequence[EndpointState]:
        """What the pool of completion endpoints knows of them."""
        lane: Any = self.application.llm.completion
        state: Sequence[EndpointState] = lane.pool().snapshot()
        return state

    def new_attempts(self) -> list[AttemptEnded]:
        """The attempts since this was last asked."""
        attempts = self.application.journal().attempts()
        new, self._seen = attempts[self._seen :], len(attempts)
        return new

    def all_answered(self, attempts: list[AttemptEnded], function: str) -> bool:
        """Whether there were attempts, all of them of this function, at its own endpoint, and answered."""
        return bool(attempts) and all(
            attempt.function == function and self._is_of(function, attempt.server) and answered(attempt)
            for attempt in attempts
        )

    def _is_of(self, function: str, server: str) -> bool:
        return any(url.startswith(f"{server}/") for name, url in self.urls.items() if name.startswith(function))

    def none_answered(self, attempts: list[AttemptEnded], function: str) -> bool:
        """Whether this function's endpoint was tried, in vain."""
        tried = _of(attempts, function)
        return bool(tried) and not any(map(answered, tried))


async def _rush(run: _Run, show: Callable[[int], None]) -> int:
    """Ask many questions at once, and kill the primary in the midst of them. How many calls failed."""
    service = run.application.llm.async_completion_service()
    places = asyncio.Semaphore(AT_ONCE)
    done = failed = 0

    async def ask(number: int) -> None:
        nonlocal done, failed
        async with places:
            try:
                await service.complete(f"This is call {number}.")
            except (openai.OpenAIError, LLMWireError):
                failed += 1
            done += 1
            if done % SHOWN_EVERY == 0:
                show(done)
            if done == CALLS // 3:
                run.stop("primary")

    await asyncio.gather(*(ask(number) for number in range(CALLS)))
    return failed


STATE_COLUMNS = ("endpoint", "server", "health", "served", "failed", "last error")


def state_row(state: EndpointState) -> tuple[str, ...]:
    """The state of an endpoint as cells of a table."""
    return state.name, state.server, state.health, str(state.served), str(state.failed), state.last_error


def _of(attempts: list[AttemptEnded], function: str) -> list[AttemptEnded]:
    return [attempt for attempt in attempts if attempt.function == function]


def _is_whole(outcome: Outcome) -> bool:
    return bool(outcome.nearby and outcome.answer and not outcome.trouble)


def _fails(outcome: Outcome, function: str) -> bool:
    return f"{function} server" in outcome.trouble and not outcome.answer
