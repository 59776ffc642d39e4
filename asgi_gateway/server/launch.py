"""uvicorn set up for a proxy: addresses bound before anything starts, and a clean end on a signal."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from types import FrameType
from typing import Any, Final, NoReturn

import uvicorn
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

from asgi_gateway.server.no_websocket import NoWebSocket
from asgi_gateway.server.protocol import HttpProtocol
from asgi_gateway.server.websocket import PING_INTERVAL, WebSocketLimits
from asgi_gateway.types import ASGIApp

STARTUP_FAILED = "the start-up failed, the log says why"

KEEP_ALIVE = 75
"""Seconds that an idle client connection is kept: longer than the 5 s for which the pools of common
clients keep theirs, so that it is the client who closes and no request meets a closing socket."""

DEFAULT_LIMITS = WebSocketLimits()

_ABSENT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class CannotStart(Exception):
    """The server cannot be started; the message is one line for the person who started it."""


def bind(host: str, port: int) -> list[socket.socket]:
    """A bound socket for every address of `host`; port 0 takes a free one, the same for all.

    An address of a family that the system has switched off is left out where there is another. Raises
    `CannotStart` where one is in use, forbidden or unknown.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bound(family, (address[0], chosen, *address[2:]), alone=len(found) == 1))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if absent is not None and not sockets:
            raise absent
    except OSError as error:
        close(sockets)
        raise CannotStart(f"cannot listen on {host}:{port}: {reason_of(error)}") from error
    return sockets


def _bound(family: socket.AddressFamily, address: tuple[Any, ...], *, alone: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def close(sockets: list[socket.socket]) -> None:
    """Close every socket."""
    for listener in sockets:
        listener.close()


def url_of(sockets: list[socket.socket]) -> str:
    """Where a browser on this machine finds the first of the sockets."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_config(
    app: ASGIApp,
    log_config: dict[str, Any],
    *,
    log_level: str = "info",
    websocket: WebSocketLimits = DEFAULT_LIMITS,
) -> uvicorn.Config:
    """The settings of uvicorn.

    `Server` is left to the services, and so is `Date`, which the protocol adds where it is missing.
    Forwarded headers and the access log are left to our own middlewares. ``auto`` takes uvloop
    wherever it is installed. uvicorn tells of its own start and end only where `log_level` is
    ``debug``.
    """
    return uvicorn.Config(
        app,
        loop="auto",
        http=HttpProtocol,
        ws="auto" if AutoWebSocketsProtocol is not None else NoWebSocket,
        lifespan="on",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        date_header=True,
        access_log=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE,
        ws_max_size=websocket.max_message,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=websocket.ping_timeout,
        log_config=log_config,
        log_level=uvicorn_level(log_level),
    )


def uvicorn_level(level: str) -> str:
    """How uvicorn logs where everything else logs at `level`."""
    return "warning" if level == "info" else level


def set_log_level(level: str) -> None:
    """Change what `server_config` and `log_config` have set, while it serves."""
    logging.getLogger().setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(uvicorn_level(level).upper())


def end_on_signals() -> None:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt`, which the commands take for a clean end.

    While `Server` serves it takes both itself, drains, and raises them anew when it is done.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def reason_of(error: OSError) -> str:
    """Why an address cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        return "the port is in use"
    return (error.strerror or str(error)).lower()
