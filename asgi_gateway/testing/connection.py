"""One connection to a test's service, as its handler holds it: bytes out, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from asgi_gateway.testing.received import LIMIT, Request
from asgi_gateway.types import Header

if TYPE_CHECKING:
    from asgi_gateway.testing.upstream import Upstream


class Connection(asyncio.Protocol):
    """One connection from a client, as a handler holds it. `number` counts from 1."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.reader = asyncio.StreamReader(limit=LIMIT)
        self.request: Request | None = None
        self.number = 0
        self.closed = asyncio.Event()
        self.lost = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._hung_up = False
        self._writable = asyncio.Event()
        self._writable.set()

    async def respond(
        self,
        status: int = 200,
        headers: Iterable[Header] = (),
        body: bytes = b"",
        *,
        reason: str | None = None,
    ) -> None:
        """A whole answer. Content-Length is added where the headers frame no body; HEAD gets no body."""
        pairs = list(headers)
        names = {name.lower() for name, _ in pairs}
        if names.isdisjoint({b"content-length", b"transfer-encoding"}) and status not in (204, 304):
            pairs.append((b"Content-Length", b"%d" % len(body)))
        bodiless = self.request is not None and self.request.method == "HEAD"
        await self.write(_head(status, pairs, reason) + (b"" if bodiless else body))
        if any(name.lower() == b"connection" and b"close" in value.lower() for name, value in pairs):
            self.close()

    async def send_head(
        self, status: int = 200, headers: Iterable[Header] = (), reason: str | None = None
    ) -> None:
        """A status line and headers, nothing added; also for interim answers (1xx)."""
        await self.write(_head(status, headers, reason))

    async def send_chunk(self, data: bytes) -> None:
        """One chunk of a chunked body; an empty one ends it."""
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def write(self, raw: bytes) -> None:
        """Any bytes; waits while the client does not read, raises `ConnectionError` once it has left."""
        if self.closed.is_set() or self.transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self.transport.write(raw)
        await self._writable.wait()
        if self.lost.is_set():
            raise ConnectionResetError("the connection is closed")

    async def pause(self, seconds: float) -> None:
        """Wait so long; raises `ConnectionError` at once when the client leaves."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closed.wait()
            raise ConnectionResetError("the client left")

    async def hang(self) -> None:
        """Read and drop whatever comes, say nothing, until the client leaves."""
        if self.request is not None:
            while await self.request.read():
                pass
        while await self.reader.read(LIMIT):
            pass

    def pause_reading(self) -> None:
        """Take nothing more from the socket; a client that leaves is then not noticed either."""
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self.transport.resume_reading()

    def close(self) -> None:
        """Send what was written, then FIN."""
        self._hung_up = True
        self.transport.close()

    def reset(self) -> None:
        """RST, at once: the client's next read or write fails with a connection reset."""
        self._hung_up = True
        handle = self.transport.get_extra_info("socket")
        with socket.fromfd(handle.fileno(), handle.family, handle.type) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.reader.set_transport(self.transport)
        self.number = self.upstream.opened(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self.task.add_done_callback(self._forget)

    def data_received(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def eof_received(self) -> None:
        self.reader.feed_eof()  # a client that half-closes counts as gone
        self._left()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self.reader.feed_eof()
        else:
            self.reader.set_exception(error)
        self.lost.set()
        self._writable.set()
        self._left()
        self._forget()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _left(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self.upstream.left()

    def _forget(self, _: object = None) -> None:
        if self.lost.is_set() and (self.task is None or self.task.done()):
            self.upstream.live.discard(self)

    async def _serve(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                self.request = request
                self.upstream.arrived(request)
                await self._handle(request)
                if request.wants_close or request.ended != "complete" or self._hung_up:
                    return
        except Exception as error:  # noqa: BLE001 - a mistake in a handler; raised where the upstream ends
            self.upstream.errors.append(error)
        finally:
            self.transport.close()

    async def _handle(self, request: Request) -> None:
        with contextlib.suppress(ConnectionError):  # what became of the request is on the request
            await self.upstream.handler(request, self)
        with contextlib.suppress(ConnectionError):
            while not self._hung_up and await request.read():
                pass
        self.upstream.changed()

    async def _next_request(self) -> Request | None:
        try:
            return await Request.arriving(self)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if getattr(error, "partial", b""):
                self.upstream.malformed.append(repr(error))
        except (asyncio.LimitOverrunError, ValueError) as error:
            self.upstream.malformed.append(repr(error))
        return None


Handler: TypeAlias = Callable[[Request, Connection], Awaitable[None]]


def _head(status: int, headers: Iterable[Header], reason: str | None) -> bytes:
    if reason is None:
        reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    lines = [b"HTTP/1.1 %d %b" % (status, reason.encode("latin-1"))]
    lines += [b"%b: %b" % pair for pair in headers]
    return b"\r\n".join([*lines, b"", b""])
