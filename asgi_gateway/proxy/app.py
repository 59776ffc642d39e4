"""The terminal app of one service: an ASGI exchange in, an upstream exchange out.

Back-pressure is the transports' own: a piece of the answer is read only when the one before was
taken by the server in front. A client who leaves is noticed by listening to `receive`: inside the
upload by the upload itself, afterwards by a task that is begun only for an exchange older than
`WATCH_AFTER`, so that a short exchange costs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from asgi_gateway.asgi.headers import get_all, get_header, replaced
from asgi_gateway.asgi.paths import raw_request_path, without_prefix
from asgi_gateway.clock import Clock
from asgi_gateway.context import EXCHANGE, STRIPPED_PREFIX, TRACE, TRUSTED_PEER, Exchange
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.problem import Problem
from asgi_gateway.proxy.headers import end_to_end_response, forwarded_headers, split_request
from asgi_gateway.proxy.transport import (
    MalformedRequest,
    Transport,
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
)
from asgi_gateway.types import Headers, Message, Receive, Scope, Send

WATCH_AFTER: Final = 0.05
"""Seconds after which an exchange begins to watch for its client leaving."""

CLIENT_LEFT = Failure("client_disconnected", "client", request_sent=True)

_DETAILS = {
    "connect": "The service could not be reached.",
    "overloaded": "Every connection to the service is busy.",
    "protocol": "The service did not answer with valid HTTP.",
    "reset": "The service closed the connection before it answered.",
    "timeout": "The service did not answer in time.",
}
_STATUSES = {"timeout": 504, "overloaded": 503}


class ProxyApp:
    """Forward every request to one endpoint.

    `authority` is the Host that the service is sent; None passes the client's on. `base_path` goes
    in front of every forwarded path.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        endpoint: str,
        authority: bytes | None,
        base_path: bytes = b"",
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._authority = authority
        self._base_path = base_path.rstrip(b"/")
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            refusal = Problem(501, Failure("not_implemented", "gateway"), "WebSocket is not forwarded.")
            await refusal(scope, receive, send)
            return
        exchange: Exchange = scope.get(EXCHANGE) or Exchange()
        exchange.endpoint = self._endpoint
        exchange.attempts = exchange.attempts or 1
        client = _Client(self._clock, receive)
        try:
            await self._forward(scope, send, exchange, client)
        except ClientDisconnected:
            exchange.failure = CLIENT_LEFT
        except asyncio.CancelledError:
            if not client.left():
                raise
            exchange.failure = CLIENT_LEFT
        finally:
            await client.stop_watching()

    async def aclose(self) -> None:
        """Close the connections to the service."""
        await self._transport.aclose()

    async def _forward(self, scope: Scope, send: Send, exchange: Exchange, client: _Client) -> None:
        clock = self._clock
        started = clock.monotonic()
        try:
            response = await self._transport.exchange(await self._request(scope, client))
        except UpstreamError as error:
            exchange.upstream_seconds = clock.monotonic() - started
            await _refusal(error)(scope, client.receive, send)
            return
        except MalformedRequest as error:
            await Problem(400, Failure("bad_request", "client"), f"Refused: {error}.")(
                scope, client.receive, send
            )
            return
        exchange.upstream_status = response.status
        exchange.first_byte_seconds = clock.monotonic() - started
        try:
            await _pass_on(response, send, client)
        except UpstreamError as error:
            exchange.failure = error.failure
            raise ResponseAborted(error.failure) from error
        finally:
            exchange.upstream_seconds = clock.monotonic() - started
            await response.aclose()

    async def _request(self, scope: Scope, client: _Client) -> UpstreamRequest:
        passed, ended = split_request(scope["headers"])
        host = get_header(ended, b"host") or b""
        prefix: bytes = scope.get(STRIPPED_PREFIX, b"")
        peer = scope.get("client")
        headers = [(b"host", self._authority or host), *passed]
        headers += forwarded_headers(
            ended,
            peer=peer[0].encode("latin-1") if peer else b"unknown",
            scheme=scope.get("scheme", "http").encode("ascii"),
            host=host,
            prefix=prefix,
            trusted=scope.get(TRUSTED_PEER, False),
        )
        headers.append((b"via", b"%b asgi-gateway" % scope.get("http_version", "1.1").encode("ascii")))
        trace = scope.get(TRACE)
        if trace is not None:
            headers = replaced(headers, b"traceparent", trace.child_header())
        body, length = await client.upload(scope, ended)
        return UpstreamRequest(
            scope["method"].encode("ascii"), self._target(scope, prefix), headers, body, length
        )

    def _target(self, scope: Scope, prefix: bytes) -> bytes:
        """The client's own bytes less the stripped prefix, behind the service's base path."""
        raw = raw_request_path(scope)
        path = without_prefix(raw, prefix) if prefix else raw
        if path is None:
            raise MalformedRequest("its raw path does not spell out the routed prefix")
        query: bytes = scope.get("query_string", b"")
        return self._base_path + path + (b"?" + query if query else b"")


