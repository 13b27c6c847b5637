"""Running programs as `llmwire top` sees them: reports, and a server that tells one."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

from llmwire.services import (
    AttemptEnded,
    BudgetState,
    CallEnded,
    EndpointState,
    FunctionReport,
    Meter,
    Report,
    SourceState,
    Usage,
)
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health


def attempt(endpoint: str = "primary", **changed: Any) -> AttemptEnded:
    facts: dict[str, Any] = {"status": 200, "error": None, "took_s": 0.1, "usage": Usage(input=10, output=5)}
    return AttemptEnded(
        function="completion", endpoint=endpoint, server="http://a:1", operation="chat", **{**facts, **changed}
    )


def failed_attempt(endpoint: str = "primary") -> AttemptEnded:
    return attempt(endpoint, status=None, error="ConnectError", blame="endpoint", usage=None)


def call(endpoint: str | None = "primary", error: str | None = None) -> CallEnded:
    return CallEnded(
        function="completion",
        call=1,
        operation="chat/completions",
        pool="default",
        route=None,
        endpoint=endpoint,
        server=None,
        model=None,
        reply_model=None,
        error=error,
        took_s=0.1,
        first_content_s=None,
        attempts=1,
        usage=None,
        cost=None,
    )


def state(name: str = "primary", **changed: Any) -> EndpointState:
    facts: dict[str, Any] = {
        "server": "http://a:1",
        "tier": 0,
        "health": Health.OK,
        "breaker": BreakerState.CLOSED,
        "in_flight": 0,
        "ewma_s": None,
        "paused_for_s": 0.0,
        "disabled_for_s": 0.0,
        "reason": "",
        "served": 0,
        "failed": 0,
        "last_error": "",
    }
    return EndpointState(name=name, **{**facts, **changed})


def source(name: str = "consul://a/b", **changed: Any) -> SourceState:
    facts: dict[str, Any] = {
        "version": "index 42",
        "is_cached": False,
        "taken_s": 60.0,
        "asked_s": 1.0,
        "error": None,
    }
    return SourceState(source=name, **{**facts, **changed})


def report(
    *told: Any,
    states: tuple[EndpointState, ...] = (),
    budgets: tuple[BudgetState, ...] = (),
    sources: tuple[SourceState, ...] = (),
) -> Report:
    """Of a program whose completion endpoints did these things just now."""
    meter = Meter("completion")
    for event in told:
        meter(event)
    function = FunctionReport(
        function="completion",
        figures=meter.snapshot(),
        endpoints=states or (state(),),
        budgets=budgets,
        sources=sources,
    )
    return Report(functions=(function,))


class Process:
    """Serves a report, or whatever it is given, on a port that it keeps over restarts."""

    def __init__(self, answer: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer, self.status, self.headers = answer, status, headers or {}
        self.asked: list[tuple[str, str | None]] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api/figures"

    def start(self) -> None:
        process = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                process.asked.append((self.path, self.headers.get("authorization")))
                answer = process.answer
                body = answer if isinstance(answer, bytes) else json.dumps(written(answer)).encode()
                self.send_response(process.status)
                for name, value in process.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def written(answer: Any) -> Any:
    return answer.as_dict() if isinstance(answer, Report) else answer
