"""The faults of both sides of a WebSocket, in its handshake and after, under every server."""

import asyncio
import base64
import contextlib
import hashlib
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from asgi_gateway.testing import Connection, Handler, Request, behaviours
from tests.faults.client import LEAVING, Client, Leaving, connected
from tests.faults.elsewhere import ELSEWHERE, services_elsewhere
from tests.faults.walk import LIMIT, PATIENT, SERVERS, SOON, Service, Walk, complaint_of_service, note

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MIB = 1024 * 1024
CLOSE = b"\x88\x02"
TEXT = b"\x81\x02hi"
LONG = b"\x82\x7f" + struct.pack("!Q", 1 << 30) + b"x" * 1000
MASKED_TEXT = b"\x81\x82\0\0\0\0hi"

Say = Callable[[Request, Connection], Awaitable[None]]


def accepted(then: Say) -> Handler:
    """Accept the handshake, send one message, then do something."""

    async def handler(request: Request, connection: Connection) -> None:
        digest = hashlib.sha1((request.header("sec-websocket-key") or b"") + GUID).digest()
        upgrade = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        await connection.send_head(101, [*upgrade, (b"Sec-WebSocket-Accept", base64.b64encode(digest))])
        await connection.write(TEXT)
        await then(request, connection)
        await connection.hang()  # which answers no close

    return handler


def says(frame: bytes) -> Say:
    return lambda _, connection: connection.write(frame)


async def resets(_: Request, connection: Connection) -> None:
    connection.reset()


async def ends(_: Request, connection: Connection) -> None:
    connection.close()


async def waits(_: Request, connection: Connection) -> None:
    """Say nothing more until a close comes."""
    async for piece in _pieces(connection):
        if piece[0] == CLOSE[0]:
            await connection.write(CLOSE + struct.pack("!H", 1000))
            connection.close()


async def _pieces(connection: Connection) -> AsyncIterator[bytes]:
    while piece := await connection.reader.read(65536):
        yield piece


async def stops_inside_a_frame(_: Request, connection: Connection) -> None:
    await connection.write(b"\x81\x05ha")
    connection.close()


class Handshake(NamedTuple):
    """What the service makes of the handshake, and the status that the client is to get for it."""

    handler: Handler
    status: int
    at_least: float = 0.0


WRONG_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: wrong\r\n\r\n"
)
HANDSHAKES = {
    "reset in the handshake": Handshake(behaviours.reset_before_headers(), 502),
    "end in the handshake": Handshake(behaviours.close_before_headers(), 502),
    "reset inside its head": Handshake(behaviours.reset_inside_headers(), 502),
    "no answer": Handshake(behaviours.hang(), 504, at_least=LIMIT),
    "slow head": Handshake(behaviours.trickle(interval=0.1, headers=True), 504, at_least=LIMIT),
    "not HTTP": Handshake(behaviours.raw(b"\x16\x03\x01\x00\xa5\r\n\r\n"), 502),
    "200 to a handshake": Handshake(behaviours.answer(), 502),
    "wrong accept": Handshake(behaviours.raw(WRONG_ACCEPT), 502),
    "refusal": Handshake(behaviours.answer(401), 401),
}
ENDINGS: dict[str, tuple[Say, int]] = {
    "reset": (resets, 1011),
    "end without a close": (ends, 1011),
    "end inside a frame": (stops_inside_a_frame, 1011),
    "close": (says(CLOSE + struct.pack("!H", 3000)), 3000),
    "reserved opcode": (says(b"\x83\x01x"), 1011),
    "masked frame": (says(MASKED_TEXT), 1011),
    "message over the limit": (says(LONG), 1009),
    "text that is not UTF-8": (says(b"\x81\x02\xff\xfe"), 1011),
}
MISDEEDS = {
    "unmasked frame": b"\x81\x02hi",
    "reserved opcode of a client": b"\x83\x81\0\0\0\0x",
    "message over the limit of a client": b"\x82\xff" + struct.pack("!Q", 17 * MIB) + bytes(4 + 17 * MIB),
    "text of a client that is not UTF-8": b"\x81\x82\0\0\0\0\xff\xfe",
}
DIFFERENT = {
    "hypercorn": {"message over the limit of a client"},
    "granian": {f"{how} in the handshake" for how in LEAVING},
}
"""What a server makes of a fault in its own way. Each is told of in docs/servers.md."""

LEFT = {"granian": {"descriptors": len(HANDSHAKES) + len(ELSEWHERE) + len(LEAVING)}}
"""What it may leave behind of refused handshakes."""