class _Client:
    """The client's side of one exchange: its upload, and whether it is still there.

    Nothing but one of these calls `receive` at a time: `upload`, the iterator that it returns, or
    the watcher that follows them.
    """

    __slots__ = (
        "_cancelling",
        "_left",
        "_old",
        "_task",
        "_timer",
        "_uploaded",
        "_watcher",
        "answered",
        "receive",
    )

    def __init__(self, clock: Clock, receive: Receive) -> None:
        self.receive = receive
        self.answered = False
        self._left = False
        self._old = False
        self._uploaded = False
        self._task: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._timer = clock.call_later(WATCH_AFTER, self._grow_old)
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0

    async def upload(
        self, scope: Scope, ended: Headers
    ) -> tuple[bytes | AsyncIterator[bytes] | None, int | None]:
        """The request's body as the transport wants it, and its declared length."""
        length = _declared_length(ended)
        chunked = get_header(ended, b"transfer-encoding") is not None
        if length is not None and chunked:
            raise MalformedRequest("it has both a Content-Length and a Transfer-Encoding")
        if length is None and not chunked and scope.get("http_version", "1.1") in ("1.0", "1.1"):
            self._uploaded = True
            return None, None
        message = await self._next_message()
        data: bytes = message.get("body", b"")
        if message.get("more_body", False):
            return self._rest(data, length), length
        self._upload_ended()
        return (data if data or chunked or length is not None else None), None

    async def _rest(self, first: bytes, length: int | None) -> AsyncIterator[bytes]:
        """The upload as it comes in; one that does not keep to its length counts as broken off."""
        yield first
        received = len(first)
        more = True
        while more:
            message = await self._next_message()
            data = message.get("body", b"")
            received += len(data)
            more = message.get("more_body", False)
            if length is not None and (received > length or (received < length and not more)):
                raise ClientDisconnected
            yield data
        self._upload_ended()

    async def _next_message(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        return message

    # Watching

    def _upload_ended(self) -> None:
        self._uploaded = True
        if self._old:
            self._watch()

    def _grow_old(self) -> None:
        self._old = True
        if self._uploaded:
            self._watch()

    def _watch(self) -> None:
        self._watcher = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if not self.answered and self._task is not None:
            self._left = True
            self._task.cancel()

    def left(self) -> bool:
        """Whether it was the watcher that cancelled this exchange; if so the cancellation is undone."""
        return self._left and self._task is not None and self._task.uncancel() <= self._cancelling

    async def stop_watching(self) -> None:
        self._timer.cancel()
        watcher = self._watcher
        if watcher is None:
            return
        watcher.cancel()
        await asyncio.wait([watcher])
        if not watcher.cancelled():
            watcher.result()


async def _pass_on(response: UpstreamResponse, send: Send, client: _Client) -> None:
    headers = end_to_end_response(response.headers)
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    more = True
    while more:
        body, more = await response.read()
        client.answered = not more
        await send({"type": "http.response.body", "body": body, "more_body": more})


def _declared_length(ended: Headers) -> int | None:
    values = set(get_all(ended, b"content-length"))
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit():
        raise MalformedRequest("its Content-Length is not one number")
    return int(value)


def _refusal(error: UpstreamError) -> Problem:
    failure = error.failure
    return Problem(_STATUSES.get(failure.kind, 502), failure, _DETAILS[failure.kind])
