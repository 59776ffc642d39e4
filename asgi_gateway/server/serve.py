"""uvicorn's server as a gateway needs it: told when it started, and gone without losing a request.

The end, once a signal came:

1. At once: not ready any more, and every answer says ``Connection: close``, so that clients which keep
   connections leave. With SIGTERM new connections are accepted for ``shutdown.accept_grace`` all the same.
2. Nothing new is accepted. What the system had accepted already is taken over first, because closing a
   listening socket resets it. WebSockets to services are closed (1001).
3. A connection without a request stays for `FAREWELL`, in case one is on its way.
4. Requests in progress have until ``shutdown.drain_timeout`` is over; then they are broken off. Streams may
   be given less, ``shutdown.stream_timeout``, because they may never end.

A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import FrameType
from typing import Final, Protocol

import uvicorn

from asgi_gateway.clock import SystemClock
from asgi_gateway.config import Shutdown
from asgi_gateway.server.launch import STARTUP_FAILED, CannotStart, reason_of
from asgi_gateway.server.protocol import HttpProtocol
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

FAREWELL: Final = 1.0
"""Seconds that a connection without a request gets for its last one, and a WebSocket to be closed by both."""

_TICK: Final = 0.05


class Leaving(Protocol):
    """What is told of the end of the process: the gateway."""

    def drain(self) -> None:
        """Not ready from now on; must be short and wait for nothing."""

    def end_websockets(self) -> None:
        """Close what would not end by itself."""


class Server(uvicorn.Server):
    """Serve one app. `on_started` is called once it listens; `beside` runs from then on until the end begins.

    `gateway` is told of the end, which goes by what `shutdown` says when it comes.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[], None],
        *,
        gateway: Leaving | None = None,
        shutdown: Callable[[], Shutdown] = Shutdown,
        beside: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._gateway = gateway
        self._shutdown = shutdown
        self._beside = beside
        self._running = AsyncExitStack()
        self._clock = SystemClock()
        self._leaving = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then call `on_started`."""
        await super().startup(sockets)
        if self.started:
            if self._beside is not None:
                await self._running.enter_async_context(self._beside)
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
            raise CannotStart(f"cannot listen: {reason_of(error)}") from error

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second signal ends at once."""
        if self.should_exit:
            self.force_exit = True
        super().handle_exit(sig, frame)
        self._leave()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as the head of this file says."""
        self._leave()
        options = self._shutdown()
        await self._running.aclose()
        if self._captured_signals[:1] == [signal.SIGTERM]:
            await self._wait(options.accept_grace, lambda: False)
        await self._stop_listening(sockets or [])
        if self._gateway is not None:
            self._gateway.end_websockets()
        if options.stream_timeout is not None:
            self._clock.call_later(options.stream_timeout, self._end_streams)
        farewell = min(FAREWELL, options.drain_timeout)
        until = self._clock.monotonic() + options.drain_timeout
        await self._wait(farewell, self._all_busy)
        left = max(until - self._clock.monotonic(), 0)
        self.config.timeout_graceful_shutdown = left  # type: ignore[assignment] # any number will do
        await super().shutdown(sockets)

    def _leave(self) -> None:
        """Have balancers and clients go elsewhere. Called as a signal comes in, so it only assigns."""
        if self._leaving:
            return
        self._leaving = True
        if self.config.loaded:
            self.config.loaded_app = said_to_be_last(self.config.loaded_app)
        if self._gateway is not None:
            self._gateway.drain()

    async def _wait(self, seconds: float, over: Callable[[], bool]) -> None:
        """Until that time has passed, or it is over, or somebody insists."""
        until = self._clock.monotonic() + seconds
        while not self.force_exit and not over() and self._clock.monotonic() < until:
            await self._clock.sleep(_TICK)

    def _all_busy(self) -> bool:
        """Whether every connection that is left has a request in progress."""
        return all(isinstance(one, HttpProtocol) and not one.idle for one in self.server_state.connections)

    def _end_streams(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.end_stream()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Close the listening sockets by way of duplicates: only those close when they are told to."""
        listeners = [listener.dup() for listener in sockets]
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        await self._clock.sleep(_TICK)  # until the event loop has let go of them
        for listener in listeners:
            accepted = list(_accepted(listener))
            listener.close()
            await asyncio.gather(*map(self._take, accepted))

    async def _take(self, accepted: socket.socket) -> None:
        """Serve a connection that the system has accepted."""
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: HttpProtocol(self.config, self.server_state, self.lifespan.state), accepted
        )


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Every connection that waits to be taken."""
    listener.settimeout(0)
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # none is left
            return
        connection.settimeout(0)
        yield connection


def said_to_be_last(app: ASGIApp) -> ASGIApp:
    """The app, each of whose answers ends the connection (RFC 9112 section 9.6)."""

    async def last(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, send_last if scope["type"] == "http" else send)

    return last


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
