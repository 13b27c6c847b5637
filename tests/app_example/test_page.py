"""The page in a real browser, over real HTTP, with a real endpoint for each function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app_example.application import EXAMPLES, Application
from app_example.endpoints import FUNCTIONS, standing_in
from app_example.web import create_app
from llmwire.container import overriding

WAIT_S = 20

pytestmark = pytest.mark.browser


@pytest.fixture
def running(database, serving) -> Iterator[tuple[str, dict, Application]]:
    """The page over the shipped documents: its URL, the two stand-ins, the application."""
    application = Application()
    application.config.database.from_value(database)
    with standing_in(application, list(FUNCTIONS)) as stand_ins, ExitStack() as after:
        after.callback(application.shutdown_resources)
        after.callback(application.unwire)
        ingesting = application.ingesting()
        list(ingesting.carry_out(ingesting.plan(EXAMPLES)))
        with serving(create_app(application)) as url:
            yield url, stand_ins, application


@pytest.fixture
def page(browser, running):
    return Page(browser, *running)


class Page:
    """What a person does with the page and sees on it."""

    def __init__(self, browser, url, stand_ins, application) -> None:
        self._browser, self.stand_ins, self.application = browser, stand_ins, application
        browser.get(url)

    def type(self, question: str) -> None:
        """The question and Enter."""
        box = self._one("#question")
        box.clear()
        box.send_keys(question, "\n")

    def stop(self) -> None:
        assert self._one("#button").text == "Stop"
        self._one("#button").click()

    def ask(self, question: str) -> None:
        """Type the question and wait until the answer is whole."""
        asked = self.status_loads
        self.type(question)
        self.until(lambda: self._one("#button").text == "Ask" and self._one("#asked").text == question)
        self.until(lambda: self.status_loads > asked)

    @property
    def status_loads(self) -> int:
        script = "return performance.getEntriesByType('resource').filter(r => r.name.endsWith('/api/status')).length"
        return self._browser.execute_script(script)

    @property
    def answer(self) -> str:
        return self._one("#answer").text

    @property
    def trouble(self) -> str:
        return self._one("#trouble").text

    @property
    def sources(self) -> list[str]:
        return [source.text for source in self._all("#sources summary")]

    def open_source(self, number: int) -> str:
        """Its text, after a click on it."""
        self._one(f"#source-{number} summary").click()
        return self._one(f"#source-{number} .text").text

    def corner(self, function: str) -> str:
        return self._one(f"#endpoints [data-function={function}]").text

    def until(self, condition) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._browser, WAIT_S, poll_frequency=0.02).until(lambda _: condition())

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self._browser.get_log("browser")]

    def _one(self, selector: str):
        return self._browser.find_element("css selector", selector)

    def _all(self, selector: str):
        return self._browser.find_elements("css selector", selector)


def test_a_person_asks_and_sees_answer_sources_and_who_answered(page):
    page.ask("At what wind is the goods lift stopped?")

    assert "60 kilometres an hour" in page.answer
    assert page.sources[0].split("\n") == ["1", "The goods lift > Wind and ice", "goods-lift.md"]
    assert "quarter of an hour" in page.open_source(1)
    for function in FUNCTIONS:
        server = page.stand_ins[function].base_url.removesuffix("/v1")
        assert server in page.corner(function)
        assert "200 OK" in page.corner(function)
    assert "1 answered" in page.corner("completion")

    page.stand_ins["completion"].stop()
    page.ask("What is checked after lightning strikes the hut?")

    assert page.answer == ""
    assert "completion server" in page.trouble
    assert "The passages below were found all the same." in page.trouble
    assert "If lightning strikes the hut" in page.sources[0]
    assert "no answer" in page.corner("completion")

    page.stand_ins["completion"].start()
    page.stand_ins["embedding"].stop()
    page.ask("<b>How long</b> does the water in the tank last?")

    assert page.sources == []
    assert "embedding server" in page.trouble
    assert page.complaints() == []


def test_a_person_stops_an_answer_and_the_model_stops_too(page, endless):
    with overriding(page.application, **{"llm.async_completion_service": endless}):
        page.type("How long does the water in the tank last?")
        page.until(lambda: page.answer == "Once")
        page.stop()
        page.until(lambda: page.trouble == "Stopped.")
        assert endless.closed.wait(timeout=WAIT_S)

    page.ask("At what wind is the goods lift stopped?")

    assert "60 kilometres an hour" in page.answer
    assert page.trouble == ""
