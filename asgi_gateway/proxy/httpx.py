"""The upstream transport over any `httpx.AsyncBaseTransport`.

For what our own transport does not do: HTTP/2 services, outbound proxies, ASGI apps in this
process, mocks. It calls the httpx transport itself, never a client, so there are no cookies, no
redirects, no merged headers, and the target goes out byte for byte.

httpcore hands bytes that follow an HTTP/1.1 answer to the next request on that connection, against
RFC 9112 section 6.3. Therefore the transport that is made here keeps no HTTP/1.1 connection alive.
HTTP/2 frames every answer, so its connections are kept and shared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.util import find_spec
from typing import Any

import httpcore
import httpx

from asgi_gateway.clock import Clock
from asgi_gateway.errors import Failure, MissingExtra
from asgi_gateway.proxy.http2 import reset_forgotten
from asgi_gateway.proxy.tls import Tls, client_context
from asgi_gateway.proxy.transport import (
    Connections,
    MalformedRequest,
    Origin,
    Timeouts,
    UpstreamError,
    UpstreamRequest,
    draining,
    overloaded,
)
from asgi_gateway.types import Headers


class HttpxTransport:
    """Send requests to one endpoint through httpx.

    A semaphore of exactly `connections.max` permits stands in front, because httpcore 1.0 loses
    pool slots for good when requests are cancelled while they queue for a connection.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        timeouts: Timeouts,
        connections: Connections,
        clock: Clock,
        tls: Tls | None = None,
        http2: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if http2 and find_spec("h2") is None:
            raise MissingExtra("HTTP/2 to a service", "http2")
        tls = tls or Tls()
        self._server_name = tls.server_name
        self._http2 = http2
        self._url = f"{'https' if origin.tls else 'http'}://{origin.authority}/"
        self._timeouts = timeouts
        self._clock = clock
        self._permits = asyncio.Semaphore(connections.max)
        self._waiting = 0
        self._in_flight = 0
        self._closing = False
        self._cut = False
        self._pending = connections.max_pending
        self._transport = transport or httpx.AsyncHTTPTransport(
            verify=client_context(tls) if origin.tls else False,
            trust_env=False,
            http1=not http2,
            http2=http2,
            uds=origin.path,
            limits=httpx.Limits(
                max_connections=connections.max,
                max_keepalive_connections=connections.max if http2 else 0,
                keepalive_expiry=connections.idle_expiry,
            ),
        )

    async def exchange(self, request: UpstreamRequest) -> HttpxResponse:
        """Send a request; raises `UpstreamError`, or what the body's iterator raised."""
        await self._permit()
        self._in_flight += 1
        try:
            if self._cut:
                raise draining(request_sent=False)
            return await self._send(request)
        except BaseException:
            await self._released()
            raise

    async def warm(self) -> None:
        """Nothing: httpx opens a connection only for a request."""

    async def aclose(self) -> None:
        """Close the httpx transport, which closes every connection, as soon as no exchange needs it."""
        self._closing = True
        if not self._in_flight:
            await self._transport.aclose()

    async def cut(self) -> None:
        """Break off every exchange and begin no more."""
        self._closing = self._cut = True
        await self._transport.aclose()

    @property
    def in_flight(self) -> int:
        """Exchanges that are not over."""
        return self._in_flight

    async def _released(self) -> None:
        self._permits.release()
        self._in_flight -= 1
        if self._closing and not self._in_flight:
            await self._transport.aclose()

    async def _permit(self) -> None:
        if self._permits.locked() and self._waiting >= self._pending:
            raise overloaded()
        self._waiting += 1
        try:
            async with self._clock.timeout(self._timeouts.connect):
                await self._permits.acquire()
        except TimeoutError:
            raise overloaded() from None
        finally:
            self._waiting -= 1

    async def _send(self, request: UpstreamRequest) -> HttpxResponse:
        timeouts = self._timeouts
        waits = {"connect": timeouts.connect, "read": timeouts.first_byte, "write": timeouts.idle}
        sending = _Sending(request.body)
        extensions: dict[str, Any] = {"target": request.target, "timeout": waits, "trace": sending.trace}
        if self._server_name is not None:
            extensions["sni_hostname"] = self._server_name
        sent = httpx.Request(
            request.method.decode("ascii"),
            self._url,
            headers=_framed(request),
            stream=sending,
            extensions=extensions,
        )
        try:
            response = await self._transport.handle_async_request(sent)
        except httpx.TransportError as error:
            await self._abandoned()
            raise _translated(error) from error
        except BaseException:
            await self._abandoned()
            raise
        waits["read"] = timeouts.idle  # httpcore looks again when the body is first read
        return HttpxResponse(response, self._ended)

    async def _ended(self, *, complete: bool) -> None:
        try:
            if not complete:
                await self._abandoned()
        finally:
            await self._released()

    async def _abandoned(self) -> None:
        """Tell the service of a stream that nobody reads any more; a connection of its own just closes."""
        if self._http2:
            with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException):
                await reset_forgotten(self._transport, self._timeouts.idle)


