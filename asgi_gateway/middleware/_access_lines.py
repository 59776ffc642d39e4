"""The lines of the access log, and what they tell of one exchange."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from asgi_gateway.asgi.messages import RESPONSE_STARTS
from asgi_gateway.clock import SystemClock
from asgi_gateway.context import CLIENT_ADDRESS, ROUTE, SERVICE, Exchange, request_id_var, trace_id_var
from asgi_gateway.errors import ClientDisconnected, ResponseAborted
from asgi_gateway.logs import EXTRAS, direct_handler, encode, second_text
from asgi_gateway.types import Message, Receive, Scope, Send

CLIENT_LEFT: Final = 499
"""The status logged where the client left before its answer began; nobody was sent it."""

_INFO: Final = logging.INFO
_KINDS: Final = 256
"""How many kinds of requests are remembered for a second."""

_PLACE: Final = "\0"
"""Stands in a template for what is still to come; JSON text has no such character."""
_THOUSANDTHS: Final = tuple(f"{number:03}" for number in range(1000))

_string = encode_basestring_ascii


class Seen:
    """What passed by in one exchange."""

    __slots__ = ("_receive", "_send", "bytes_in", "bytes_out", "failure", "left", "more", "status")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.failure: str | None = None
        self.more = True
        self.left = False

    async def receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self.bytes_in += len(message.get("body", b""))
        elif kind == "http.disconnect":
            self.left = self.left or self.more
        elif kind == "websocket.receive":
            self.bytes_in += _frame_size(message)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self.more = message.get("more_body", False)
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

    def conclude(self, exchange: Exchange, error: BaseException | None) -> None:
        """Settle the status and the failure's code where the exchange did not just go well."""
        failure = error.failure if isinstance(error, ResponseAborted) else exchange.failure
        code = failure.code if failure else None
        if self.left or isinstance(error, ClientDisconnected | asyncio.CancelledError):
            code = code or "client_disconnected"
        elif error is not None or not self.status:
            code = code or "internal"
        self.status = self.status or (CLIENT_LEFT if code == "client_disconnected" else 500)
        self.failure = code


