"""Listening on a port and serving the page there. Knows sockets and uvicorn."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import uvicorn

from app_example.failures import AppError
from app_example.web import create_app

if TYPE_CHECKING:
    from app_example.application import Application

GRACE_S = 2  #: for answers under way when the server is told to stop; their readers can ask again


class PortError(AppError):
    """The address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortError where the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PortError(
            f"{host} port {port} cannot be used: {reason}. Choose another: --port 0 takes a free one."
        ) from error


class PageServer(uvicorn.Server):
    """Ends the events of the status page when it is told to stop: they have no end of their own to wait for."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.watch.close()  # type: ignore[union-attr]  # it is what create_app gave
        await super().shutdown(sockets)


def serve_page(application: Application, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(create_app(application), log_level="warning", timeout_graceful_shutdown=GRACE_S)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn stops in order, then raises the signal once more
        PageServer(config).run(sockets=[listening])
