"""One HTTP/1.1 connection to a service, parsed by llhttp.

A connection serves one exchange at a time and passes through these steps:

    idle -> sending -> head -> body -> complete -> idle again, or closed

The rules, all kept in this file:

- One waiter at most: the exchange that owns the connection. Parser callbacks only record; the
  waiter is woken once for a whole segment.
- What arrives while nobody has asked is somebody else's: the connection is closed, the bytes reach
  nobody (RFC 9112 section 6.3).
- A connection goes back to the pool only if its answer ended where its framing says, its request
  was sent whole, and nothing followed. In every other case it is broken off.
- A request whose upload fails is never finished: no last chunk, no missing bytes made up.
- What llhttp lets pass and RFC 9112 does not is refused here: see `_checked_framing`.
- Reading stops while more than `BUFFER` bytes wait for the client; writing waits for the service.
- One timer a connection, moved rather than made anew: it wakes up, looks whether its time has
  really come, and goes back to sleep if not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httptools

from asgi_gateway.asgi.headers import get_all
from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import Failure, FailureKind
from asgi_gateway.proxy.last_words import last_words
from asgi_gateway.proxy.transport import (
    MalformedRequest,
    OnEarlyHints,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
)
from asgi_gateway.types import Headers

if TYPE_CHECKING:
    from asyncio import Future, Task

BUFFER = 64 * 1024
"""Bytes of an answer that may wait for a slow client before the service is paused."""

MAX_HEAD = 64 * 1024
"""Bytes of an answer's head, the interim answers before it included."""

MAX_LINE = 32 * 1024
"""Bytes of one header."""

MAX_HEADERS = 256
"""Headers of an answer, and again as many trailers."""

MAX_BODILESS = 16 * 1024
"""Bytes that may come in a row without bringing any of the body: trailers and chunk extensions."""

MAX_INTERIM = 16
"""Interim (1xx) answers before the final one."""


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
    if head.count(b"\n") >= len(lines) or head.count(b"\r") >= len(lines) or b"\0" in head:
        raise MalformedRequest("a control character in the request target or a header")
    return head + b"\r\n\r\n"


