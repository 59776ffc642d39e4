"""Both sides of a proxied WebSocket: a service of `websockets`' own making, and a client of raw bytes."""

import base64
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from asgi_gateway import Gateway
from asgi_gateway.testing import Process, RawClient, Server, serve

Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def service(handler: Handler = echo, **options: Any) -> AsyncIterator[WebSocketServer]:
    settings = {"compression": None, "ping_interval": None, "max_size": None, "close_timeout": 1, **options}
    async with serve_websocket(handler, "127.0.0.1", 0, **settings) as server:
        yield server


def url_of(server: WebSocketServer) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def settings(url: str, **service: Any) -> dict[str, Any]:
    routes = [{"path": "/api/*", "strip_prefix": "/api"}]
    return {"version": 1, "services": {"live": {"url": url, "routes": routes, **service}}}


@asynccontextmanager
async def gateway(url: str, *, uvicorn: Any = None, chain: Any = (), **service: Any) -> AsyncIterator[Server]:
    """A gateway under uvicorn, whose own limits and pings are out of the way."""
    options = {"ws_max_size": 2**30, "ws_ping_interval": None, "ws_per_message_deflate": False}
    app = Gateway({**settings(url, **service), "middleware": list(chain)})
    async with serve(app, **{**options, **(uvicorn or {})}) as server:
        yield server


def dial(server: Server | Process, path: str = "/api/chat", **options: Any) -> connect:
    settings = {"proxy": None, "compression": None, "max_size": None, "ping_interval": None, **options}
    return connect(server.url.replace("http", "ws", 1) + path, **settings)


@asynccontextmanager
async def through(
    handler: Handler = echo, *, client: Any = None, accepting: Any = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    """A client that talks to a service through the gateway."""
    async with (
        service(handler, **(accepting or {})) as upstream,
        gateway(url_of(upstream), **options) as server,
        dial(server, **(client or {})) as connection,
    ):
        yield connection


class RawWebSocket(RawClient):
    """A client whose every byte is the test's; it masks with zeros, which leaves frames readable."""

    async def handshake(self, target: bytes = b"/api/chat", *headers: bytes) -> bytes:
        """Ask for a WebSocket; returns the head of the answer."""
        key = base64.b64encode(os.urandom(16))
        lines = [
            b"GET %b HTTP/1.1" % target,
            b"Host: public.example",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: " + key,
            *headers,
        ]
        self.write(b"\r\n".join([*lines, b"", b""]))
        return await self.head()

    def say(self, opcode: int, data: bytes = b"", *, final: bool = True) -> None:
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack("!H", size)
        self.write(bytes([final << 7 | opcode]) + length + bytes(4) + data)

    async def frame(self) -> tuple[int, bytes]:
        first, size = await self.exactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.exactly(8))
        return first, await self.exactly(size)
