"""Many bad clients at once, against the protocol class of `asgi-gateway run`."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from asgi_gateway.testing import behaviours
from tests.faults.client import LEAVING, Client, Leaving, ask, connected
from tests.faults.fast import BOUNDS
from tests.faults.walk import PATIENT, SERVERS, SOON, Service, Walk
from tests.servers import COMMANDS

GET = b"GET %b HTTP/1.1\r\nHost: g\r\n\r\n"
CLOSING_GET = b"GET %b HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


async def leave(walk: Walk, number: int) -> None:
    """Leave at once, before the answer, or inside it."""
    how: Leaving = LEAVING[number // 3 % 3]
    stage = number % 3
    name = "streams" if stage == 2 else "hangs"
    async with connected(walk.port) as client:
        await client.send(GET % walk.target(name))
        if stage == 1:
            await asyncio.sleep(0)  # the request may be on its way to the service, or there already
        if stage == 2:
            await client.until(b"piece")
        client.leave(how)


async def test_a_thousand_clients_that_leave_leave_nothing_behind(tmp_path: Path) -> None:
    services = {
        "hangs": Service(behaviours.hang(), PATIENT),
        "streams": Service(behaviours.chunked(*[b"piece"] * 1000, interval=0.05), PATIENT),
    }
    async with Walk.over(SERVERS["asgi-gateway"], services, tmp_path) as walk:
        for first in range(0, 1000, 100):
            await asyncio.gather(*(leave(walk, number) for number in range(first, first + 100)))
        await walk.upstream.wait_for(lambda: walk.upstream.connections.open == 0, SOON)
        assert len(walk.requests("streams")) > 300
        await walk.check_that_it_serves("streams")


async def say_nothing(walk: Walk, client: Client) -> None:
    await client.everything()


async def dribble_a_head(walk: Walk, client: Client) -> None:
    await _dribble(client, b"GET %b HTTP/1.1\r\nHost: g\r\nX: " % walk.target("service"))


async def stop_inside_a_head(walk: Walk, client: Client) -> None:
    await client.send(b"GET %b HTTP/1.1\r\nHo" % walk.target("service"))
    await client.everything()


async def dribble_a_body(walk: Walk, client: Client) -> None:
    await _dribble(
        client, b"POST %b HTTP/1.1\r\nHost: g\r\nContent-Length: 999\r\n\r\n" % walk.target("service")
    )


async def stop_inside_a_body(walk: Walk, client: Client) -> None:
    await client.send(
        b"POST %b HTTP/1.1\r\nHost: g\r\nContent-Length: 999\r\n\r\npart" % walk.target("service")
    )
    await client.everything()


async def _dribble(client: Client, beginning: bytes) -> None:
    """Say the beginning, and then a byte every 0.2 seconds until the server ends it."""
    await client.send(beginning)
    ending = asyncio.ensure_future(client.everything())
    while not (await asyncio.wait([ending], timeout=0.2))[0]:
        try:
            await client.send(b"x")
        except ConnectionError:
            break
    await ending


SLOW: dict[Callable[[Walk, Client], Awaitable[None]], tuple[bytes, float]] = {
    say_nothing: (b"", BOUNDS.head_timeout),
    stop_inside_a_head: (b"HTTP/1.1 408", BOUNDS.head_timeout),
    dribble_a_head: (b"HTTP/1.1 408", BOUNDS.head_timeout),
    stop_inside_a_body: (b"HTTP/1.1 408", 2 * BOUNDS.body_interval),
    dribble_a_body: (b"HTTP/1.1 408", 2 * BOUNDS.body_interval),
}
"""What slow clients do, how they are answered, and after how many seconds at most."""


async def be_slow(walk: Walk, how: Callable[[Walk, Client], Awaitable[None]]) -> None:
    answer, seconds = SLOW[how]
    began = time.monotonic()
    async with connected(walk.port) as client:
        await how(walk, client)
    took = time.monotonic() - began
    if client.received[: len(answer)] != answer or (not answer and client.received) or took > seconds + 1.5:
        walk.wrong.append(f"{how.__name__}: {took:.2f} s, {client.received[:40]!r}")


async def be_healthy(walk: Walk, until: asyncio.Event) -> int:
    """Ask up to fifty times a second; returns how often."""
    asked = 0
    while not until.is_set():
        answer = await ask(walk.port, CLOSING_GET % walk.target("service"))
        if answer.status != 200 or answer.ending != "whole" or answer.seconds > 1:
            walk.wrong.append(f"a healthy request: {answer}")
        asked += 1
        await asyncio.sleep(0.02)
    return asked


async def test_five_hundred_slow_clients_are_ended_in_time_and_hurt_nobody(tmp_path: Path) -> None:
    command = next(command for command in COMMANDS if "asgi_gateway.server:HttpProtocol" in command)
    command = command.replace("asgi_gateway.server:HttpProtocol", "tests.faults.fast:FastProtocol")
    async with Walk.over(command, {"service": Service(behaviours.answer(), PATIENT)}, tmp_path) as walk:
        over = asyncio.Event()
        healthy = asyncio.ensure_future(be_healthy(walk, over))
        await asyncio.gather(*(be_slow(walk, how) for how in SLOW for _ in range(100)))
        over.set()
        assert await healthy > 10
        assert all(
            request.ended != "complete" for request in walk.requests("service") if request.method == "POST"
        )
