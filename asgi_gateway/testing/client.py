"""A client of raw bytes: it says exactly what a test tells it to, and sees how the connection ended."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Literal, Self, TypeAlias
from urllib.parse import urlsplit

import h11

from asgi_gateway.testing.asgi import Answer

End: TypeAlias = Literal["closed", "reset"]
"""How the other side ended a connection: by a FIN or by an RST."""


class RawClient:
    """One TCP connection to the host and port of a URL, whose every byte is the test's.

        async with RawClient(server.url) as client:
            await client.send(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
            assert (await client.answer()).status == 200

    Each reading method waits `seconds` at most, default 5, and then raises `TimeoutError`. What is
    not read stays with the sender once `limit` bytes have come, default 64 KiB, so that a test which
    does not read is a slow reader. Leaving the block drops the connection.
    """

    def __init__(self, url: str, *, seconds: float = 5.0, limit: int = 64 * 1024) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._seconds = seconds
        self._limit = limit
        self._spare = bytearray()
        self.ended: End | None = None

    async def open(self) -> Self:
        """Connect, where no block is wanted; then `close` is the test's own business."""
        host, port = self._address
        self._reader, self._writer = await asyncio.open_connection(host, port, limit=self._limit)
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    # Saying

    def write(self, raw: bytes) -> None:
        """Say something without waiting until it is taken."""
        self._writer.write(raw)

    async def send(self, raw: bytes) -> None:
        """Say something; returns once little of it waits to be taken."""
        self._writer.write(raw)
        await self._writer.drain()

    def finish(self) -> None:
        """Send a FIN and go on listening: the half of a close."""
        self._writer.write_eof()

    def close(self) -> None:
        """Send a FIN and listen no more, as a client that leaves does."""
        self._writer.close()

    def reset(self) -> None:
        """Send an RST, as the system of a process that was killed may do."""
        handle = self._writer.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    # Listening

    async def until(self, end: bytes) -> bytes:
        """All up to and with `end`; raises `EOFError` where the connection ends before."""
        async with asyncio.timeout(self._seconds):
            while (found := self._spare.find(end)) < 0:
                await self._more()
        return self._take(found + len(end))

    async def exactly(self, size: int) -> bytes:
        """So many bytes; raises `EOFError` where the connection ends before."""
        async with asyncio.timeout(self._seconds):
            while len(self._spare) < size:
                await self._more()
        return self._take(size)

    async def head(self) -> bytes:
        """The head of an answer, its blank line included."""
        return await self.until(b"\r\n\r\n")

    async def answer(self, method: str = "GET") -> Answer:
        """One whole answer to a request by this method, interim ones passed over, as h11 reads it.

        Raises `h11.RemoteProtocolError` where it is malformed or ends before it should, and
        `ConnectionResetError` where the connection was reset before its end.
        """
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        parser.send(h11.EndOfMessage())
        if self._spare:
            parser.receive_data(self._take(len(self._spare)))
        answer = Answer()
        async with asyncio.timeout(self._seconds):
            while not answer.complete:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    piece = await self._read()
                    if self.ended == "reset":  # which for h11 would be an end like any other
                        raise ConnectionResetError("the connection was reset inside the answer")
                    parser.receive_data(piece)
                elif isinstance(event, h11.Response):
                    answer.status = event.status_code
                    answer.headers = list(event.headers)
                elif isinstance(event, h11.Data):
                    answer.chunks.append(bytes(event.data))
                answer.complete = isinstance(event, h11.EndOfMessage)
        self._spare += parser.trailing_data[0]
        return answer

    async def rest(self) -> bytes:
        """All that comes until the connection ends; `ended` then says how it did."""
        async with asyncio.timeout(self._seconds):
            while self.ended is None:
                self._spare += await self._read()
        return self._take(len(self._spare))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._spare[:size])
        del self._spare[:size]
        return taken

    async def _more(self) -> None:
        piece = await self._read()
        if not piece:
            raise EOFError(f"the connection was {self.ended} after {bytes(self._spare)!r}")
        self._spare += piece

    async def _read(self) -> bytes:
        """What came, nothing where the connection has ended."""
        try:
            piece = await self._reader.read(64 * 1024)
        except ConnectionError:
            self.ended = "reset"
            return b""
        if not piece:
            self.ended = self.ended or "closed"
        return piece
