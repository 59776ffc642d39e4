"""One request and its response, between the protocol and the app.

Both directions are one object, as one is made for each request: what the app takes of the body, what it
says, and how its answer is framed. What needs nothing of a request, the lines of a head, is in `lines`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from asgi_gateway.errors import ResponseAborted
from asgi_gateway.server.lines import STATUS_LINES, are_plain, field_lines, read_with_care, status_line
from asgi_gateway.types import ASGIApp, Header, Message, Scope

if TYPE_CHECKING:
    from asgi_gateway.server.protocol import HttpProtocol

# How a body ends, where no number of bytes says so
NO_BODY: Final = -1
CHUNKED: Final = -2
AT_CLOSE: Final = -3
# It has ended, and trailers are announced
ENDED: Final = -4
ENDED_CHUNKS: Final = -5

_BODILESS: Final = frozenset({204, 304})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_logger = logging.getLogger("uvicorn.error")
_SPECIAL: Final = frozenset({b"", b"connection", b"transfer-encoding"})


class Cycle:
    """One request and its response."""

    __slots__ = (
        "_body",
        "_head",
        "_left",
        "_protocol",
        "_taken",
        "_told",
        "_trailers",
        "complete",
        "disconnected",
        "expects_continue",
        "judged",
        "keep_alive",
        "more",
        "received",
        "scope",
        "started",
        "task",
        "waiters",
    )

    task: asyncio.Task[None]
    _head: bytes

    def __init__(self, protocol: HttpProtocol, scope: Scope, keep_alive: bool) -> None:  # noqa: FBT001 - hot
        self.keep_alive = keep_alive
        self.expects_continue = False
        self.disconnected = False
        self.started = False
        self.complete = False
        self._protocol = protocol
        self.scope = scope
        self._body: list[bytes] | tuple[()] = ()
        self.received = 0
        """Bytes of the body that have come: `judged` when their speed was, `_taken` by the app."""
        self.judged = 0
        self._taken = 0
        self.more = True
        self._told = False
        self._left = 0
        self._trailers: list[Any] | None = None
        self.waiters: tuple[asyncio.Future[None], ...] = ()

    @property
    def ends_at_close(self) -> bool:
        """Whether it is the end of the connection that ends the answer."""
        return self._left == AT_CLOSE

    @property
    def streams(self) -> bool:
        """Whether an answer is in progress that does not say how long it will be."""
        return self.started and not self.complete and self._left in (CHUNKED, AT_CLOSE)

    # From the protocol

    def give(self, body: bytes) -> None:
        if self._body:
            self._body.append(body)
        else:
            self._body = [body]
        self.received = received = self.received + len(body)
        if received - self._taken > self._protocol.bounds.buffer:
            self._protocol.pause_reading()
        if self.waiters:
            self.wake()

    def disconnect(self) -> None:
        if not self.complete:
            self.disconnected = True
        self.wake()

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # The app

    async def run(self, app: ASGIApp) -> None:
        protocol = self._protocol
        failed = False
        try:
            try:
                await app(self.scope, self.receive, self.send)
            except ResponseAborted:
                protocol.abort(self)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                protocol.abort(self)
                raise
            except GeneratorExit:  # the event loop is gone, and with it all that could be closed
                raise
            except BaseException:
                _logger.exception("Exception in ASGI application")
                failed = True
            else:
                if not self.complete and not self.disconnected:
                    _logger.error("ASGI callable returned without completing its response.")
                    failed = True
            if failed:
                await self._fail()
        finally:
            protocol.server_state.tasks.discard(self.task)

    async def _fail(self) -> None:
        if self.started:
            self._protocol.abort(self)
            return
        self.keep_alive = False
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def receive(self) -> Message:
        protocol = self._protocol
        if self.expects_continue and not self.disconnected:
            self._say_continue()
        while True:
            if self.disconnected or self.complete:
                return {"type": "http.disconnect"}
            if self._body or not (self.more or self._told):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body = ()
                self._taken = self.received
                self._told = not self.more
                return {"type": "http.request", "body": body, "more_body": self.more}
            protocol.resume_reading()
            waiter = protocol.loop.create_future()
            self.waiters += (waiter,)
            try:
                await waiter
            except asyncio.CancelledError:  # some ask in turns, thousands of times a request
                self.waiters = tuple([one for one in self.waiters if one is not waiter])
                raise

    def _say_continue(self) -> None:
        self.expects_continue = False
        protocol = self._protocol
        if not self.started and not protocol.transport.is_closing():
            protocol.transport.write(_CONTINUE)
            if self.more:
                protocol.expect_body()

    async def send(self, message: Message) -> None:
        protocol = self._protocol
        if protocol.write_paused and not self.disconnected:
            await protocol.unread.taken()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.started and not self.complete:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start" and not self.started:
            self._head = self._make_head(message["status"], message.get("headers", ()))
            self.started = True
            if message.get("trailers"):
                self._trailers = []
            protocol.loop.call_soon(self._flush_head)
        elif kind == "http.response.early_hint" and not self.started:
            self._send_early_hint(message.get("links", ()))
        elif kind == "http.response.trailers" and self._left <= ENDED and not self.complete:
            self._send_trailers(message.get("headers", ()), more=message.get("more_trailers", False))
        else:
            raise RuntimeError(f"Unexpected ASGI message {kind!r}.")

    def _make_head(self, status: int, given: Iterable[Header]) -> bytes:
        """The status line and headers; raises `RuntimeError` where a header would become two."""
        headers: list[Any] = given if type(given) is list else [*given]
        fields = dict(headers)
        names = b"".join([*fields])
        protocol = self._protocol
        if (
            len(fields) == len(headers)
            and _SPECIAL.isdisjoint(fields)
            and (names == protocol.good_names or are_plain(names))
        ):
            protocol.good_names = names
            values = b"".join([*fields.values()])
        else:
            headers, fields, closes = read_with_care(headers)
            self.keep_alive = self.keep_alive and not closes
            values = b"".join([value for _, value in headers])
        if 10 in values or 13 in values or 0 in values:  # numbers are found without a detour
            raise RuntimeError("A response header holds a control character.")
        lines = [STATUS_LINES.get(status) or status_line(status), *map(b": ".join, headers)]
        for pair in protocol.server_state.default_headers:
            if pair[0] not in fields:
                lines.append(b": ".join(pair))  # noqa: PERF401 - seldom more than one
        if status in _BODILESS or self.scope["method"] == "HEAD":
            self._left = NO_BODY
        elif b"content-length" in fields:
            length = fields[b"content-length"]
            if not length.isdigit():
                raise RuntimeError("A response's Content-Length is not one number.")
            self._left = int(length)
        else:
            self._frame(lines)
        if self.expects_continue or not self.keep_alive:
            self.keep_alive = False  # nobody knows whether the body comes (RFC 9110 section 10.1.1)
            lines.append(b"connection: close")
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    def _frame(self, lines: list[bytes]) -> None:
        """Say how a body without a length ends (RFC 9112 section 6.3)."""
        if self.scope["http_version"] == "1.0":
            self._left = AT_CLOSE
            self.keep_alive = False
        else:
            self._left = CHUNKED
            lines.append(b"transfer-encoding: chunked")

    def _flush_head(self) -> None:
        if self._head and not self.disconnected:
            self._protocol.transport.write(self._head)
            self._head = b""

    def _send_body(self, body: Any, more: bool) -> None:  # noqa: FBT001 - hot
        left = self._left
        if left >= 0:
            rest = left - len(body)
            if rest < 0 or (rest and not more):  # refused before anything is changed
                how = "longer" if rest < 0 else "shorter"
                raise RuntimeError(f"Response content {how} than Content-Length")
            self._left = rest
        elif left <= ENDED:
            raise RuntimeError("Response content behind its end")
        head, self._head = self._head, b""
        if self.more and head and not more and self.keep_alive:
            # It ends while the upload still runs, and so does the connection.
            head = head[:-2] + b"connection: close\r\n\r\n"
        if left == CHUNKED:
            data = self._chunk(head, body, more)
        elif left == NO_BODY:
            data = head
        else:
            data = head + body if head else body
        if data:
            self._protocol.transport.write(data)
        if not more:
            if self._trailers is None:
                self._end()
            else:
                self._left = ENDED_CHUNKS if left == CHUNKED else ENDED

    def _chunk(self, head: bytes, body: Any, more: bool) -> bytes:  # noqa: FBT001 - hot
        last = b"" if more or self._trailers is not None else b"0\r\n\r\n"
        return b"".join((head, b"%x\r\n" % len(body), body, b"\r\n", last)) if body else head + last

    def _end(self) -> None:
        self.complete = True
        if self.waiters:
            self.wake()
        self._protocol.answered(self)

    def _send_early_hint(self, links: Iterable[bytes]) -> None:
        """A 103 before the answer, for those who know interim answers (RFC 8297)."""
        if self.scope["http_version"] != "1.0":
            lines = field_lines((b"link", link) for link in links)
            self._protocol.transport.write(b"%b\r\n%b\r\n" % (STATUS_LINES[103], lines))

    def _send_trailers(self, headers: Iterable[Header], *, more: bool) -> None:
        """Trailers, if they can be sent and the client said that it can use them (RFC 9110 section 6.5)."""
        trailers = self._trailers = [*(self._trailers or ()), *headers]
        if more:
            return
        if self._left == ENDED_CHUNKS:
            wanted = "http.response.trailers" in self.scope["extensions"]
            self._protocol.transport.write(b"0\r\n%b\r\n" % (field_lines(trailers) if wanted else b""))
        self._end()
