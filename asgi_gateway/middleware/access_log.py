"""Write one JSON line for every request, whatever becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Annotated

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.messages import RESPONSE_STARTS
from asgi_gateway.context import (
    CLIENT_ADDRESS,
    ROUTE,
    SERVICE,
    Exchange,
    join_exchange,
    request_id_var,
    trace_id_var,
)
from asgi_gateway.errors import ClientDisconnected, ResponseAborted
from asgi_gateway.logs import EXTRAS, stdout_handler
from asgi_gateway.options import validated
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_LEFT = 499
"""The status logged where the client left before its answer began; nobody was sent it."""


class AccessLogMiddleware:
    """One line a request: who asked what, who answered how, and what it took.

    The path is logged and never the query, nor any header. A client that left before its answer began
    is status 499. A WebSocket is one line at its end, status 101 or the refusal's.

        AccessLogMiddleware(app)

    Where the application configures the logger, or any logger above it, that is left alone. Where
    nobody does by the first line, lines go to standard output.
    """

    @validated
    def __init__(
        self,
        app: ASGIApp,
        *,
        logger: Annotated[str, Field(min_length=1, description="The logger's name.")] = "asgi_gateway.access",
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        self._logger = logging.getLogger(logger)
        self._unconfigured = True
        self._monotonic = (runtime or Runtime()).clock.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._enabled():
            await self.app(scope, receive, send)
            return
        scope, exchange = join_exchange(scope)
        seen = _Seen(receive, send)
        begun = self._monotonic()
        error: BaseException | None = None
        try:
            await self.app(scope, seen.receive, seen.send)
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._write(scope, exchange, seen, error, self._monotonic() - begun)

    def _enabled(self) -> bool:
        if self._unconfigured:
            self._unconfigured = False
            if not self._logger.hasHandlers():
                self._logger.addHandler(stdout_handler())
                self._logger.setLevel(logging.INFO)
                self._logger.propagate = False
        return self._logger.isEnabledFor(logging.INFO)

    def _write(
        self, scope: Scope, exchange: Exchange, seen: _Seen, error: BaseException | None, seconds: float
    ) -> None:
        status, failure = seen.outcome(exchange, error)
        peer = scope.get("client")
        method = scope.get("method", "GET")
        text = f"{method} {scope['path']} {status}"
        if not text.isprintable():
            text = text.encode("unicode_escape").decode("ascii")
        extras = {
            "request_id": request_id_var.get(),
            "trace_id": trace_id_var.get(),
            "method": method,
            "path": scope["path"],
            "route": exchange.route or scope.get(ROUTE),
            "service": exchange.service or scope.get(SERVICE),
            "endpoint": exchange.endpoint,
            "status": status,
            "upstream_status": exchange.upstream_status,
            "attempts": exchange.attempts,
            "duration_ms": round(seconds * 1000, 3),
            "upstream_ms": _milliseconds(exchange.upstream_seconds),
            "first_byte_ms": _milliseconds(exchange.first_byte_seconds),
            "bytes_in": seen.bytes_in,
            "bytes_out": seen.bytes_out,
            "client_address": scope.get(CLIENT_ADDRESS) or (peer[0] if peer else None),
            "failure": failure,
            "breaker_state": exchange.breaker_state,
        }
        factory = logging.getLogRecordFactory()
        record = factory(self._logger.name, logging.INFO, "", 0, text, (), None)
        # What `extra` would do, without its search for the calling line.
        record.__dict__.update(extras)
        if factory is logging.LogRecord:  # an application's own may add more
            record.__dict__[EXTRAS] = extras
        self._logger.handle(record)


class _Seen:
    """What passed by in one exchange."""

    __slots__ = ("_receive", "_send", "bytes_in", "bytes_out", "complete", "left", "status")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.complete = False
        self.left = False

    async def receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self.bytes_in += len(message.get("body", b""))
        elif kind == "http.disconnect":
            self.left = self.left or not self.complete
        elif kind == "websocket.receive":
            self.bytes_in += _frame_size(message)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        elif kind in RESPONSE_STARTS:
            if not self.left:
                self.status = message.get("status", 101)
        elif kind == "websocket.send":
            self.bytes_out += _frame_size(message)
        elif kind == "websocket.http.response.body":
            self.bytes_out += len(message.get("body", b""))
        elif kind == "websocket.close":
            self.status = self.status or 403
        return self._send(message)

    def outcome(self, exchange: Exchange, error: BaseException | None) -> tuple[int, str | None]:
        """The status and the failure's code for the log."""
        failure = error.failure if isinstance(error, ResponseAborted) else exchange.failure
        code = failure.code if failure else None
        if self.left or isinstance(error, ClientDisconnected | asyncio.CancelledError):
            code = code or "client_disconnected"
        elif error is not None or not self.status:
            code = code or "internal"
        return self.status or (CLIENT_LEFT if code == "client_disconnected" else 500), code


def _frame_size(message: Message) -> int:
    data = message.get("bytes")
    return len(data if data is not None else (message.get("text") or "").encode("utf-8", "replace"))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
