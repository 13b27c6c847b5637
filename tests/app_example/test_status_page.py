"""The status page in a real browser: real traffic to two endpoints, of which one is killed while somebody looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app_example.application import Application
from app_example.web import create_app
from llmwire.services.testing import StandIn

WAIT_S = 20

pytestmark = pytest.mark.browser


@pytest.fixture
def servers() -> Iterator[dict[str, StandIn]]:
    with ExitStack() as running:
        yield {name: running.enter_context(StandIn(functions=("completion",))) for name in ("primary", "backup")}


@pytest.fixture
def source(tmp_path) -> Path:
    """A file that the application watches."""
    file = tmp_path / "live.toml"
    file.write_text('completion.strategy = "in-order"')
    return file


@pytest.fixture
def application(database, servers, source) -> Iterator[Application]:
    """Asks `primary`, and `backup` where that fails. Only what `primary` does has a price."""
    made = Application()
    made.config.database.from_value(database)
    endpoints = {name: {"base_url": server.base_url, "api_key": "none"} for name, server in servers.items()}
    endpoints["primary"] |= {"price": "1000/2000", "budget": "1/day"}
    completion = {"source": str(source), "model": "m", "endpoints": endpoints, "budget": "9000000 tokens/day"}
    made.config.llm.from_dict({"completion": completion})
    yield made
    made.shutdown_resources()
    made.unwire()


@pytest.fixture
def page(browser, application, serving) -> Iterator[StatusPage]:
    with serving(create_app(application)) as url:
        yield StatusPage(browser, application, url)
        browser.get("about:blank")


class StatusPage:
    """What a person sees on the page, and the application whose endpoints it is of."""

    def __init__(self, browser, application, url) -> None:
        self._browser, self._application = browser, application
        browser.get(f"{url}/status")

    def ask(self, times: int) -> None:
        message = {"role": "user", "content": "Which way is up?"}
        for _ in range(times):
            self._application.llm.completion_client().chat.completions.create(model="m", messages=[message])

    @property
    def connection(self) -> str:
        return self._one("#connection").text

    def endpoint(self, name: str) -> dict[str, str]:
        """What its row says, by the names of its cells."""
        cells = self._all(f"[data-endpoint={name}] .figure")
        told = {cell.get_attribute("data-name"): cell.text for cell in cells}
        for part in ("endpoint", "health", "breaker"):
            told[part] = self._one(f"[data-endpoint={name}] .{part}").text
        return told

    def has(self, name: str) -> bool:
        return bool(self._all(f"[data-endpoint={name}]"))

    def health(self, name: str) -> str:
        return self._one(f"[data-endpoint={name}] .words").text

    def drawn(self, name: str, shape: str) -> int:
        """How many of those shapes are in its plot."""
        return len(self._all(f"[data-endpoint={name}] svg {shape}"))

    def plot_in_words(self, name: str) -> str:
        return self._one(f"[data-endpoint={name}] svg").get_attribute("aria-label")

    @property
    def announced(self) -> str:
        return self._one("#changes").get_property("textContent")

    @property
    def emptiness(self) -> str:
        return self._one("#empty").text

    @property
    def budgets(self) -> list[str]:
        return [budget.text.replace("\n", ": ") for budget in self._all(".budgets li")]

    @property
    def sources(self) -> list[str]:
        return [source.text.replace("\n", ": ") for source in self._all(".sources li")]

    def mark(self) -> None:
        """Leave something on the page that a reload would take away."""
        self._browser.execute_script("document.title = 'the same page'")

    @property
    def is_marked(self) -> bool:
        return self._browser.title == "the same page"

    @property
    def is_wider_than_the_window(self) -> bool:
        return self._browser.execute_script("return document.documentElement.scrollWidth > innerWidth")

    def as_on_a_phone(self) -> None:
        metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        self._browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def heard(self, name: str) -> tuple[str, str, set[str]]:
        """What a screen reader is told of an endpoint's table, of its name, of its figures."""
        table, figures = self._one("table"), self._all(f"[data-endpoint={name}] .figure")
        named = f"{table.aria_role} {table.accessible_name.lower()}"
        return named, self._one(f"[data-endpoint={name}] .endpoint").aria_role, {cell.aria_role for cell in figures}

    def until(self, condition) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._browser, WAIT_S, poll_frequency=0.02).until(lambda _: condition())

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self._browser.get_log("browser")]

    def _one(self, selector: str):
        return self._browser.find_element("css selector", selector)

    def _all(self, selector: str):
        return self._browser.find_elements("css selector", selector)


