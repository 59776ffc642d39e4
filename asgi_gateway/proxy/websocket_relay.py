"""Messages between a client and a service, both ways at once, until one side ends.

One pump each way. A pump takes its next message only when the other side took the one before, so a
slow reader pauses whoever sends to it. The pump that ends first says how, and the other side is told:

- a close code and its reason are passed on as they are;
- codes that never travel (RFC 6455 section 7.4.1) become 1000 (1005, a close without a code) or 1011
  (1006 and 1015, no close at all);
- a service that breaks the protocol is 1011 for the client, a message over the limit 1009 for both.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal

from websockets.exceptions import ConnectionClosed
from websockets.frames import EXTERNAL_CLOSE_CODES

from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import Failure
from asgi_gateway.proxy.app import CLIENT_LEFT
from asgi_gateway.proxy.transport import WebSocketOptions
from asgi_gateway.proxy.websocket_client import CLOSE_WITHIN, ServiceConnection
from asgi_gateway.types import Message, Receive, Send

NO_CODE: Final = 1005
LOST: Final = 1006
GOING_AWAY: Final = 1001
TOO_BIG: Final = 1009
INTERNAL: Final = 1011

_UNSENDABLE: Final = {LOST: INTERNAL, 1015: INTERNAL}


@dataclass(frozen=True, slots=True)
class End:
    """Who ended it, and what the other side is told; where it was the gateway, both are."""

    by: Literal["client", "service", "gateway"]
    code: int
    reason: str = ""
    failure: Failure | None = None


CLIENT_LOST: Final = End("client", INTERNAL, failure=CLIENT_LEFT)
IDLE: Final = End("gateway", GOING_AWAY, "idle")
LEAVING: Final = End("gateway", GOING_AWAY)
STALLED: Final = End(
    "gateway", INTERNAL, "the service stopped reading", Failure("timeout", "upstream", request_sent=True)
)


class Relay:
    """One client and one service. `stall` is how many seconds a service may leave a message untaken."""

    def __init__(
        self,
        service: ServiceConnection,
        receive: Receive,
        send: Send,
        *,
        options: WebSocketOptions,
        stall: float,
        clock: Clock,
    ) -> None:
        self._service = service
        self._receive = receive
        self._send = send
        self._options = options
        self._stall = stall
        self._clock = clock
        self._moved = clock.monotonic()
        self._untaken_since: float | None = None
        self._cut: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._timer: Timer | None = None

    async def run(self, accept: Message, first: asyncio.Future[Message]) -> Failure | None:
        """Accept the client, carry messages, close both sides; returns what went wrong, if anything did.

        `first` is a call of `receive` that is already waiting.
        """
        try:
            end = await self._pump(accept, first)
            if end.by != "client":
                await self._tell_client(end)
            if end.by != "service":
                await self._tell_service(end)
            return end.failure
        finally:
            await self._service.abort()

    async def _pump(self, accept: Message, first: asyncio.Future[Message]) -> End:
        try:
            await self._send(accept)
        except OSError:
            return CLIENT_LOST
        pumps = [asyncio.ensure_future(self._up(first)), asyncio.ensure_future(self._down())]
        self._look()
        try:
            done, _ = await asyncio.wait([*pumps, self._cut], return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            for pump in pumps:
                if not pump.cancelled():
                    pump.result()

    def go_away(self) -> None:
        """End it as a server that stops does (RFC 6455 section 7.4.1)."""
        if not self._cut.done():
            self._cut.set_result(LEAVING)

    # The pumps

    async def _up(self, first: asyncio.Future[Message]) -> End:
        message = await first
        while message["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                data, is_text = _content(message)
                if len(data) > self._options.max_message:
                    return End("gateway", TOO_BIG, "the message is too big")
                self._moved = self._untaken_since = self._clock.monotonic()
                try:
                    await self._service.send(data, text=is_text)
                except ConnectionClosed:
                    await self._cut  # the other pump says how it ended, once it has delivered the rest
                self._untaken_since = None
            message = await self._receive()
        code = message.get("code") or NO_CODE
        failure = CLIENT_LEFT if code == LOST else None
        return End("client", _sendable(code), message.get("reason") or "", failure)

    async def _down(self) -> End:
        while True:
            try:
                data = await self._service.recv()
            except ConnectionClosed as closed:
                return _ended(closed)
            self._moved = self._clock.monotonic()
            kind = "text" if isinstance(data, str) else "bytes"
            try:
                await self._send({"type": "websocket.send", kind: data})
            except OSError:
                return CLIENT_LOST

    # Ending

    async def _tell_client(self, end: End) -> None:
        try:
            await self._send({"type": "websocket.close", "code": end.code, "reason": end.reason})
        except OSError:  # it left meanwhile, so there is nobody to be told
            return

    async def _tell_service(self, end: End) -> None:
        """Close the service's side; what it still sends is dropped, so that its own close can arrive."""
        self._service.close_timeout = CLOSE_WITHIN
        closing = asyncio.ensure_future(self._service.close(end.code, end.reason))
        try:
            async with self._clock.timeout(CLOSE_WITHIN):
                while True:
                    await self._service.recv()
        except (ConnectionClosed, TimeoutError):
            pass
        finally:
            await self._service.abort()
            await closing

    def _look(self) -> None:
        """Whether a limit of time is reached; if not, look again when the next one may be."""
        now = self._clock.monotonic()
        idle = self._options.idle
        left = self._stall if self._untaken_since is None else self._untaken_since + self._stall - now
        idle_left = left if idle is None else self._moved + idle - now
        if min(left, idle_left) > 0:
            self._timer = self._clock.call_later(min(left, idle_left), self._look)
        elif not self._cut.done():
            self._cut.set_result(STALLED if left <= 0 else IDLE)


def _content(message: Message) -> tuple[bytes, bool]:
    """The bytes of a message and whether they are text. Both keys may be there, one of them empty."""
    data: bytes | None = message.get("bytes")
    text: str | None = message.get("text")
    return (data or b"", False) if data or text is None else (text.encode(), True)


def _sendable(code: int) -> int:
    """What stands for a code that a close frame may not have (RFC 6455 section 7.4)."""
    known = code in EXTERNAL_CLOSE_CODES or 3000 <= code < 5000
    return code if known else _UNSENDABLE.get(code, 1000)


def _ended(closed: ConnectionClosed) -> End:
    """What the client is told of the end of the service's side."""
    if closed.rcvd is not None and closed.rcvd_then_sent is not False:
        code = closed.rcvd.code
        return End("service", _sendable(code), closed.rcvd.reason)
    ours = closed.sent.code if closed.sent is not None else None
    if ours is None:
        return End("service", INTERNAL, failure=Failure("reset", "upstream", request_sent=True))
    if ours == INTERNAL:  # the only other thing that `websockets` ends by itself: a ping unanswered
        return End("service", INTERNAL, failure=Failure("timeout", "upstream", request_sent=True))
    code = TOO_BIG if ours == TOO_BIG else INTERNAL
    return End("service", code, failure=Failure("protocol", "upstream", request_sent=True))