async def shake_hands(walk: Walk, name: str, client: Client) -> int:
    """Ask for a WebSocket; the status of the answer."""
    lines = [
        b"GET %b HTTP/1.1" % walk.target(name),
        b"Host: g",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + base64.b64encode(b"sixteen bytes ok"),
    ]
    await client.send(b"\r\n".join([*lines, b"", b""]))
    await client.until(b"\r\n\r\n")
    return int(client.received[9:12])


async def answer_close(client: Client) -> int | None:
    """Wait for a close frame and answer it, as a client has to; its code, None where there is none."""
    with contextlib.suppress(EOFError, TimeoutError, ConnectionError):
        async with asyncio.timeout(SOON):
            await client.until(TEXT + CLOSE[:1])
            while len(rest := client.received.partition(TEXT + CLOSE[:1])[2]) < 3 and await client.receive():
                pass
        await client.send(b"\x88\x82\0\0\0\0" + rest[1:3])
        return int.from_bytes(rest[1:3])
    return None


async def be_refused(walk: Walk, name: str, statuses: tuple[int, ...], at_least: float) -> None:
    async with connected(walk.port) as client:
        began = time.monotonic()
        status = await shake_hands(walk, name, client)
        took = time.monotonic() - began
    late = not at_least * 0.9 <= took <= at_least + SOON
    note(walk, name, f"{status} after {took} s" if status not in statuses or late else None)
    await walk.check_that_it_serves("refusal" if name in ELSEWHERE else name)


async def be_ended(walk: Walk, name: str, code: int) -> None:
    async with connected(walk.port) as client:
        status = await shake_hands(walk, name, client)
        told = await answer_close(client)
        stays = not await client.everything(SOON)
    seen = f"{status}, close {told}, stays: {stays}, {client.received[-20:]!r}"
    complaint = seen if (status, told, stays) != (101, code, False) else None
    note(walk, name, complaint)
    await walk.check_that_it_serves(name)


async def leave(walk: Walk, name: str, how: Leaving, *, inside_handshake: bool) -> None:
    async with connected(walk.port) as client:
        shaking = asyncio.ensure_future(shake_hands(walk, name, client))
        await walk.upstream.wait_for(lambda: walk.requests(name))
        if inside_handshake:
            shaking.cancel()
            await asyncio.wait([shaking])
        else:
            await shaking
            await client.until(TEXT)
        client.leave(how)
        note(walk, name, await complaint_of_service(walk, name))
    await walk.check_that_it_serves(name)


async def misbehave(walk: Walk, name: str, said: bytes) -> None:
    async with connected(walk.port) as client:
        await shake_hands(walk, name, client)
        await client.until(TEXT)
        with contextlib.suppress(ConnectionError):  # a server that has heard enough
            await client.send(said)
        await answer_close(client)
        note(walk, name, await complaint_of_service(walk, name))
    await walk.check_that_it_serves(name)


@pytest.mark.parametrize("server", SERVERS)
async def test_every_fault_in_a_websocket_is_survived(server: str, tmp_path: Path) -> None:
    in_handshake = {f"{how} in the handshake": how for how in LEAVING}
    after = {f"{how} after the handshake": how for how in LEAVING}
    services = {name: Service(handshake.handler) for name, handshake in HANDSHAKES.items()}
    services |= {name: Service(accepted(then)) for name, (then, _) in ENDINGS.items()}
    services |= dict.fromkeys(in_handshake, Service(behaviours.hang(), PATIENT))
    services |= dict.fromkeys([*after, *MISDEEDS], Service(accepted(waits), PATIENT))
    different, left = DIFFERENT.get(server, ()), LEFT.get(server, {})
    async with (
        services_elsewhere(tmp_path) as elsewhere,
        Walk.over(SERVERS[server], services | elsewhere, tmp_path, different=different, left=left) as walk,
    ):
        await asyncio.gather(
            *(be_refused(walk, name, (to.status,), to.at_least) for name, to in HANDSHAKES.items()),
            *(be_refused(walk, name, to.statuses, to.at_least) for name, to in ELSEWHERE.items()),
            *(be_ended(walk, name, code) for name, (_, code) in ENDINGS.items()),
            *(leave(walk, name, how, inside_handshake=True) for name, how in in_handshake.items()),
            *(leave(walk, name, how, inside_handshake=False) for name, how in after.items()),
            *(misbehave(walk, name, said) for name, said in MISDEEDS.items()),
        )
