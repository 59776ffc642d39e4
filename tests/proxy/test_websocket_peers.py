"""The gateway between WebSocket peers that other people wrote, in every pairing."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import pytest

from tests.proxy.websocket_peers import CLIENTS, SERVICES, Closed, Peer, Script
from tests.proxy.websocket_sides import gateway

MIB = 2**20
Through: TypeAlias = Callable[..., AbstractAsyncContextManager[Peer]]


@pytest.fixture(params=[(client, service) for client in CLIENTS for service in SERVICES], ids="-".join)
def through(request: pytest.FixtureRequest) -> Through:
    """A client of one implementation that talks to a service of another one through the gateway."""
    dial, serve = CLIENTS[request.param[0]], SERVICES[request.param[1]]

    @asynccontextmanager
    async def connected(script: Script, *subprotocols: str, **service: Any) -> AsyncIterator[Peer]:
        async with serve(script, *subprotocols) as url, gateway(url, **service) as server:
            async with dial(f"ws://{server.host}:{server.port}/api/x", *subprotocols) as peer:
                async with asyncio.timeout(30):
                    yield peer

    return connected


async def echo(peer: Peer) -> None:
    try:
        while True:
            await peer.send(await peer.receive())
    except Closed:
        return


class Listening:
    """A service that remembers how the client ended."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                await peer.receive()
        except Closed as closed:
            self.ended.set_result(closed.said)


async def ended(peer: Peer) -> tuple[int, str]:
    try:
        while True:
            await peer.receive()
    except Closed as closed:
        return closed.said


async def test_messages_of_every_size_cross_unchanged(through: Through) -> None:
    async with through(echo) as peer:
        for size in (0, 1, 125, 126, 65535, 65536, MIB, 3 * MIB + 1):
            for message in (os.urandom(size), "é" * (size // 2)):
                await peer.send(message)
                assert await peer.receive() == message


async def test_the_subprotocol_is_agreed_from_end_to_end(through: Through) -> None:
    services: list[str | None] = []

    async def script(peer: Peer) -> None:
        services.append(peer.subprotocol)
        await echo(peer)

    async with through(script, "chat.v2", "chat.v1") as peer:
        assert peer.subprotocol == "chat.v2"
        await peer.send("hello")
        assert await peer.receive() == "hello"
    assert services == ["chat.v2"]


async def test_fragments_cross_as_one_message_both_ways(through: Through) -> None:
    text = ["é" * 10, "", "x" * 70000, "ü"]
    binary = [os.urandom(10), b"", os.urandom(MIB), b"end"]

    async def script(peer: Peer) -> None:
        assert await peer.receive() == "".join(text)
        assert await peer.receive() == b"".join(binary)
        await peer.send(*text)
        await peer.send(*binary)
        await echo(peer)

    async with through(script) as peer:
        await peer.send(*text)
        await peer.send(*binary)
        assert await peer.receive() == "".join(text)
        assert await peer.receive() == b"".join(binary)


async def test_pings_are_answered_on_either_side(through: Through) -> None:
    async def script(peer: Peer) -> None:
        await peer.ping()
        await peer.send("answered")
        await echo(peer)

    async with through(script) as peer:
        assert await peer.receive() == "answered"
        await peer.ping()


CODES = [1000, 1001, 1011, 4999]


@pytest.mark.parametrize("code", CODES)
async def test_a_clients_close_is_the_services(through: Through, code: int) -> None:
    service = Listening()
    async with through(service) as peer:
        await peer.close(code, "grund: ü")
        assert await service.ended == (code, "grund: ü")


@pytest.mark.parametrize("code", CODES)
async def test_a_services_close_is_the_clients(through: Through, code: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.send("last")
        await peer.close(code, "grund: ü")

    async with through(script) as peer:
        assert await peer.receive() == "last"
        assert await ended(peer) == (code, "grund: ü")


async def test_a_service_that_vanishes_is_1011_for_the_client(through: Through) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive()
        peer.drop()

    async with through(script) as peer:
        await peer.send("go")
        assert await ended(peer) == (1011, "")


async def test_a_client_that_vanishes_ends_the_service(through: Through) -> None:
    service = Listening()
    async with through(service) as peer:
        await peer.send("hello")
        peer.drop()
        assert (await service.ended)[0] in (1000, 1011)


async def test_a_message_over_the_limit_ends_both_with_1009(through: Through) -> None:
    service = Listening()
    async with through(service, websocket={"max_message": "1MiB"}) as peer:
        await peer.send(b"x" * (MIB + 1))
        assert (await ended(peer))[0] == 1009
        assert (await service.ended)[0] == 1009


async def stands_still(count: list[int]) -> None:
    before = -1
    while count[0] > before:
        before = count[0]
        await asyncio.sleep(0.3)


async def test_a_client_that_does_not_read_pauses_the_service(through: Through) -> None:
    sent = [0]

    async def floods(peer: Peer) -> None:
        for _ in range(64):
            await peer.send(b"x" * MIB)
            sent[0] += 1
        await peer.close(1000, "all")

    async with through(floods) as peer:
        await stands_still(sent)
        assert sent[0] < 40
        received = [len(await peer.receive()) for _ in range(64)]
        assert received == [MIB] * 64
        assert await ended(peer) == (1000, "all")


async def test_a_service_that_does_not_read_pauses_the_client(through: Through) -> None:
    sent, received = [0], 0
    reads = asyncio.Event()

    async def slow(peer: Peer) -> None:
        nonlocal received
        await reads.wait()
        for _ in range(64):
            received += len(await peer.receive())
        await peer.close(1000, "all")

    async with through(slow) as peer:

        async def flood() -> None:
            for _ in range(64):
                await peer.send(b"x" * MIB)
                sent[0] += 1

        flooding = asyncio.ensure_future(flood())
        await stands_still(sent)
        paused_at = sent[0]
        reads.set()
        await flooding
        assert await ended(peer) == (1000, "all")
    assert paused_at < 60
    assert received == 64 * MIB
