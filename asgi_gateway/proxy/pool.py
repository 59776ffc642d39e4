"""The connections to one endpoint: kept alive, bounded, and never handed to two exchanges at once."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import Failure, FailureKind
from asgi_gateway.proxy.dial import Dialer
from asgi_gateway.proxy.http1 import Http1Connection, request_head
from asgi_gateway.proxy.tls import ClientTls, Tls
from asgi_gateway.proxy.transport import (
    Connections,
    Origin,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
    draining,
    overloaded,
)

_logger = logging.getLogger("asgi_gateway.proxy")


class Http1Transport:
    """Our own HTTP/1.1 client for one endpoint, and its pool.

    Idle connections are taken last in, first out, so that the ones too many grow old together and
    expire. `connections.max` bounds the whole; past it requests wait in order, at most
    `connections.max_pending` of them and no longer than the connect timeout, and fail as ``overloaded``.
    Every step takes the same time however many connections and requests there are.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        timeouts: Timeouts,
        connections: Connections,
        clock: Clock,
        tls: ClientTls | Tls | None = None,
    ) -> None:
        self._origin = origin
        self._timeouts = timeouts
        self._limits = connections
        self._max_requests = connections.max_requests or float("inf")
        self._clock = clock
        self._dialer = Dialer(origin, clock=clock, tls=tls)
        self._idle: dict[Http1Connection, None] = {}  # in the order of their release
        self._open = 0
        self._waiting: OrderedDict[asyncio.Future[Http1Connection | None], None] = OrderedDict()
        self._sweep: Timer | None = None
        self._closing = False
        self._cut = False
        self._connections: set[Http1Connection] = set()

    async def exchange(self, request: UpstreamRequest) -> Http1Connection:
        """Send a request on a pooled or a new connection.

        A pooled connection may die as it is used, because the service closed it meanwhile. Where
        not one byte came back and the request may be repeated, it is sent once more on a new
        connection and the client never knows (RFC 9112 section 9.3.1).
        """
        head = request_head(request)  # raises, so before there is a connection to be lost
        connection = self._take_idle()
        if connection is not None:
            try:
                await connection.exchange(request, head)
            except UpstreamError as error:
                stale = error.failure.kind == "reset" and connection.untouched
                await connection.aclose()
                if not (stale and request.replayable):
                    raise
                self._close_idle()
            except BaseException:
                await connection.aclose()
                raise
            else:
                return connection
        connection = await self._acquire()
        try:
            await connection.exchange(request, head)
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def warm(self) -> None:
        """Open `connections.warm` connections and keep them for the first requests.

        A service that cannot be reached yet is no error here: its first request will tell.
        """
        self._closing = False
        wanted = max(min(self._limits.warm, self._limits.max) - self._open, 0)
        failures = list(filter(None, await asyncio.gather(*(self._warm_one() for _ in range(wanted)))))
        if failures:
            message = "%s: %d of %d connections could not be opened ahead: %s"
            _logger.warning(message, self._origin.name, len(failures), wanted, failures[-1])

    async def _warm_one(self) -> UpstreamError | None:
        if self._open >= self._limits.max:  # requests took the places meanwhile
            return None
        self._open += 1
        try:
            self._released(await self._connect())
        except UpstreamError as error:
            return error
        return None

    async def aclose(self) -> None:
        """Close idle connections now, the others as their exchanges end."""
        self._closing = True
        self._close_idle()

    async def cut(self) -> None:
        """Break off every exchange and begin no more; each fails as ``draining``."""
        self._closing = self._cut = True
        for connection in list(self._connections):
            connection.cut()

    @property
    def in_flight(self) -> int:
        """Connections that serve an exchange or are being opened."""
        return self._open - len(self._idle)

    def __repr__(self) -> str:
        return (
            f"<Http1Transport {self._origin.name} {self.in_flight} in flight, "
            f"{len(self._idle)} idle, {len(self._waiting)} waiting>"
        )

    # Taking

    def _take_idle(self) -> Http1Connection | None:
        idle = self._idle
        if not idle:
            return None
        oldest = self._clock.monotonic() - self._limits.idle_expiry
        while idle:
            connection = idle.popitem()[0]
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
        self._waiting[turn] = None
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
        self._waiting.pop(turn, None)
        if turn.done() and not turn.cancelled():
            connection = turn.result()
            if connection is None:
                self._slot_freed()
            elif not connection.closed:
                self._released(connection)

    async def _connect(self) -> Http1Connection:
        """Open a connection in the slot that the caller holds."""
        if self._cut:
            self._slot_freed()
            raise draining(request_sent=False)
        loop = asyncio.get_running_loop()
        try:
            async with self._clock.timeout(self._timeouts.connect):
                connection = await self._dialer.connect(
                    lambda: Http1Connection(loop, self._clock, self._timeouts)
                )
            self._admit(connection)
        except BaseException as error:
            self._slot_freed()
            if isinstance(error, TimeoutError):
                raise _no_connection("timeout", error) from error
            if isinstance(error, OSError):
                raise _no_connection("connect", error) from error
            raise
        return connection

    def _admit(self, connection: Http1Connection) -> None:
        """Take a new connection into care, unless it comes too late or is closed already."""
        if self._cut:
            connection.abort()
            raise draining(request_sent=False)
        if connection.closed:
            raise ConnectionResetError("closed as soon as it was open")
        connection.attach(self._released, self._closed)
        self._connections.add(connection)

    # Giving back

    def _released(self, connection: Http1Connection) -> None:
        now = self._clock.monotonic()
        if connection.served >= self._max_requests or now - connection.opened_at >= self._limits.max_age:
            connection.abort()  # what waits gets its place as it closes
            return
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(connection)
                return
        if self._closing:
            connection.abort()
            return
        connection.idle_since = now
        self._idle[connection] = None
        if self._sweep is None:
            self._sweep = self._clock.call_later(self._limits.idle_expiry, self._close_expired)

    def _closed(self, connection: Http1Connection) -> None:
        self._idle.pop(connection, None)
        self._connections.discard(connection)
        self._slot_freed()

    def _slot_freed(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self._open -= 1

    def _close_expired(self) -> None:
        self._sweep = None
        oldest = self._clock.monotonic() - self._limits.idle_expiry
        expired: list[Http1Connection] = []
        for connection in self._idle:
            if connection.idle_since > oldest:
                wait = connection.idle_since - oldest
                self._sweep = self._clock.call_later(wait, self._close_expired)
                break
            expired.append(connection)
        for connection in expired:
            del self._idle[connection]
            connection.abort()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.popitem()[0].abort()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


def _no_connection(kind: FailureKind, error: OSError) -> UpstreamError:
    reason = "no connection in time" if kind == "timeout" else f"no connection: {error!r}"
    return UpstreamError(Failure(kind, "upstream", request_sent=False), reason)
