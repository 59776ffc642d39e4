"""The one shape of every answer that the gateway makes itself: RFC 9457 problem details."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from asgi_gateway.asgi.retry_after import retry_after_header
from asgi_gateway.context import EXCHANGE, REQUEST_ID, SERVICE, Exchange
from asgi_gateway.errors import Failure
from asgi_gateway.types import Header, Headers, Receive, Scope, Send

TYPE_PREFIX = "urn:problem-type:asgi-gateway:"
CIRCUIT_OPEN: Final = Failure("circuit_open", "gateway")


class Problem:
    """A refusal, as an ASGI app: ``await Problem(503, failure, "...")(scope, receive, send)``.

    `status` is the HTTP status, `failure` gives the stable code in ``X-Gateway-Error`` and is put
    on the exchange, `detail` is one sentence for the client and holds nothing internal. HEAD is
    answered without a body. A WebSocket handshake is refused with the same answer where the server
    can carry one (ASGI's ``websocket.http.response``), with a plain close (403) elsewhere.
    """

    def __init__(self, status: int, failure: Failure, detail: str, *, headers: Iterable[Header] = ()) -> None:
        self.status = status
        self.failure = failure
        self.detail = detail
        self.headers = tuple(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is not None:
            exchange.failure = self.failure
        body = self._body(scope, exchange)
        kind = "http.response"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            kind = "websocket.http.response"
        await send({"type": f"{kind}.start", "status": self.status, "headers": self._headers(len(body))})
        await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})

    def __repr__(self) -> str:
        return f"<Problem {self.status} {self.failure.code}>"

    def _headers(self, length: int) -> Headers:
        return [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % length),
            (b"cache-control", b"no-store"),
            (b"x-gateway-error", self.failure.code.encode("ascii")),
            *self.headers,
        ]

    def _body(self, scope: Scope, exchange: Exchange | None) -> bytes:
        code = self.failure.code
        service = scope.get(SERVICE) or (exchange.service if exchange else None)
        members = {
            "type": TYPE_PREFIX + code,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": code,
            "request_id": scope.get(REQUEST_ID),
            "service": service,
        }
        return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def circuit_open(seconds: float) -> Problem:
    """The answer in place of a service whose circuit stays open for that long."""
    return Problem(
        503,
        CIRCUIT_OPEN,
        "The service has failed repeatedly and is not called for a while.",
        headers=[retry_after_header(seconds)],
    )
