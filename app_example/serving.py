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


def serve_page(application: Application, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(create_app(application), log_level="warning", timeout_graceful_shutdown=GRACE_S)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn stops in order, then raises the signal once more
        uvicorn.Server(config).run(sockets=[listening])
