"""The connections to one endpoint: kept alive, bounded, and never handed to two exchanges at once."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import Failure, FailureKind
from asgi_gateway.proxy.http1 import Http1Connection
from asgi_gateway.proxy.transport import (
    Connections,
    Origin,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
    overloaded,
)


class Http1Transport:
    """Our own HTTP/1.1 client for one endpoint, and its pool.

    Idle connections are taken last in, first out, so that the ones too many grow old together and
    expire. `connections.max` bounds the whole; past it requests wait in order, at most
    `connections.max_pending` of them and no longer than the connect timeout, and fail as ``overloaded``.
    """

    def __init__(self, origin: Origin, *, timeouts: Timeouts, connections: Connections, clock: Clock) -> None:
        self._origin = origin
        self._timeouts = timeouts
        self._limits = connections
        self._clock = clock
        self._tls = ssl.create_default_context() if origin.tls else None
        self._idle: list[Http1Connection] = []
        self._open = 0
        self._waiting: deque[asyncio.Future[Http1Connection | None]] = deque()
        self._sweep: Timer | None = None
        self._closing = False

    async def exchange(self, request: UpstreamRequest) -> Http1Connection:
        """Send a request on a pooled or a new connection.

        A pooled connection may die as it is used, because the service closed it meanwhile. Where
        not one byte came back and the request may be repeated, it is sent once more on a new
        connection and the client never knows (RFC 9112 section 9.3.1).
        """
        connection = self._take_idle()
        if connection is not None:
            try:
                await self._send(connection, request)
            except UpstreamError as error:
                stale = error.failure.kind == "reset" and connection.untouched
                if not (stale and request.replayable):
                    raise
                self._close_idle()
            else:
                return connection
        connection = await self._acquire()
        await self._send(connection, request)
        return connection

    async def _send(self, connection: Http1Connection, request: UpstreamRequest) -> None:
        try:
            await connection.exchange(request)
        except BaseException:
            await connection.aclose()
            raise

    async def aclose(self) -> None:
        """Close idle connections now, the others as their exchanges end."""
        self._closing = True
        self._close_idle()

    @property
    def in_flight(self) -> int:
        """Connections that serve an exchange or are being opened."""
        return self._open - len(self._idle)

    def __repr__(self) -> str:
        return (
            f"<Http1Transport {self._origin.authority} {self.in_flight} in flight, "
            f"{len(self._idle)} idle, {len(self._waiting)} waiting>"
        )

    # Taking

    def _take_idle(self) -> Http1Connection | None:
        idle = self._idle
        if not idle:
            return None
        oldest = self._clock.monotonic() - self._limits.idle_expiry
        while idle:
            connection = idle.pop()
            if connection.idle_since > oldest and not connection.closed:
                return connection
            connection.abort()
        return None

    async def _acquire(self) -> Http1Connection:
        while self._open >= self._limits.max:
            connection = await self._wait_for_one()
            if connection is None:
                return await self._connect()
            if not connection.closed:
                return connection
        self._open += 1
        return await self._connect()

    async def _wait_for_one(self) -> Http1Connection | None:
        """A released connection, or None for the right to open one in place of one that closed."""
        if len(self._waiting) >= self._limits.max_pending:
            raise overloaded()
        turn: asyncio.Future[Http1Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with self._clock.timeout(self._timeouts.connect):
                return await turn
        except TimeoutError:
            self._forget(turn)
            raise overloaded() from None
        except BaseException:
            self._forget(turn)
            raise

    def _forget(self, turn: asyncio.Future[Http1Connection | None]) -> None:
        """Give back what a waiter that stopped waiting may already have been handed."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        if turn.done() and not turn.cancelled():
            connection = turn.result()
            if connection is None:
                self._slot_freed()
            else:
                self._released(connection)

    async def _connect(self) -> Http1Connection:
        """Open a connection in the slot that the caller holds."""
        loop = asyncio.get_running_loop()
        origin = self._origin
        try:
            async with self._clock.timeout(self._timeouts.connect):
                _, connection = await loop.create_connection(
                    lambda: Http1Connection(loop, self._clock, self._timeouts),
                    origin.address or origin.host,
                    origin.port,
                    ssl=self._tls,
                    server_hostname=origin.host if self._tls else None,
                )
            if connection.closed:
                raise ConnectionResetError("closed as soon as it was open")
        except BaseException as error:
            self._slot_freed()
            if isinstance(error, TimeoutError):
                raise _no_connection("timeout", error) from error
            if isinstance(error, OSError):
                raise _no_connection("connect", error) from error
            raise
        connection.attach(self._released, self._closed)
        return connection

    # Giving back

    def _released(self, connection: Http1Connection) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if self._closing:
            connection.abort()
            return
        connection.idle_since = self._clock.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._clock.call_later(self._limits.idle_expiry, self._close_expired)

    def _closed(self, connection: Http1Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        self._slot_freed()

    def _slot_freed(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._open -= 1

    def _close_expired(self) -> None:
        self._sweep = None
        oldest = self._clock.monotonic() - self._limits.idle_expiry
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.pop(0).abort()
        if self._idle:
            wait = self._idle[0].idle_since - oldest
            self._sweep = self._clock.call_later(wait, self._close_expired)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


def _no_connection(kind: FailureKind, error: OSError) -> UpstreamError:
    return UpstreamError(Failure(kind, "upstream", request_sent=False), f"no connection: {error!r}")
