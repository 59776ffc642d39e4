"""The upstream transport over any `httpx.AsyncBaseTransport`.

For HTTP/2, which our own transport does not speak; in Python also for whatever else is built on httpx's
transports. It calls the httpx transport itself, never a client, so there are no cookies, no
redirects, no merged headers, and the target goes out byte for byte.

httpcore hands bytes that follow an HTTP/1.1 answer to the next request on that connection, against
RFC 9112 section 6.3. Therefore the transport that is made here keeps no HTTP/1.1 connection alive.
HTTP/2 frames every answer, so its connections are kept and shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.util import find_spec
from typing import Any

import httpx

from asgi_gateway.clock import Clock
from asgi_gateway.errors import Failure, MissingExtra
from asgi_gateway.proxy.http2 import broke_off, check_headers, protocol_errors, reset_forgotten
from asgi_gateway.proxy.sending import Sending
from asgi_gateway.proxy.tls import ClientTls, Tls
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
        tls: ClientTls | Tls | None = None,
        http2: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if http2 and find_spec("h2") is None:
            raise MissingExtra("HTTP/2 to a service", "http2")
        self._tls: ClientTls | None = None
        if origin.tls:
            self._tls = tls if isinstance(tls, ClientTls) else ClientTls(tls or Tls())
        self._server_name = self._tls.server_name if self._tls else None
        self._http2 = http2
        self._breaches: tuple[type[Exception], ...] = protocol_errors() if http2 else ()
        self._breaks: tuple[type[Exception], ...] = (httpx.TransportError, *self._breaches)
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
            verify=self._tls.context() if self._tls else False,
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
        if self._http2:
            check_headers(request.headers)
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
        """Open none: httpx does so only for a request."""
        self._closing = False

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
        # Reading has no limit there: over HTTP/2 it would be that of all who share a connection.
        waits = {"connect": timeouts.connect, "read": None, "write": timeouts.idle}
        sending = Sending(request.body, timeouts, self._clock)
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
        if self._http2:  # it may have to wait for another stream to end
            sending.expect_within(timeouts.connect)
        try:
            response = await self._transport.handle_async_request(sent)
        except BaseException as error:
            late = sending.was_late()
            await self._abandoned(silent=late)
            if late:
                raise _late(request_sent=sending.begun) from error
            if isinstance(error, httpx.TransportError):
                raise self._translated(error) from error
            raise
        finally:
            sending.stop()
        return HttpxResponse(response, self._next, self._ended)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """The next piece of an answer, None at its end."""
        try:
            async with self._clock.timeout(self._timeouts.idle):
                return await anext(chunks, None)
        except TimeoutError as error:
            await self._abandoned(silent=True)
            raise _late(request_sent=True) from error
        except self._breaks as error:
            raise self._translated(error) from error

    async def _ended(self, *, complete: bool) -> None:
        try:
            if not complete:
                await self._abandoned()
        finally:
            await self._released()

    async def _abandoned(self, *, silent: bool = False) -> None:
        """Tell the service of a stream that nobody reads any more; a connection of its own just closes.

        One whose service was `silent` for too long may be dead, and is asked for nothing more.
        """
        if self._http2:
            await reset_forgotten(self._transport, self._timeouts.idle, retire=silent)

    def _translated(self, error: Exception) -> UpstreamError:
        """Who failed, and whether the service can have seen the request."""
        failure = Failure("reset", "upstream", request_sent=True)
        if isinstance(error, httpx.ConnectTimeout):
            failure = Failure("timeout", "upstream")
        elif isinstance(error, httpx.ConnectError | httpx.ProxyError | httpx.UnsupportedProtocol):
            failure = Failure("connect", "upstream")
        elif isinstance(error, httpx.TimeoutException):
            failure = Failure("timeout", "upstream", request_sent=True)
        elif isinstance(error, (httpx.ProtocolError, *self._breaches)) and not self._broke_off(error):
            if isinstance(error, httpx.LocalProtocolError) and not self._http2:
                raise MalformedRequest("httpx will not send it") from error
            failure = Failure("protocol", "upstream", request_sent=True)
        return UpstreamError(failure, repr(error))

    def _broke_off(self, error: Exception) -> bool:
        return "disconnected" in str(error) or (self._http2 and broke_off(error))


class HttpxResponse:
    """An answer that arrives through httpx; see `UpstreamResponse`."""

    def __init__(
        self,
        response: httpx.Response,
        read_next: Callable[[AsyncIterator[bytes]], Awaitable[bytes | None]],
        on_ended: Callable[..., Awaitable[None]],
    ) -> None:
        self.status = response.status_code
        self.trailers: Headers = []  # httpcore drops them
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]
        stream = response.stream
        if not isinstance(stream, httpx.AsyncByteStream):
            raise TypeError("the httpx transport answered with a stream that is not asynchronous")
        self._stream = stream
        self._chunks = aiter(stream)
        self._read_next = read_next
        self._on_ended = on_ended
        self._complete = False
        self._closed = False

    def take(self) -> tuple[bytes, bool] | None:
        return None

    async def read(self) -> tuple[bytes, bool]:
        piece = await self._read_next(self._chunks)
        self._complete = piece is None
        return piece or b"", piece is not None

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


def _framed(request: UpstreamRequest) -> Headers:
    """The headers with the framing that h11 and h2 expect to be told."""
    if request.body is None:
        return request.headers
    if isinstance(request.body, bytes):
        return [*request.headers, (b"content-length", b"%d" % len(request.body))]
    if request.length is not None:
        return [*request.headers, (b"content-length", b"%d" % request.length)]
    return [*request.headers, (b"transfer-encoding", b"chunked")]


def _late(*, request_sent: bool) -> UpstreamError:
    reason = "the service did not answer in time" if request_sent else "no connection in time"
    return UpstreamError(Failure("timeout", "upstream", request_sent=request_sent), reason)
