"""An HTTP/1.1 request as a test's service received it: nothing put right, nothing left out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

from asgi_gateway.types import Headers

if TYPE_CHECKING:
    from asgi_gateway.testing.connection import Connection

Ended: TypeAlias = Literal["complete", "aborted"]

LIMIT = 64 * 1024
"""Bytes that are read at once, and that a line may have."""


class Request:
    """One request as it arrived.

    `target` and `headers` are the bytes received, names in their own case. `ended` is None while
    the body is under way (and for good where this side hung up inside it), ``complete``, or
    ``aborted`` where the client left or sent nonsense before its end. `received` counts the body's
    bytes; `content` holds the first `Upstream.keep` of them.
    """

    def __init__(
        self, connection: Connection, method: bytes, target: bytes, version: bytes, headers: Headers
    ) -> None:
        self.connection = connection
        self.method = method.decode("latin-1")
        self.target = target
        self.http_version = version.removeprefix(b"HTTP/").decode("latin-1")
        self.headers = headers
        self.trailers: Headers = []
        self.received = 0
        self.content = b""
        self._coded = bool(self.all("transfer-encoding"))
        self._left = 0 if self._coded else _count(self.all("content-length"))
        self.ended: Ended | None = None if self._coded or self._left else "complete"

    @classmethod
    async def arriving(cls, connection: Connection) -> Request:
        """The next request, once its header is complete; raises `ValueError` for what is none."""
        first, *fields = await _lines(connection.reader)
        method, target, version = first.split(b" ")
        return cls(connection, method, target, version, _fields(fields))

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target.decode('latin-1')} {self.ended or 'under way'}>"

    def header(self, name: str) -> bytes | None:
        """The first value of a header, None where it is absent."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[bytes]:
        """Every value of a header, in order."""
        wanted = name.lower().encode("latin-1")
        return [value for key, value in self.headers if key.lower() == wanted]

    async def body(self) -> bytes:
        """The rest of the body at once; raises `ConnectionError` where it is cut."""
        return b"".join([piece async for piece in self.stream()])

    async def stream(self) -> AsyncIterator[bytes]:
        """The rest of the body as it comes in; raises `ConnectionError` where it is cut."""
        while piece := await self.read():
            yield piece

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end; raises `ConnectionError` where it is cut."""
        if self.ended == "complete":
            return b""
        if self.ended == "aborted":
            raise ConnectionResetError("the body was cut")
        try:
            piece = await (self._read_coded() if self._coded else self._read_counted())
        except (EOFError, asyncio.LimitOverrunError, ValueError, ConnectionError) as error:
            self.ended = "aborted"
            self.connection.upstream.changed()
            raise ConnectionResetError(f"the body was cut: {error}") from error
        self.received += len(piece)
        self.content += piece[: max(0, self.connection.upstream.keep - len(self.content))]
        if not piece or not (self._coded or self._left):
            self.ended = "complete"
        self.connection.upstream.changed()
        return piece

    @property
    def wants_close(self) -> bool:
        """Whether this is the client's last request on the connection."""
        named = b",".join(self.all("connection")).lower()
        return b"close" in named or (self.http_version == "1.0" and b"keep-alive" not in named)

    async def _read_counted(self) -> bytes:
        piece = await self.connection.reader.read(min(self._left, LIMIT))
        if not piece:
            raise EOFError(f"{self._left} bytes are missing")
        self._left -= len(piece)
        return piece

    async def _read_coded(self) -> bytes:
        reader = self.connection.reader
        if not self._left:
            self._left = _chunk_size(await reader.readuntil(b"\r\n"))
        if not self._left:
            self.trailers = _fields(await _lines(reader))
            return b""
        piece = await self._read_counted()
        if not self._left and await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk is longer than its size")
        return piece


async def _lines(reader: asyncio.StreamReader) -> list[bytes]:
    lines: list[bytes] = []
    while line := (await reader.readuntil(b"\r\n"))[:-2]:
        lines.append(line)
    return lines


def _count(values: list[bytes]) -> int:
    if any(not value.isdigit() for value in values) or len(set(values)) > 1:
        raise ValueError("Content-Length is not one number")
    return int(values[0]) if values else 0


def _chunk_size(line: bytes) -> int:
    if not (size := re.match(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[^\r\n]*)?\r\n\Z", line)):
        raise ValueError(f"{line!r} is not a chunk's size")
    return int(size[1], 16)


def _fields(lines: Iterable[bytes]) -> Headers:
    pairs = (line.partition(b":") for line in lines)
    return [(name, value.strip(b" \t")) for name, _, value in pairs]
