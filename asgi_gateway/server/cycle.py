"""One request and its response, between the protocol and the app."""

from __future__ import annotations

import asyncio
import http
from typing import TYPE_CHECKING, Final

from asgi_gateway.errors import ResponseAborted
from asgi_gateway.types import ASGIApp, Headers, Message, Scope

if TYPE_CHECKING:
    from asgi_gateway.server.protocol import HttpProtocol

NO_BODY: Final = -1
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode("ascii"))


STATUS_LINES: Final = {status: _status_line(status) for status in range(100, 600)}


class Cycle:
    """One request and its response."""

    __slots__ = (
        "_body",
        "_buffered",
        "_head",
        "_left",
        "_more",
        "_protocol",
        "_told",
        "_waiters",
        "chunked",
        "complete",
        "disconnected",
        "ends_at_close",
        "expects_continue",
        "keep_alive",
        "scope",
        "started",
    )

    def __init__(self, protocol: HttpProtocol, scope: Scope, *, keep_alive: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects_continue = False
        self.disconnected = False
        self.started = False
        self.complete = False
        self.chunked = False
        self.ends_at_close = False
        self._protocol = protocol
        self._body: list[bytes] = []
        self._buffered = 0
        self._more = True
        self._told = False
        self._left = 0
        self._head = b""
        self._waiters: list[asyncio.Future[None]] = []

    # From the protocol

    def give(self, body: bytes) -> None:
        self._body.append(body)
        self._buffered += len(body)
        if self._buffered > self._protocol.buffer:
            self._protocol.pause_reading()
        self._wake()

    def end_of_body(self) -> None:
        self._more = False
        self._wake()

    def disconnect(self) -> None:
        if not self.complete:
            self.disconnected = True
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    # The app

    async def run(self, app: ASGIApp) -> None:
        protocol = self._protocol
        try:
            await app(self.scope, self.receive, self.send)
        except ResponseAborted:
            protocol.abort(self)
        except Exception:
            protocol.logger.exception("Exception in ASGI application")
            await self._fail()
        except asyncio.CancelledError:
            protocol.abort(self)
            raise
        else:
            if not self.complete and not self.disconnected:
                protocol.logger.error("ASGI callable returned without completing its response.")
                await self._fail()

    async def _fail(self) -> None:
        if self.started:
            self._protocol.abort(self)
            return
        self.keep_alive = self.chunked = self.ends_at_close = False  # as a head that was refused set them
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def receive(self) -> Message:
        protocol = self._protocol
        if self.expects_continue:
            self.expects_continue = False
            if not self.started and not protocol.transport.is_closing():
                protocol.transport.write(_CONTINUE)
        while True:
            if self.disconnected or self.complete:
                return {"type": "http.disconnect"}
            if self._body or not (self._more or self._told):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body = []
                self._buffered = 0
                self._told = not self._more
                return {"type": "http.request", "body": body, "more_body": self._more}
            protocol.resume_reading()
            waiter = protocol.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def send(self, message: Message) -> None:
        protocol = self._protocol
        if protocol.write_paused and not self.disconnected:
            await protocol.writable()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.body" and self.started and not self.complete:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self.started:
            self._head = self._make_head(message["status"], message.get("headers", ()))
            self.started = True
            protocol.loop.call_soon(self._flush_head)
        else:
            raise RuntimeError(f"Unexpected ASGI message {kind!r}.")

    def _make_head(self, status: int, headers: Headers) -> bytes:
        """The status line and headers; raises `RuntimeError` where a header would become two."""
        lines = [STATUS_LINES.get(status) or _status_line(status)]
        length: int | None = None
        if self.expects_continue:
            self.keep_alive = False  # nobody knows whether the body comes (RFC 9110 section 10.1.1)
        for pair in headers:
            name = pair[0].lower()
            if name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in pair[1].lower()
            elif name != b"transfer-encoding":
                lines.append(b"%b: %b\r\n" % pair)
                if name == b"content-length":
                    length = int(pair[1])
        if self._protocol.server_state.default_headers:
            names = {name.lower() for name, _ in headers}
            defaults = self._protocol.server_state.default_headers
            lines += [b"%b: %b\r\n" % pair for pair in defaults if pair[0] not in names]
        lines += self._frame(status, length)
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("A response header holds a control character.")
        return head + b"\r\n"

    def _frame(self, status: int, length: int | None) -> list[bytes]:
        """How the body ends (RFC 9112 section 6.3) and whether the connection does."""
        lines = []
        is_1_0 = self.scope["http_version"] == "1.0"
        if self.scope["method"] == "HEAD" or status in (204, 304):
            self._left = NO_BODY
        elif length is not None:
            self._left = length
        elif is_1_0:
            self.ends_at_close = True
            self.keep_alive = False
        else:
            self.chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return lines

    def _flush_head(self) -> None:
        if self._head and not self.disconnected:
            self._protocol.transport.write(self._head)
            self._head = b""

    def _send_body(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        if self.chunked:
            data = b"%b%x\r\n%b\r\n" % (head, len(body), body) if body else head
            if not more:
                data += b"0\r\n\r\n"
        elif self._left == NO_BODY:
            data = head
        else:
            if not self.ends_at_close:
                self._left -= len(body)
                if self._left < 0:
                    raise RuntimeError("Response content longer than Content-Length")
                if self._left and not more:
                    raise RuntimeError("Response content shorter than Content-Length")
            data = head + body if head else body
        if data:
            self._protocol.transport.write(data)
        if not more:
            self.complete = True
            self._wake()
            self._protocol.answered(self)
