"""WebSocket as other people wrote it, on either side: aiohttp, and wsproto on a bare socket.

Both are a `Peer`, and a peer is the same whether it dialled or was dialled.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

import aiohttp
from aiohttp import WSMsgType, web
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

LOST = 1006


class Closed(Exception):
    """The other side ended it: its code and its reason, 1006 where it said neither."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.said = code, reason


class Peer(Protocol):
    """One end of a WebSocket. `send` takes one message in one or more fragments."""

    subprotocol: str | None

    async def send(self, *fragments: str | bytes) -> None: ...

    async def receive(self) -> str | bytes: ...

    async def ping(self) -> None:
        """Return once it is answered; a message that comes before is lost."""

    async def close(self, code: int, reason: str) -> None: ...

    def drop(self) -> None: ...


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


class AiohttpPeer:
    """aiohttp sends no fragments: it puts them together first."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        dialled = isinstance(connection, aiohttp.ClientWebSocketResponse)
        self.subprotocol = connection.protocol if dialled else connection.ws_protocol
        self._pongs = 0

    async def send(self, *fragments: str | bytes) -> None:
        if isinstance(fragments[0], str):
            await self.connection.send_str("".join(fragments))
        else:
            await self.connection.send_bytes(b"".join(fragments))

    async def receive(self) -> str | bytes:
        while (message := await self._next()) is None:
            pass
        return message

    async def ping(self) -> None:
        before = self._pongs
        await self.connection.ping(b"there?")
        while self._pongs == before:
            await self._next()

    async def close(self, code: int, reason: str) -> None:
        await self.connection.close(code=code, message=reason.encode())

    def drop(self) -> None:
        self.connection.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.connection._writer.transport.abort()

    async def _next(self) -> str | bytes | None:
        message = await self.connection.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return message.data
        if message.type is WSMsgType.PING:
            await self.connection.pong(message.data)
        elif message.type is WSMsgType.PONG:
            self._pongs += 1
        elif message.type is WSMsgType.CLOSE:
            raise Closed(message.data or 1005, message.extra or "")
        else:
            raise Closed(LOST)
        return None


class WsprotoPeer:
    """wsproto does no I/O at all; what it wants said and hears goes through asyncio's streams."""

    def __init__(
        self, kind: ConnectionType, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.subprotocol: str | None = None
        self._protocol = WSConnection(kind)
        self._reader = reader
        self._writer = writer
        self._events: Any = iter(())
        self._parts: list[Any] = []
        self._pongs = 0

    async def dial(self, url: str, subprotocols: list[str]) -> None:
        parts = urlsplit(url)
        self._say(Request(host=parts.netloc, target=parts.path, subprotocols=subprotocols))
        accepted = await self._event()
        assert isinstance(accepted, AcceptConnection)
        self.subprotocol = accepted.subprotocol

    async def answer(self) -> None:
        request = await self._event()
        assert isinstance(request, Request)
        self.subprotocol = next(iter(request.subprotocols), None)
        self._say(AcceptConnection(subprotocol=self.subprotocol))

    async def send(self, *fragments: str | bytes) -> None:
        for number, data in enumerate(fragments, 1):
            kind = TextMessage if isinstance(data, str) else BytesMessage
            self._say(kind(data=data, message_finished=number == len(fragments)))
            await self._writer.drain()

    async def receive(self) -> str | bytes:
        while (message := await self._next()) is None:
            pass
        return message

    async def ping(self) -> None:
        before = self._pongs
        self._say(Ping(payload=b"there?"))
        while self._pongs == before:
            await self._next()

    async def close(self, code: int, reason: str) -> None:
        self._say(CloseConnection(code=code, reason=reason))
        while not isinstance(await self._event(), CloseConnection):
            pass
        self._writer.close()

    def drop(self) -> None:
        self._writer.transport.abort()

    async def _next(self) -> str | bytes | None:
        event = await self._event()
        if isinstance(event, Message):
            self._parts.append(event.data)
            if event.message_finished:
                parts, self._parts = self._parts, []
                return "".join(parts) if isinstance(parts[0], str) else b"".join(map(bytes, parts))
        elif isinstance(event, Ping):
            self._say(event.response())
        elif isinstance(event, Pong):
            self._pongs += 1
        elif isinstance(event, CloseConnection):
            if event.code != LOST:
                self._say(event.response())
            self._writer.close()
            raise Closed(int(event.code), event.reason or "")
        return None

    async def _event(self) -> Any:
        while True:
            for event in self._events:
                return event
            try:
                data = await self._reader.read(65536)
            except ConnectionError:
                data = b""
            self._protocol.receive_data(data or None)
            self._events = self._protocol.events()

    def _say(self, event: Any) -> None:
        try:
            self._writer.write(self._protocol.send(event))
        except LocalProtocolError as error:
            raise Closed(LOST) from error


@asynccontextmanager
async def aiohttp_client(url: str, *subprotocols: str) -> AsyncIterator[Peer]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            url, protocols=subprotocols, autoping=False, max_msg_size=0, compress=0
        ) as connection,
    ):
        yield AiohttpPeer(connection)


@asynccontextmanager
async def wsproto_client(url: str, *subprotocols: str) -> AsyncIterator[Peer]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    peer = WsprotoPeer(ConnectionType.CLIENT, reader, writer)
    try:
        await peer.dial(url, list(subprotocols))
        yield peer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def aiohttp_service(script: Script, *subprotocols: str) -> AsyncIterator[str]:
    async def handler(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(
            protocols=subprotocols, autoping=False, max_msg_size=0, compress=False
        )
        await connection.prepare(request)
        await script(AiohttpPeer(connection))
        return connection

    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def wsproto_service(script: Script, *subprotocols: str) -> AsyncIterator[str]:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = WsprotoPeer(ConnectionType.SERVER, reader, writer)
        try:
            await peer.answer()
            await script(peer)
        finally:
            writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


CLIENTS = {"aiohttp": aiohttp_client, "wsproto": wsproto_client}
SERVICES = {"aiohttp": aiohttp_service, "wsproto": wsproto_service}
