"""The client's end of a WebSocket, towards a service: `websockets`, set up for forwarding.

Nothing is compressed, redirected or added. The request's head is written here, byte for byte;
`websockets` keeps the rules of the protocol from there on.
"""

from __future__ import annotations

from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import Failure, FailureKind, MissingExtra
from asgi_gateway.proxy.http1 import request_head
from asgi_gateway.proxy.transport import Timeouts, UpstreamError, UpstreamRequest, WebSocketOptions
from asgi_gateway.proxy.websocket import Dial
from asgi_gateway.types import Headers

try:
    from websockets.asyncio.client import ClientConnection
    from websockets.client import ClientProtocol
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.frames import Frame, Opcode
    from websockets.http11 import Request, Response
    from websockets.protocol import Event
    from websockets.typing import Subprotocol
    from websockets.uri import WebSocketURI
except ImportError as error:
    raise MissingExtra("forwarding WebSocket", "websocket") from error

CLOSE_WITHIN = 10.0
"""Seconds that the service has to answer a close; it may still be reading what was sent before."""

HANG_UP_WITHIN = 1.0
"""Seconds that the service has to end the connection where it said close, or broke the protocol."""

WRITE_LIMIT = 64 * 1024
"""Bytes that may wait for a slow service before the client is paused."""

QUEUE = 1
"""Messages, or fragments of one, that may wait for a slow client before the service is paused."""


class Refused(Exception):
    """The service answered the handshake with a status of its own. Header names are in lower case."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.status = response.status_code
        self.headers = _raw(response)
        self.body = bytes(response.body or b"")


class ServiceConnection(ClientConnection):
    """A connection to a service whose close frame, or breach of the protocol, counts even if it stays."""

    def __init__(self, protocol: ClientProtocol, *, ping_interval: float | None, clock: Clock) -> None:
        super().__init__(
            protocol,
            ping_interval=ping_interval,
            ping_timeout=ping_interval,
            close_timeout=HANG_UP_WITHIN,
            max_queue=(QUEUE, 0),
            write_limit=WRITE_LIMIT,
        )
        self._clock = clock
        self._closing: Timer | None = None

    @property
    def answered(self) -> Headers:
        """The headers of the service's answer to the handshake, names in lower case."""
        return _raw(self.response) if self.response is not None else []

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.protocol.parser_exc is not None:
            self._hang_up_soon()

    def process_event(self, event: Event) -> None:
        super().process_event(event)
        if isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
            self._hang_up_soon()

    def _hang_up_soon(self) -> None:
        """RFC 6455 section 7.1.1 leaves it to the server to close the connection; not all do."""
        if self._closing is None:
            self._closing = self._clock.call_later(HANG_UP_WITHIN, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)

    async def abort(self) -> None:
        """Break the connection off; returns when it is gone."""
        self.transport.abort()
        await self.wait_closed()


class _Handshake(ClientProtocol):
    """A handshake whose request is ours to write. Raises `MalformedRequest`."""

    def __init__(self, request: UpstreamRequest, subprotocols: list[str], max_size: int) -> None:
        offered = [Subprotocol(name) for name in subprotocols] or None
        super().__init__(
            WebSocketURI(secure=False, host="", port=0, path="", query=""),
            subprotocols=offered,
            max_size=max_size,
        )
        headers = [
            *request.headers,
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", self.key.encode("ascii")),
        ]
        if subprotocols:
            headers.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("ascii")))
        self._head = request_head(UpstreamRequest(request.method, request.target, headers))

    def send_request(self, request: Request) -> None:
        self.writes.append(self._head)


async def connect(
    dial: Dial,
    request: UpstreamRequest,
    subprotocols: list[str],
    *,
    timeouts: Timeouts,
    options: WebSocketOptions,
    clock: Clock,
) -> ServiceConnection:
    """Connect and shake hands. Raises `Refused`, `UpstreamError` and `MalformedRequest`."""
    protocol = _Handshake(request, subprotocols, options.max_message)
    try:
        async with clock.timeout(timeouts.connect):
            connection = await dial(
                lambda: ServiceConnection(protocol, ping_interval=options.ping_interval, clock=clock)
            )
    except TimeoutError as error:
        raise _failed("timeout", "no connection in time", sent=False) from error
    except OSError as error:
        raise _failed("connect", f"no connection: {error!r}", sent=False) from error
    try:
        async with clock.timeout(timeouts.first_byte):
            await connection.handshake(user_agent_header=None)
    except (InvalidHandshake, OSError, EOFError) as error:
        await connection.abort()
        raise _translated(error) from error
    except BaseException:
        await connection.abort()
        raise
    connection.start_keepalive()
    return connection


def _translated(error: Exception) -> Refused | UpstreamError:
    if isinstance(error, InvalidStatus):
        if error.response.status_code < 300:  # an answer, but to a question that nobody asked
            return _failed("protocol", f"answered {error.response.status_code} to a WebSocket handshake")
        return Refused(error.response)
    if isinstance(error, TimeoutError):
        return _failed("timeout", "no answer to the handshake in time")
    if isinstance(error, EOFError | OSError) or isinstance(error.__cause__, EOFError):
        return _failed("reset", "the service closed the connection")
    return _failed("protocol", f"the answer to the handshake is not valid: {error}")


def _failed(kind: FailureKind, reason: str, *, sent: bool = True) -> UpstreamError:
    return UpstreamError(Failure(kind, "upstream", request_sent=sent), reason)


def _raw(response: Response) -> Headers:
    """`websockets` decodes as Latin-1; this leads back."""
    return [
        (name.lower().encode("ascii"), value.encode("latin-1"))
        for name, value in response.headers.raw_items()
    ]