class HttpxResponse:
    """An answer that arrives through httpx; see `UpstreamResponse`."""

    def __init__(self, response: httpx.Response, on_ended: Callable[..., Awaitable[None]]) -> None:
        self.status = response.status_code
        self.trailers: Headers = []  # httpcore drops them
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]
        stream = response.stream
        if not isinstance(stream, httpx.AsyncByteStream):
            raise TypeError("the httpx transport answered with a stream that is not asynchronous")
        self._stream = stream
        self._chunks = aiter(stream)
        self._on_ended = on_ended
        self._complete = False
        self._closed = False

    def take(self) -> tuple[bytes, bool] | None:
        return None

    async def read(self) -> tuple[bytes, bool]:
        try:
            return await anext(self._chunks), True
        except StopAsyncIteration:
            self._complete = True
            return b"", False
        except httpx.TransportError as error:
            raise _translated(error) from error

    def release(self) -> bool:
        return self._closed

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._stream.aclose()
        finally:
            await self._on_ended(complete=self._complete)


class _Sending(httpx.AsyncByteStream):
    """A request on its way: its body, and how far it has come."""

    def __init__(self, body: bytes | AsyncIterator[bytes] | None) -> None:
        self._body = body
        self._begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if isinstance(self._body, bytes):
            yield self._body
        elif self._body is not None:
            self._begun = True
            async for chunk in self._body:
                yield chunk

    async def trace(self, event: str, _: dict[str, Any]) -> None:
        """Called by httpcore as it goes on.

        It begins anew where an HTTP/2 service closes its connection and says that it left the request
        out (RFC 9113 section 6.8). An upload is gone by then, so not even the head may go out again.
        """
        if event.endswith("send_request_headers.started") and self._begun:
            raise UpstreamError(Failure("reset", "upstream"), "the service closed the connection unused")


def _framed(request: UpstreamRequest) -> Headers:
    """The headers with the framing that h11 and h2 expect to be told."""
    if request.body is None:
        return request.headers
    if isinstance(request.body, bytes):
        return [*request.headers, (b"content-length", b"%d" % len(request.body))]
    if request.length is not None:
        return [*request.headers, (b"content-length", b"%d" % request.length)]
    return [*request.headers, (b"transfer-encoding", b"chunked")]


def _translated(error: httpx.TransportError) -> UpstreamError:
    """Who failed, and whether the service can have seen the request."""
    if isinstance(error, httpx.ConnectTimeout):
        failure = Failure("timeout", "upstream")
    elif isinstance(error, httpx.ConnectError | httpx.ProxyError | httpx.UnsupportedProtocol):
        failure = Failure("connect", "upstream")
    elif isinstance(error, httpx.TimeoutException):
        failure = Failure("timeout", "upstream", request_sent=True)
    elif isinstance(error, httpx.LocalProtocolError):
        raise MalformedRequest("httpx will not send it") from error
    elif isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
        failure = Failure("protocol", "upstream", request_sent=True)
    else:
        failure = Failure("reset", "upstream", request_sent=True)
    return UpstreamError(failure, repr(error))
