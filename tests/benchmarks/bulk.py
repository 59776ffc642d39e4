"""A service for bodies and event streams: ``python -m tests.benchmarks.bulk PORT``.

``/bytes/N`` answers with N bytes, ``/events/N`` with a head at once and then N events, each with the time
of its sending; ``/idle`` sends one event and then nothing. Everything else is a small answer. A body is
read to its end, without being looked at, before the answer begins.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import uvloop

INTERVAL = 0.005

_PIECE = b"x" * 262144
# One for all connections: uvloop reads into it and reports at once.
_BUFFER = memoryview(bytearray(262144))
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class BulkProtocol(asyncio.BufferedProtocol):
    """One connection, without pipelining."""

    def __init__(self) -> None:
        self._head = b""
        self._target: bytes | None = None
        self._left = 0
        self._chunked = False
        self._tail = b""
        self._closes = False
        self._to_write = 0
        self._paused = False
        self._stream: asyncio.Task[None] | None = None

    def connection_made(self, transport) -> None:
        self._transport = transport

    def connection_lost(self, exc) -> None:
        self._to_write = 0
        if self._stream:
            self._stream.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if self._left > nbytes:  # most of a long body
            self._left -= nbytes
            return
        data = bytes(_BUFFER[:nbytes])
        if self._target is None:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            head, _, data = self._head.partition(b"\r\n\r\n")
            self._begin(head)
        if self._chunked:
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            complete = self._tail == _LAST_CHUNK
        else:
            self._left -= len(data)
            complete = self._left <= 0
        if complete:
            target, self._target, self._left = self._target, None, 0
            self._answer(target or b"/")

    def _begin(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self._head, self._tail = b"", b""
        self._target = first.split()[1]
        self._left = int(fields.get(b"content-length", 0))
        self._chunked = b"transfer-encoding" in fields
        self._closes = fields.get(b"connection") == b"close"

    def _answer(self, target: bytes) -> None:
        _, kind, *number = target.partition(b"?")[0].split(b"/")
        count = int(number[0]) if number and number[0].isdigit() else 5
        if kind == b"events":
            self._transport.write(_STREAM)
            self._stream = asyncio.get_running_loop().create_task(self._events(count))
        elif kind == b"idle":
            self._transport.write(_STREAM + _chunk(b"data: first\n\n"))
        else:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
            first = min(count, 65536)
            self._transport.write(head % count + _PIECE[:first])
            self._to_write = count - first
            self._pump()

    async def _events(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(INTERVAL)
            self._transport.write(_chunk(b"data: %.9f\n\n" % time.monotonic()))
        self._transport.write(_LAST_CHUNK)

    def _pump(self) -> None:
        while self._to_write and not self._paused:
            piece = _PIECE if self._to_write >= len(_PIECE) else _PIECE[: self._to_write]
            self._to_write -= len(piece)
            self._transport.write(piece)
        if self._closes and not self._to_write:
            self._transport.close()  # once all is written

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int) -> None:
    gc.freeze()
    gc.disable()  # thousands of connections are not to be looked through while a proxy is measured
    loop = asyncio.get_running_loop()
    server = await loop.create_server(BulkProtocol, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