def test_an_endpoint_that_is_killed_is_shown_as_down_while_somebody_looks(page, servers):
    page.until(lambda: page.connection == "Live")
    page.mark()
    page.ask(3)
    page.until(lambda: page.has("primary") and page.endpoint("primary")["Calls"] == "3")
    well = page.endpoint("primary")

    servers["primary"].stop()
    page.ask(30)
    page.until(lambda: page.health("primary") in ("down", "on trial"))
    page.until(lambda: page.endpoint("backup")["Calls"] == "30")

    assert well["health"] == "well"
    assert well["breaker"] == "closed"
    assert float(well["Cost"]) > 0
    assert "ConnectError" in page.endpoint("primary")["health"]
    assert "ConnectError" in page.endpoint("primary")["Failed attempts"]
    assert page.endpoint("primary")["breaker"] in ("open", "half-open")
    assert page.announced.startswith("completion, primary: ")
    assert page.health("backup") == "well"
    assert page.endpoint("backup")["Cost"] == "unknown"
    assert page.drawn("primary", ".failure") >= 1
    assert page.drawn("backup", "circle, path.p50") >= 1
    assert "p50 from" in page.plot_in_words("backup")
    assert page.is_marked
    assert page.complaints() == []


def test_budgets_are_shown_with_what_is_spent(page):
    page.ask(2)
    page.until(lambda: len(page.budgets) == 2)

    tokens, money = sorted(page.budgets, reverse=True)
    assert tokens.startswith("9000000 tokens/day, all calls")
    assert " of 9,000,000, begins anew in " in tokens
    assert money.startswith("1/day, endpoint primary")


def test_a_source_is_shown_with_what_is_in_force_and_what_is_wrong_with_it(page, source):
    page.ask(1)
    page.until(lambda: page.sources and "in force for" in page.sources[0])
    [well] = page.sources

    source.write_text('completion.strategy = "no such"')
    page.until(lambda: "no such" in page.sources[0])

    assert well.startswith(f"{source.as_uri()}: ")
    assert "in force for" in page.sources[0]
    assert page.complaints() == []


def test_without_traffic_the_page_says_so(page):
    page.until(lambda: page.emptiness.startswith("No endpoint has been asked yet."))

    assert page.complaints() == []


def test_it_fits_on_a_phone_and_stays_a_table_for_who_hears_it(page):
    page.as_on_a_phone()
    page.ask(2)
    page.until(lambda: page.has("primary") and page.drawn("primary", "circle, path.p50") >= 1)

    assert not page.is_wider_than_the_window
    assert page.heard("primary") == ("table completion", "rowheader", {"cell"})


def test_a_lost_connection_is_told_and_comes_back_by_itself(browser, application, serving):
    with serving(create_app(application)) as url:
        page = StatusPage(browser, application, url)
        page.ask(1)
        page.until(lambda: page.has("primary") and page.endpoint("primary")["Calls"] == "1")
        page.mark()
    page.until(lambda: page.connection.startswith("Connection lost"))

    port = int(url.rpartition(":")[2])
    with serving(create_app(application), port=port):
        page.until(lambda: page.connection == "Live")

        assert page.is_marked
        assert not page.has("primary")  # as after a restart, which begins to count anew
        page.ask(1)
        page.until(lambda: page.has("primary") and page.endpoint("primary")["Calls"] == "1")
