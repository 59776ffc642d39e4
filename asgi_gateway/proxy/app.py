"""The terminal app of one service: an ASGI exchange in, an upstream exchange out.

Back-pressure is the transports' own: a piece of the answer is read only when the one before was
taken by the server in front.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from asgi_gateway.clock import Clock
from asgi_gateway.context import ATTEMPT, GONE, Exchange, join_exchange
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.problem import Problem
from asgi_gateway.proxy.client import WATCH_AFTER, Client
from asgi_gateway.proxy.extras import may_have_trailers, offer_extras, trailers_of
from asgi_gateway.proxy.failure_log import FailureLog
from asgi_gateway.proxy.forwarded import MakeForwarded
from asgi_gateway.proxy.headers import end_to_end_response, forwarded_headers
from asgi_gateway.proxy.outgoing import Outgoing
from asgi_gateway.proxy.transport import (
    MalformedRequest,
    Transport,
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
)
from asgi_gateway.timers import EqualTimers
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

CLIENT_LEFT = Failure("client_disconnected", "client", request_sent=True)
NO_WEBSOCKET = Problem(501, Failure("not_implemented", "gateway"), "WebSocket is not forwarded.")

_DETAILS = {
    "connect": "The service could not be reached.",
    "draining": "The service was removed while it was asked.",
    "loop_detected": "The request came back to the gateway too often.",
    "overloaded": "Every connection to the service is busy.",
    "protocol": "The service did not answer with valid HTTP.",
    "reset": "The service closed the connection before it answered.",
    "timeout": "The service did not answer in time.",
}
_STATUSES = {"timeout": 504, "overloaded": 503, "draining": 503, "loop_detected": 508}


class WebSockets(Protocol):
    """What takes the handshakes of one endpoint."""

    in_flight: int
    """Those that are open or being opened."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def end(self) -> None:
        """Close every one that is open, and each that still opens (1001)."""


class ProxyApp:
    """Forward every request to one endpoint.

    `authority` is the Host that the service is sent; None passes the client's on. `base_path` goes
    in front of every forwarded path. `websocket` takes the handshakes (`WebSocketProxy`); without it
    they are refused with 501. `make_forwarded` is one of `STYLES`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        endpoint: str,
        authority: bytes | None,
        base_path: bytes = b"",
        clock: Clock,
        websocket: WebSockets | None = None,
        make_forwarded: MakeForwarded = forwarded_headers,
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._outgoing = Outgoing(authority, base_path, make_forwarded)
        self._clock = clock
        self._websockets = websocket
        self._websocket: ASGIApp = websocket or NO_WEBSOCKET
        self._failures = FailureLog(clock)
        self._watches = EqualTimers(clock, WATCH_AFTER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope, exchange = join_exchange(scope)
        exchange.endpoint = self._endpoint
        if ATTEMPT not in scope:  # else whoever makes several has counted it
            exchange.attempts += 1
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        client = Client(scope, receive)
        self._watches.start(client)
        ended: BaseException | None = None
        try:
            forwarding = self._forward(scope, send, exchange, client)
            scope = GONE
            await forwarding
        except BaseException as error:  # noqa: BLE001 - it is raised below
            ended = error
        self._watches.cancel(client)
        if client.watching:
            await client.stop_watching()
        if ended is None:
            return
        try:
            raise ended
        except ClientDisconnected:
            exchange.failure = CLIENT_LEFT
        except asyncio.CancelledError:
            if not client.left():
                raise
            exchange.failure = CLIENT_LEFT
        finally:
            ended = None  # it knows this frame, which would know it

    async def warm(self) -> None:
        """Open the connections that the service is to have from the start."""
        await self._transport.warm()

    async def aclose(self) -> None:
        """Close the connections to the service, those that are in use when they are free."""
        await self._transport.aclose()

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets in progress."""
        return self._transport.in_flight + (self._websockets.in_flight if self._websockets else 0)

    def end_websockets(self) -> None:
        """Tell both sides of every WebSocket that it ends (1001)."""
        if self._websockets is not None:
            self._websockets.end()

    async def cut(self) -> None:
        """End what is in progress: requests are broken off, WebSockets closed."""
        self.end_websockets()
        await self._transport.cut()

    async def _forward(self, scope: Scope, send: Send, exchange: Exchange, client: Client) -> None:
        clock = self._clock
        started = clock.monotonic()
        refused: Problem | None = None
        try:
            headers, ended = self._outgoing.headers(scope)
            body, length = await client.upload(scope, ended)
            target = self._outgoing.target(scope)
            request = UpstreamRequest(scope["method"].encode("ascii"), target, headers, body, length)
            if scope.get("extensions"):
                offer_extras(request, scope["extensions"], ended, send)
            response = await self._transport.exchange(request)
        except UpstreamError as error:
            self._failures.tell(self._endpoint, error)
            exchange.upstream_seconds = clock.monotonic() - started
            refused = refusal(error)
        except MalformedRequest as error:
            refused = Problem(400, Failure("bad_request", "client"), f"Refused: {error}.")
        if refused is not None:
            await refused(scope, client.receive, send)
            return
        exchange.upstream_status = response.status
        exchange.first_byte_seconds = clock.monotonic() - started
        trailers = request.trailers and may_have_trailers(response)
        scope = GONE
        del request, headers, ended, body, target
        broken: BaseException | None = None
        try:
            await _pass_on(response, send, client, trailers=trailers)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            broken = error
        exchange.upstream_seconds = clock.monotonic() - started
        if not response.release():
            await response.aclose()
        if broken is None:
            return
        try:
            raise broken
        except UpstreamError as error:
            exchange.failure = error.failure
            raise _aborted(error)  # noqa: B904 - that is what it says
        finally:
            broken = None


async def _pass_on(response: UpstreamResponse, send: Send, client: Client, *, trailers: bool) -> None:
    start = {
        "type": "http.response.start",
        "status": response.status,
        "headers": end_to_end_response(response.headers),
    }
    if trailers:
        start["trailers"] = True
    await send(start)
    del start
    response.headers = []  # a stream may last for hours
    more = True
    while more:
        body, more = response.take() or await response.read()
        if not more:
            client.answered = True
        await send({"type": "http.response.body", "body": body, "more_body": more})
    if trailers:
        headers = trailers_of(response)
        await send({"type": "http.response.trailers", "headers": headers, "more_trailers": False})


def _aborted(error: UpstreamError) -> ResponseAborted:
    """What ``raise ... from error`` would raise, but compiled code forgets the second half of that."""
    aborted = ResponseAborted(error.failure)
    aborted.__cause__ = error
    return aborted


def refusal(error: UpstreamError) -> Problem:
    """What a client is told where the service did not answer."""
    failure = error.failure
    return Problem(_STATUSES.get(failure.kind, 502), failure, _DETAILS[failure.kind])