class Http1Connection(asyncio.Protocol):
    """A connection and, from `exchange` to `aclose`, the answer that arrives on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        self.status = 0
        self.headers: Headers = []
        self.trailers: Headers = []
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
        self._parser: Any = None
        self._waiter: Future[None] | None = None
        self._timer: Timer | None = None
        self._timer_due = 0.0
        self._due: float | None = None
        self._paused_writing = False
        self._drained: Future[None] | None = None
        self._upload: Task[None] | None = None
        self._begin(b"")
        self._owned = False

    def _begin(self, method: bytes) -> None:
        self.status = 0
        self.headers = []
        self.trailers = []
        self._owned = True
        self._is_head = method == b"HEAD"
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._paused_reading = False
        self._received = 0
        self._bodiless = 0
        self._usual = False
        self._interim = 0
        self._early_hints: list[Headers] | None = None
        self._complete = False
        self._keep_alive = False
        self._error: Exception | None = None
        self._sent_whole = False
        self._upload = None
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)

    def attach(
        self,
        on_released: Callable[[Http1Connection], None],
        on_closed: Callable[[Http1Connection], None],
    ) -> None:
        """Put the connection under a pool's care: told once of every release and of the end."""
        self._on_released = on_released
        self._on_closed = on_closed

    # The exchange

    async def exchange(self, request: UpstreamRequest) -> None:
        """Send the request and return when the head of its answer is here."""
        head = request_head(request)
        self._begin(request.method)
        self.served += 1
        if request.on_early_hints is not None:
            self._early_hints = []
        body = request.body
        if body is None or isinstance(body, bytes):
            self._transport.write(head + body if body else head)
            self._sent_whole = True
            self._expect_within(self._timeouts.first_byte)
        else:
            self._transport.write(head)
            self._upload = self._loop.create_task(self._send_body(body, chunked=request.length is None))
        while not self.status:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
            if self._early_hints and request.on_early_hints is not None:
                await self._pass_on_hints(self._early_hints, request.on_early_hints)

    async def _pass_on_hints(self, hints: list[Headers], on_early_hints: OnEarlyHints) -> None:
        while hints:
            await on_early_hints(hints.pop(0))

    @property
    def untouched(self) -> bool:
        """Whether the service said nothing at all since the request was sent."""
        return self._received == 0

    async def read(self) -> tuple[bytes, bool]:
        """The body that has arrived, or the next that does; with it, whether more follows."""
        while not self._chunks:
            if self._complete:
                return b"", False
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            await self._waiter
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._buffered = 0
        if self._paused_reading:
            self._paused_reading = False
            self._transport.resume_reading()
            self._expect_within(self._timeouts.idle)
        return data, not self._complete

    async def aclose(self) -> None:
        """End the exchange: back to the pool if both messages ended well, else broken off."""
        if not self._owned:
            return
        self._owned = False
        self._due = None
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
            await asyncio.wait([self._upload])
        if self._complete and self._keep_alive and self._sent_whole and not self.closed and self._on_released:
            self._on_released(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once, without flushing."""
        self._owned = False
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

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
                if self._paused_writing:
                    await self._writable()
        except Exception as error:  # noqa: BLE001 - whatever ended the upload is raised to the exchange
            self._fail(error)
            return
        if chunked and not self.closed:
            write(b"0\r\n\r\n")
        self._sent_whole = True
        if not self.status:
            self._expect_within(self._timeouts.first_byte)

    async def _writable(self) -> None:
        self._drained = self._loop.create_future()
        if not self.status:
            self._expect_within(self._timeouts.idle)
        await self._drained
        self._drained = None
        if not self.status:
            self._due = None

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
        if not self._received and not self._begins_well(data):
            return
        self._received += len(data)
        if self.status:
            self._bodiless += len(data)
        if self._parse(data):
            self._due = None
        elif not self._goes_on():
            return
        self._wake()

    def _begins_well(self, data: bytes) -> bool:
        self._usual = data.startswith(b"HTTP/1.1 ")
        if self._usual or b"HTTP/1.".startswith(data[:7]):
            return True
        self._fail_as("protocol", "the answer is not HTTP/1")
        return False

    def _parse(self, data: bytes) -> bool:
        """Feed the parser; whether the answer is complete."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail_as("protocol", "the service switched protocols unasked")
        except httptools.HttpParserError as error:
            self._keep_alive = False
            if not self._complete:
                self._fail_as("protocol", f"the answer is not valid HTTP: {error}")
        return self._complete

    def _goes_on(self) -> bool:
        """See to the limits and the timer of an unfinished answer; whether there is news for the exchange."""
        if not self.status:
            if self._received > MAX_HEAD:
                self._fail_as("protocol", "the head of the answer is too large")
            return bool(self._early_hints)
        if self._bodiless > MAX_BODILESS:
            self._fail_as("protocol", "the trailers or chunk extensions of the answer are too large")
        elif self._buffered > BUFFER:
            self._paused_reading = True
            self._due = None
            self._transport.pause_reading()
        elif self._error is None:
            self._expect_within(self._timeouts.idle)
        return True

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            self.headers.append((name.lower(), value))
        elif not self._complete:
            self._add_trailer(name.lower(), value)

    def _add_trailer(self, name: bytes, value: bytes) -> None:
        self.trailers.append((name, value))
        if len(self.trailers) > MAX_HEADERS or _size(self.trailers) > MAX_BODILESS:
            raise ValueError("too many trailers")

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            self._add_interim(status)
            return
        if self._received > MAX_LINE:
            self._checked_size()
        self._checked_framing(status)
        self.status = status
        self._keep_alive = parser.should_keep_alive()
        if self._is_head:
            self._complete = True
            self._parser = None

    def _add_interim(self, status: int) -> None:
        self._interim += 1
        if status < 100 or status == 101 or self._interim > MAX_INTERIM:
            raise ValueError("unexpected interim answer")
        if status == 103 and self._early_hints is not None:
            self._early_hints.append(self.headers)
        self.headers = []

    def _checked_size(self) -> None:
        if _size(self.headers) > MAX_HEAD:
            raise ValueError("head too large")
        if any(len(name) + len(value) > MAX_LINE for name, value in self.headers):
            raise ValueError("header too large")

    def _checked_framing(self, status: int) -> None:
        """Refuse what llhttp lets pass: its own checks are those of the lengths and of every character."""
        if status > 999:
            raise ValueError("status out of range")
        headers = self.headers
        if len(headers) > MAX_HEADERS:
            raise ValueError("too many headers")
        version = "1.1" if self._usual and not self._interim else self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise ValueError("not HTTP/1.0 or 1.1")
        if b"transfer-encoding" in dict(headers):
            codings = get_all(headers, b"transfer-encoding")
            if len(codings) > 1 or codings[0].lower() != b"chunked" or version == "1.0":
                raise ValueError("unknown transfer coding")
        if status == 204:
            self.headers = [pair for pair in headers if pair[0] != b"content-length"]

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._keep_alive = False
            return
        if self.status == 205:
            raise ValueError("205 with a body")  # RFC 9110 section 15.3.6
        self._chunks.append(body)
        self._buffered += len(body)
        self._bodiless = 0

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True

    def eof_received(self) -> None:
        """The service closed its side; the event loop closes ours and reports it."""
        if not self._owned:
            self.closed = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None and self._owned and self._error is None and (said := last_words(self._transport)):
            self.data_received(said)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._owned and not self._complete and self._error is None:
            if exc is None and self.status and self._ends_at_close():
                self._complete = True
            else:
                self._error = _error("reset", "the service closed the connection")
        self._parser = None
        self.resume_writing()
        self._wake()
        if self._on_closed is not None:
            self._on_closed(self)

    def _ends_at_close(self) -> bool:
        """Whether closing is what ends this answer's body (RFC 9112 section 6.3, item 8)."""
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

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


def _size(headers: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _error(kind: FailureKind, reason: str) -> UpstreamError:
    return UpstreamError(Failure(kind, "upstream", request_sent=True), reason)
