"""A client of raw bytes that sees how its connection ended, and can leave it in every way."""

import asyncio
import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

PATIENCE = 6.0
"""Seconds after which an answer is taken for one that never ends."""

Ending = Literal["whole", "broken", "never"]
Leaving = Literal["half-closing", "closing", "resetting"]
LEAVING: tuple[Leaving, ...] = ("half-closing", "closing", "resetting")


class Answer(NamedTuple):
    """All that came, and how: `status` is 0 where no head did, `ending` what a client must take it for."""

    status: int
    ending: Ending
    seconds: float
    received: bytes


class Client:
    """One connection to a server."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """What comes next, nothing where the connection ended in whichever way."""
        try:
            piece = await self._loop.sock_recv(self._socket, 65536)
        except ConnectionError:
            return b""
        self.received += piece
        return piece

    async def until(self, marker: bytes) -> None:
        """Return as soon as it was received; raises `EOFError` where the connection ends before."""
        while marker not in self.received:
            if not await self.receive():
                raise EOFError(self.received)

    async def everything(self, seconds: float = PATIENCE) -> bool:
        """Receive to the end of the connection; whether it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.receive():
                    pass
                return True
        return False

    def leave(self, how: Leaving) -> None:
        if how == "half-closing":
            self._socket.shutdown(socket.SHUT_WR)
            return
        if how == "resetting":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    with socket.socket() as connection:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        yield Client(connection)


async def ask(port: int, request: bytes) -> Answer:
    """Send a request that closes its connection, and receive to the end, while it is still being sent."""
    began = time.monotonic()
    async with connected(port) as client:
        sending = asyncio.ensure_future(client.send(request))
        ended = await client.everything()
        sending.cancel()
        await asyncio.wait([sending])
        if not sending.cancelled():
            sending.exception()  # what was sent in vain shows in the answer
    final = without_interim(client.received)
    status = re.match(rb"HTTP/1\.\d (\d{3})", final)
    ending: Ending = "never" if not ended else "whole" if is_whole(final) else "broken"
    return Answer(int(status[1]) if status else 0, ending, time.monotonic() - began, client.received)


def without_interim(received: bytes) -> bytes:
    """The final answer and what follows it: some servers pass early hints on before it."""
    while received.startswith(b"HTTP/1.1 1") and not received.startswith(b"HTTP/1.1 101"):
        received = received.partition(b"\r\n\r\n")[2]
    return received


def is_whole(received: bytes) -> bool:
    """Whether a client takes this for a complete answer, its connection having ended (RFC 9112 section 8)."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    if head.split(b" ")[1:2] == [b"204"]:
        return not body
    if length := re.search(rb"(?im)^content-length: *(\d+)\r?$", head):
        return len(body) == int(length[1])
    return body.endswith(b"0\r\n\r\n") or not re.search(rb"(?im)^transfer-encoding:", head)


async def held_by(port: int) -> dict[str, int]:
    """What `tests.faults.probe` says of the process that serves."""
    answer = await ask(port, b"GET /probe HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
    held: dict[str, int] = json.loads(re.search(rb"\{.*\}", answer.received)[0])  # type: ignore[index]
    return held
