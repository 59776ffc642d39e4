"""uvicorn set up for a proxy: addresses bound before anything starts, and a clean end on a signal."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from uvicorn.supervisors import Multiprocess

from asgi_gateway.server.protocol import HttpProtocol
from asgi_gateway.server.websocket import PING_INTERVAL, WebSocketLimits
from asgi_gateway.types import ASGIApp

STARTUP_FAILURE = 3
"""The exit code of a uvicorn worker whose application could not be started."""

STARTUP_FAILED = "the start-up failed, the log says why"

KEEP_ALIVE = 75
"""Seconds that an idle client connection is kept: longer than the 5 s for which the pools of common
clients keep theirs, so that it is the client who closes and no request meets a closing socket."""

DRAIN = 30
"""Seconds that requests in flight get to finish once the server is told to stop."""


DEFAULT_LIMITS = WebSocketLimits()


class CannotStart(Exception):
    """The server cannot be started; the message is one line for the person who started it."""


def bind(host: str, port: int) -> list[socket.socket]:
    """A bound socket for every address of `host`; port 0 takes a free one, the same for all.

    Raises `CannotStart` where an address is in use, forbidden or unknown.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            listener = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(found) > 1:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], chosen, *address[2:]))
            listener.set_inheritable(True)
    except OSError as error:
        close(sockets)
        raise CannotStart(f"cannot listen on {host}:{port}: {_reason(error)}") from error
    return sockets


def close(sockets: list[socket.socket]) -> None:
    """Close every socket."""
    for listener in sockets:
        listener.close()


def url_of(sockets: list[socket.socket]) -> str:
    """Where a browser on this machine finds the first of the sockets."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_config(
    app: ASGIApp | str,
    log_config: dict[str, Any],
    *,
    log_level: str = "info",
    workers: int = 1,
    websocket: WebSocketLimits = DEFAULT_LIMITS,
) -> uvicorn.Config:
    """The settings of uvicorn; an import string is called as a factory, once in each worker.

    `Server` is left to the services, and so is `Date`, which the protocol adds where it is missing.
    Forwarded headers and the access log are left to our own middlewares. ``auto`` takes uvloop
    wherever it is installed. uvicorn tells of its own start and end only where `log_level` is
    ``debug``.
    """
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        workers=workers,
        loop="auto",
        http=HttpProtocol,
        lifespan="on",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        date_header=True,
        access_log=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
        ws_max_size=websocket.max_message,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=websocket.ping_timeout,
        log_config=log_config,
        log_level="warning" if log_level == "info" else log_level,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which says when it has started and ends without an exit code of its own."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then call `on_started`."""
        await super().startup(sockets)
        if self.started:
            settle_interpreter()
            self._on_started()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop by a signal and all is drained. Raises `CannotStart`."""
        try:
            await super().serve(sockets)
        except KeyboardInterrupt:
            return
        except SystemExit as end:
            raise CannotStart(STARTUP_FAILED) from end
        except OSError as error:  # somebody else began to listen between our bind and our listen
            raise CannotStart(f"cannot listen: {_reason(error)}") from error


def worker_app() -> ASGIApp:
    """The app of one worker process: `create_app` in an interpreter set up for serving."""
    from asgi_gateway.gateway import create_app

    app = create_app()
    settle_interpreter()
    return app


def settle_interpreter() -> None:
    """Set a process that only serves up for it; measured together as a tenth of its work.

    What lives now will live on, so the garbage collector need not look at it again; requests make
    next to no cycles, so it need not look often. Log records need not say which thread and process
    wrote them, as there is but one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def run_server(config: uvicorn.Config, sockets: list[socket.socket], on_started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; returns when all is closed. Raises `CannotStart`.

    With several workers the parent only supervises them and `on_started` is called before they run.
    """
    if config.workers == 1:
        Server(config, on_started).run(sockets)
        return
    on_started()
    supervisor = Multiprocess(config, sockets)
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise CannotStart(STARTUP_FAILED)


def end_on_signals() -> None:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt`, which the commands take for a clean end.

    While uvicorn serves it takes both itself, drains, and raises them anew when it is done.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use"
    return (error.strerror or str(error)).lower()
