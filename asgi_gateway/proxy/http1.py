"""One HTTP/1.1 connection to a service.

A connection serves one exchange at a time and passes through these steps:

    idle -> sending -> head -> body -> complete -> idle again, or closed

The rules, all kept in this file; how an answer is read is `AnswerReader`'s:

- One waiter at most: the exchange that owns the connection. It is woken once for a whole segment.
- What arrives while nobody has asked is somebody else's: the connection is closed, the bytes reach
  nobody (RFC 9112 section 6.3).
- A connection goes back to the pool only if its answer ended where its framing says, its request
  was sent whole, and nothing followed. In every other case it is broken off.
- A request whose upload fails is never finished: no last chunk, no missing bytes made up.
- Reading stops while more than `BUFFER` bytes wait for the client; writing waits for the service.
- One timer a connection, moved rather than made anew: it wakes up, looks whether its time has
  really come, and goes back to sleep if not. Another, for as long as an upload waits for the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import Failure, FailureKind
from asgi_gateway.proxy.answer import AnswerReader
from asgi_gateway.proxy.last_words import last_words
from asgi_gateway.proxy.transport import (
    MalformedRequest,
    OnEarlyHints,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
    draining,
)
from asgi_gateway.types import Headers

if TYPE_CHECKING:
    from asyncio import Future, Task

BUFFER = 64 * 1024
"""Bytes of an answer that may wait for a slow client before the service is paused."""


def request_head(request: UpstreamRequest) -> bytes:
    """The request line and header section, framed afresh (RFC 9112 sections 3 and 6).

    Raises `MalformedRequest` where a byte of it would end a line early: what a lenient server in front
    let through must not become a second header or a second request.
    """
    lines = [b"%b %b HTTP/1.1" % (request.method, request.target), *map(b": ".join, request.headers)]
    body = request.body
    if body is None:
        pass
    elif isinstance(body, bytes):
        lines.append(b"content-length: %d" % len(body))
    else:
        lines.append(
            b"transfer-encoding: chunked"
            if request.length is None
            else b"content-length: %d" % request.length
        )
    if request.trailers:
        lines += [b"te: trailers", b"connection: te"]
    head = b"\r\n".join(lines)
    if head.count(b"\n") >= len(lines) or head.count(b"\r") >= len(lines) or 0 in head:
        raise MalformedRequest("a control character in the request target or a header")
    return head + b"\r\n\r\n"


class Http1Connection(AnswerReader, asyncio.Protocol):
    """A connection and, from `exchange` to its release, the answer that arrives on it."""

    __slots__ = (
        "_clock",
        "_drained",
        "_due",
        "_error",
        "_loop",
        "_on_closed",
        "_on_released",
        "_owned",
        "_paused_reading",
        "_paused_writing",
        "_sent_whole",
        "_timeouts",
        "_timer",
        "_timer_due",
        "_transport",
        "_upload",
        "_waiter",
        "closed",
        "idle_since",
        "opened_at",
        "served",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        super().__init__()
        self.opened_at = clock.monotonic()
        self.served = 0
        self.idle_since = 0.0
        self.closed = False
        self._loop = loop
        self._clock = clock
        self._timeouts = timeouts
        self._on_released: Callable[[Http1Connection], None] | None = None
        self._on_closed: Callable[[Http1Connection], None] | None = None
        self._transport: Any = None
        self._owned = False
        self._error: Exception | None = None
        self._waiter: Future[None] | None = None
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._due: float | None = None
        self._paused_reading = False
        self._paused_writing = False
        self._drained: Future[None] | None = None
        self._upload: Task[None] | None = None
        self._sent_whole = False

    def attach(
        self,
        on_released: Callable[[Http1Connection], None],
        on_closed: Callable[[Http1Connection], None],
    ) -> None:
        """Put the connection under a pool's care: told once of every release and of the end."""
        self._on_released = on_released
        self._on_closed = on_closed

    # The exchange

    async def exchange(self, request: UpstreamRequest, head: bytes) -> None:
        """Send the request, `head` first, and return when the head of its answer is here."""
        on_early_hints = request.on_early_hints
        self._begin_exchange(request)
        body = request.body
        if body is None or isinstance(body, bytes):
            self._transport.write(head + body if body else head)
            self._sent_whole = True
            self._expect_within(self._timeouts.first_byte)
        else:
            self._transport.write(head)
            self._sent_whole = False
            self._upload = self._loop.create_task(self._send_body(body, chunked=request.length is None))
        while not self.status:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
            if on_early_hints is not None and self._early_hints:
                await self._pass_on_hints(self._early_hints, on_early_hints)

    def _begin_exchange(self, request: UpstreamRequest) -> None:
        self._begin_answer(is_head=request.method == b"HEAD", wants_hints=request.on_early_hints is not None)
        self._owned = True
        self._error = None
        self.served += 1

    async def _pass_on_hints(self, hints: list[Headers], on_early_hints: OnEarlyHints) -> None:
        while hints:
            await on_early_hints(hints.pop(0))

    def take(self) -> tuple[bytes, bool] | None:
        """The body that has arrived, and whether more follows; None where that has to be awaited."""
        chunks = self._chunks
        if not chunks:
            return (b"", False) if self._complete else None
        self._chunks = []
        self._buffered = 0
        if self._paused_reading:
            self._paused_reading = False
            self._transport.resume_reading()
            self._expect_within(self._timeouts.idle)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks), not self._complete

    async def read(self) -> tuple[bytes, bool]:
        """The body that has arrived, or the next that does; with it, whether more follows."""
        while (taken := self.take()) is None:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
        return taken

    def release(self) -> bool:
        """Back to the pool, if both messages ended well; False where the exchange has to be broken off."""
        if not (self._complete and self._keep_alive and self._sent_whole and self._owned) or self.closed:
            return False
        self._owned = False
        self._due = None
        self._upload = None
        if self._on_released is None:
            return False
        self._on_released(self)
        return True

    async def aclose(self) -> None:
        """End the exchange: back to the pool if both messages ended well, else broken off."""
        if not self._owned or self.release():
            return
        self._due = None
        self.abort()
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
            await asyncio.wait([self._upload])

    def abort(self) -> None:
        """Close at once, without flushing."""
        self._owned = False
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Break the exchange off; it fails as ``draining``."""
        self.closed = True
        self._fail(draining(request_sent=True))

    # Sending a body

    async def _send_body(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        write = self._transport.write
        try:
            async for chunk in body:
                if self.closed:
                    return
                if not chunk:
                    continue
                if chunked:
                    write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                else:
                    write(chunk)
                if self._due is not None:  # the answer has begun, and this too is a sign of life
                    self._expect_within(self._timeouts.idle)
                if self._paused_writing:
                    await self._writable()
        except Exception as error:  # noqa: BLE001 - whatever ended the upload is raised to the exchange
            self._fail(error)
            return
        if chunked and not self.closed:
            write(b"0\r\n\r\n")
        self._upload_sent()

    def _upload_sent(self) -> None:
        self._sent_whole = True
        if not self.status:
            self._expect_within(self._timeouts.first_byte)
        elif self._due is not None:
            self._expect_within(self._timeouts.idle)

    async def _writable(self) -> None:
        """Wait until the service has taken some. It has its time for that, whatever it says meanwhile."""
        self._drained = self._loop.create_future()
        stalled = self._clock.call_later(self._timeouts.idle, self._on_stalled)
        try:
            await self._drained
        finally:
            stalled.cancel()
            self._drained = None

    def _on_stalled(self) -> None:
        self._fail_as("timeout", "the service did not take the upload in time")

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # Receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._owned:
            self.abort()
            return
        if self._complete:
            self._keep_alive = False
            return
        wrong = self._feed(data)
        if wrong is not None:
            self._fail_as("protocol", wrong)
            return
        if self._ended():
            self._due = None
        elif not self.status:
            if not self._early_hints:
                return
        elif self._buffered > BUFFER:
            self._paused_reading = True
            self._due = None
            self._transport.pause_reading()
        else:
            self._expect_within(self._timeouts.idle)
        self._wake()

    def eof_received(self) -> None:
        """The service closed its side; the event loop closes ours and reports it."""
        if not self._owned:
            self.closed = True
        self._keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None and self._owned and self._error is None and (said := last_words(self._transport)):
            self.data_received(said)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._owned and self._error is None:
            self._end_of_input(clean=exc is None)
            if not self._complete:
                self._error = _error("reset", "the service closed the connection")
        self._parser = None
        self.resume_writing()
        self._wake()
        if self._on_closed is not None:
            self._on_closed(self)

    # Waking, failing, timing

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail_as(self, kind: FailureKind, reason: str) -> None:
        self._fail(_error(kind, reason))

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self._complete:
            self._error = error
        self._keep_alive = False
        self._due = None
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    def _expect_within(self, seconds: float) -> None:
        """The service has this long for its next sign of life."""
        self._due = due = self._clock.monotonic() + seconds
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._clock.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        due = self._due
        if due is None:
            return
        left = due - self._clock.monotonic()
        if left <= 0:
            self._fail_as("timeout", "the service did not answer in time")
        else:
            self._timer_due = due
            self._timer = self._clock.call_later(left, self._on_timer)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._owned else "idle"
        return f"<Http1Connection {state}>"


def _error(kind: FailureKind, reason: str) -> UpstreamError:
    return UpstreamError(Failure(kind, "upstream", request_sent=True), reason)
