"""Tell the client which service answered, how fast, and after how many attempts."""

from __future__ import annotations

from collections.abc import Awaitable

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.headers import without
from asgi_gateway.asgi.messages import RESPONSE_STARTS
from asgi_gateway.context import EXCHANGE, SERVICE, Exchange, join_exchange
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send, mypyc_attr

_OURS = frozenset({b"x-gateway-service", b"x-gateway-response-time", b"x-gateway-attempts"})


@mypyc_attr(allow_interpreted_subclasses=True)
class GatewayHeadersMiddleware:
    """Set ``X-Gateway-Service``, ``X-Gateway-Response-Time`` and ``X-Gateway-Attempts`` on every response.

    The time is in milliseconds until the response begins; the service and the attempts are left out
    where there were none. What an inner app or a service says under these names never gets through.
    There are no options.

        GatewayHeadersMiddleware(app)
    """

    def __init__(self, app: ASGIApp, *, runtime: Runtime | None = None) -> None:
        self.app = direct(app)
        self._monotonic = (runtime or Runtime()).clock.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The same without a frame of its own; see `asgi_gateway.asgi.calls`."""
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        known = exchange
        outer: str | None = scope.get(SERVICE)
        begun = self._monotonic()

        def telling(message: Message) -> Awaitable[None]:
            if message["type"] in RESPONSE_STARTS:
                headers = without(message.get("headers", ()), _OURS)
                seconds = self._monotonic() - begun
                headers.append((b"x-gateway-response-time", b"%.1f" % (seconds * 1000)))
                service = known.service or outer
                if service:
                    headers.append((b"x-gateway-service", service.encode("latin-1", "replace")))
                if known.attempts:
                    headers.append((b"x-gateway-attempts", b"%d" % known.attempts))
                message = {**message, "headers": headers}
            return send(message)

        return self.app(scope, receive, telling)
