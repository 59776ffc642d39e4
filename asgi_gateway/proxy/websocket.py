"""A WebSocket handshake, put through to the service before the client's is accepted (RFC 6455 section 4).

What the service decides is what the client is told: its subprotocol, its headers, its refusal. Once
both sides are open `Relay` carries the messages. The package that speaks to the service is imported
with the first handshake, because it is an extra.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from asgi_gateway.clock import Clock
from asgi_gateway.context import Exchange, join_exchange
from asgi_gateway.errors import Failure, MissingExtra
from asgi_gateway.problem import Problem
from asgi_gateway.proxy.app import CLIENT_LEFT, NO_WEBSOCKET, refusal
from asgi_gateway.proxy.failure_log import FailureLog
from asgi_gateway.proxy.forwarded import MakeForwarded
from asgi_gateway.proxy.headers import end_to_end_response, forwarded_headers
from asgi_gateway.proxy.outgoing import Outgoing
from asgi_gateway.proxy.transport import (
    MalformedRequest,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
    WebSocketOptions,
)
from asgi_gateway.types import Headers, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from asgi_gateway.proxy.websocket_client import Refused, ServiceConnection
    from asgi_gateway.proxy.websocket_relay import Relay

P = TypeVar("P", bound=asyncio.BaseProtocol)

HANDSHAKE: Final = frozenset(
    {
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    }
)
"""What each hop agrees on for itself; the subprotocol travels in ASGI's own fields."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Dial(Protocol):
    """Opens a connection to the service; raises `OSError`."""

    def __call__(self, factory: Callable[[], P], /) -> Awaitable[P]: ...


class WebSocketProxy:
    """Take the handshakes of one endpoint. `authority`, `base_path`, `make_forwarded` as for `ProxyApp`.

    The service has `timeouts.connect` to be reached and `timeouts.first_byte` to answer the handshake;
    `timeouts.idle` is how long it may leave a message untaken.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        authority: bytes | None,
        base_path: bytes = b"",
        timeouts: Timeouts,
        options: WebSocketOptions,
        clock: Clock,
        make_forwarded: MakeForwarded = forwarded_headers,
    ) -> None:
        self._dial = dial
        self._outgoing = Outgoing(authority, base_path, make_forwarded)
        self._timeouts = timeouts
        self._options = options
        self._clock = clock
        self._failures = FailureLog(clock)
        self._relays: set[Relay] = set()
        self._ending = False
        self.in_flight = 0

    def end(self) -> None:
        """Close every WebSocket that is open, and each that still opens (1001)."""
        self._ending = True
        for relay in self._relays:
            relay.go_away()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self.in_flight -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope, exchange = join_exchange(scope)
        try:
            from asgi_gateway.proxy.websocket_client import Refused
        except MissingExtra:
            await NO_WEBSOCKET(scope, receive, send)
            return
        started = self._clock.monotonic()
        await receive()  # websocket.connect, before which there is no handshake
        first = asyncio.ensure_future(receive())
        try:
            service = await self._connected(scope, first)
            exchange.first_byte_seconds = self._clock.monotonic() - started
            if service is None:
                exchange.failure = CLIENT_LEFT
            else:
                exchange.upstream_status = 101
                await self._relay(service, first, receive, send, exchange)
        except Refused as refused:
            exchange.upstream_status = refused.status
            await _pass_on(refused, scope, send)
        except UpstreamError as error:
            self._failures.tell(exchange.endpoint, error)
            await refusal(error)(scope, receive, send)
        except MalformedRequest as error:
            problem = Problem(400, Failure("bad_request", "client"), f"Refused: {error}.")
            await problem(scope, receive, send)
        finally:
            exchange.upstream_seconds = self._clock.monotonic() - started
            await _end(first)

    async def _connected(self, scope: Scope, first: asyncio.Future[Message]) -> ServiceConnection | None:
        """The service's side, open; None where the client left before it was."""
        from asgi_gateway.proxy.websocket_client import connect

        request, subprotocols = self._request(scope)
        connecting = asyncio.ensure_future(
            connect(
                self._dial,
                request,
                subprotocols,
                timeouts=self._timeouts,
                options=self._options,
                clock=self._clock,
            )
        )
        try:
            sides: set[asyncio.Future[Any]] = {first, connecting}
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done() or first.result()["type"] != "websocket.disconnect":
                return await connecting
        except asyncio.CancelledError:
            await _end(connecting)
            if not connecting.cancelled() and connecting.exception() is None:
                await connecting.result().abort()
            raise
        await _end(connecting)
        return None

    def _request(self, scope: Scope) -> tuple[UpstreamRequest, list[str]]:
        subprotocols = [name for name in scope.get("subprotocols", ()) if name]
        if not all(_TOKEN.fullmatch(name) for name in subprotocols):
            raise MalformedRequest("a subprotocol's name is not a token")
        headers, _ = self._outgoing.headers(scope)
        headers = [pair for pair in headers if pair[0].lower() not in HANDSHAKE]
        return UpstreamRequest(b"GET", self._outgoing.target(scope), headers), subprotocols

    async def _relay(
        self,
        service: ServiceConnection,
        first: asyncio.Future[Message],
        receive: Receive,
        send: Send,
        exchange: Exchange,
    ) -> None:
        from asgi_gateway.proxy.websocket_relay import Relay

        relay = Relay(
            service, receive, send, options=self._options, stall=self._timeouts.idle, clock=self._clock
        )
        accept: Message = {
            "type": "websocket.accept",
            "subprotocol": service.subprotocol,
            "headers": _answered(service.answered),
        }
        self._relays.add(relay)
        if self._ending:
            relay.go_away()
        try:
            exchange.failure = await relay.run(accept, first)
        finally:
            self._relays.discard(relay)


async def _pass_on(refused: Refused, scope: Scope, send: Send) -> None:
    """The service's refusal in one piece, as granian wants it; 403 where the server carries no answer."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [pair for pair in end_to_end_response(refused.headers) if pair[0] != b"content-length"]
    headers.append((b"content-length", b"%d" % len(refused.body)))
    await send({"type": "websocket.http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": refused.body})


def _answered(headers: Headers) -> Headers:
    """The headers of the service's 101 that are the client's business."""
    dropped = HANDSHAKE | {b"content-length"}
    return [pair for pair in end_to_end_response(headers) if pair[0] not in dropped]


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel what is still running; what becomes of it is nobody's business any more."""
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