class AccessLines:
    """Writes the lines: as finished text where that is all that would come of a record, else as records.

    Both ways say the same. What the lines of one kind of request have in common is encoded once a
    second, for each kind.
    """

    def __init__(self, logger: logging.Logger, wall: Callable[[], float] = SystemClock.wall) -> None:
        # A record takes its time from the machine, whatever the clock of the decisions is.
        self._logger = logger
        self._wall = wall
        self._second = -1
        self._templates: dict[tuple[object, ...], list[str]] = {}

    def write(
        self,
        scope: Scope,
        exchange: Exchange,
        seen: Seen,
        seconds: float,
        error: BaseException | None = None,
    ) -> None:
        """Write the line of one request, which took so long and ended so."""
        if error is not None or exchange.failure is not None or not seen.status or seen.left:
            seen.conclude(exchange, error)
        handler = direct_handler(self._logger)
        if handler is not None:
            try:
                line = self._line(scope, exchange, seen, seconds)
            except (TypeError, ValueError):
                pass  # something is not of the type that it should be, and a record takes anything
            else:
                handler.keep(line)
                return
        self._log(scope, exchange, seen, seconds)

    def _line(self, scope: Scope, exchange: Exchange, seen: Seen, seconds: float) -> str:
        """The line with its end; raises TypeError or ValueError where only a record will do."""
        now = self._wall()
        fraction = now - self._second
        if fraction >= 1.0 or fraction < 0.0:
            fraction = self._begin_second(now)
        kind = (
            scope.get("method", "GET"),
            exchange.route or scope.get(ROUTE),
            exchange.service or scope.get(SERVICE),
            exchange.endpoint,
            seen.status,
            seen.failure,
            exchange.upstream_status,
            exchange.attempts,
            exchange.breaker_state,
            exchange.would_reject,
            exchange.fallbacks,
        )
        template = self._templates.get(kind) or self._template(kind)
        path = scope["path"]
        if not path.isprintable():
            raise ValueError(path)
        path = _string(path)[1:-1]
        request_id = request_id_var.get()
        trace_id = trace_id_var.get()
        upstream = exchange.upstream_seconds
        first_byte = exchange.first_byte_seconds
        address = scope.get(CLIENT_ADDRESS)
        if not address:
            peer = scope.get("client")
            address = peer[0] if peer else None
        line = template.copy()
        line[1::2] = (
            _THOUSANDTHS[int(fraction * 1000)],
            path,
            "null" if request_id is None else _string(request_id),
            "null" if trace_id is None else _string(trace_id),
            path,
            f"{seconds * 1000:.3f}",
            "null" if upstream is None else f"{upstream * 1000:.3f}",
            "null" if first_byte is None else f"{first_byte * 1000:.3f}",
            f"{seen.bytes_in}",
            f"{seen.bytes_out}",
            "null" if address is None else _string(address),
        )
        return "".join(line)

    def _begin_second(self, now: float) -> float:
        """Forget the last second's templates; the part of the new one that is over."""
        self._second = int(now)
        self._templates = {}
        return now - self._second

    def _template(self, kind: tuple[Any, ...]) -> list[str]:
        """The line of this kind in parts: each second one is the place of what differs between requests."""
        method, route, service, endpoint, status, failure, upstream_status, attempts, state, *lists = kind
        shadow, fallbacks = lists
        around = f"{method} {status}"
        if not around.isprintable():
            raise ValueError(around)
        before, after = (encode(f"{part}")[1:-1] for part in (method, status))
        values = {
            "time": f'"{second_text(self._second)}.{_PLACE}Z"',
            "level": encode(logging.getLevelName(_INFO).lower()),
            "logger": encode(self._logger.name),
            "message": f'"{before} {_PLACE} {after}"',
            "request_id": _PLACE,
            "trace_id": _PLACE,
            "method": encode(method),
            "path": f'"{_PLACE}"',
            "route": encode(route),
            "service": encode(service),
            "endpoint": encode(endpoint),
            "status": encode(status),
            "upstream_status": encode(upstream_status),
            "attempts": encode(attempts),
            "duration_ms": _PLACE,
            "upstream_ms": _PLACE,
            "first_byte_ms": _PLACE,
            "bytes_in": _PLACE,
            "bytes_out": _PLACE,
            "client_address": _PLACE,
            "failure": encode(failure),
            "breaker_state": encode(state),
            "would_reject": encode(list(shadow)),
            "fallbacks": encode(list(fallbacks)),
        }
        text = "{" + ",".join(f'"{name}":{value}' for name, value in values.items()) + "}\n"
        template = re.split(f"({_PLACE})", text)
        if len(self._templates) < _KINDS:
            self._templates[kind] = template
        return template

    def _log(self, scope: Scope, exchange: Exchange, seen: Seen, seconds: float) -> None:
        """Write the line in the ordinary way, by a record."""
        peer = scope.get("client")
        method = scope.get("method", "GET")
        text = f"{method} {scope['path']} {seen.status}"
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
            "status": seen.status,
            "upstream_status": exchange.upstream_status,
            "attempts": exchange.attempts,
            "duration_ms": round(seconds * 1000, 3),
            "upstream_ms": _milliseconds(exchange.upstream_seconds),
            "first_byte_ms": _milliseconds(exchange.first_byte_seconds),
            "bytes_in": seen.bytes_in,
            "bytes_out": seen.bytes_out,
            "client_address": scope.get(CLIENT_ADDRESS) or (peer[0] if peer else None),
            "failure": seen.failure,
            "breaker_state": exchange.breaker_state,
            "would_reject": list(exchange.would_reject),
            "fallbacks": list(exchange.fallbacks),
        }
        factory = logging.getLogRecordFactory()
        record = factory(self._logger.name, _INFO, "", 0, text, (), None)
        # What `extra` would do, without its search for the calling line.
        record.__dict__.update(extras)
        if factory is logging.LogRecord:  # an application's own may add more
            record.__dict__[EXTRAS] = extras
        self._logger.handle(record)


def _frame_size(message: Message) -> int:
    data = message.get("bytes")
    return len(data if data is not None else (message.get("text") or "").encode("utf-8", "replace"))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
