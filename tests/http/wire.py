"""A client that says bytes and reads one answer after the other, nothing put right."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Self

from asgi_gateway.types import Headers


@dataclass
class Reply:
    """One answer as it arrived. `closed` says that the connection ended with it."""

    status: int
    headers: Headers
    raw_head: bytes
    body: bytes = b""
    interim: list[int] = field(default_factory=list)
    trailers: list[bytes] = field(default_factory=list)
    closed: bool = False

    def all(self, name: str) -> list[bytes]:
        return [value for key, value in self.headers if key == name.encode()]

    def header(self, name: str) -> bytes | None:
        return next(iter(self.all(name)), None)


class Client:
    """One connection to a port of 127.0.0.1, from `source`."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._port = port
        self._source = source

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(self._source, 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def say(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def reply(self, method: bytes = b"GET") -> Reply:
        """The next final answer, framed by RFC 9112 section 6.3."""
        interim = []
        async with asyncio.timeout(10):
            while (reply := await self._head()).status < 200:
                interim.append(reply.status)
            reply.interim = interim
            await self._body(reply, method)
        return reply

    async def _head(self) -> Reply:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 ")
        pairs = [line.split(b": ", 1) for line in lines]
        return Reply(int(first[9:12]), [(name.lower(), value) for name, value in pairs], raw)

    async def _body(self, reply: Reply, method: bytes) -> None:
        reader, length = self.reader, reply.header("content-length")
        if method == b"HEAD" or reply.status in (204, 304):
            pass
        elif reply.header("transfer-encoding"):
            while size := int(await reader.readuntil(b"\r\n"), 16):
                reply.body += (await reader.readexactly(size + 2))[:-2]
            while line := (await reader.readuntil(b"\r\n"))[:-2]:
                reply.trailers.append(line)
        elif length is not None:
            reply.body = await reader.readexactly(int(length))
        else:
            reply.body = await reader.read()
            reply.closed = True
        if b"close" in reply.all("connection"):
            assert await reader.read() == b""
            reply.closed = True
