"""What crosses the gateway once a WebSocket is open, and how its end on one side ends the other."""

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close

from asgi_gateway import Gateway
from asgi_gateway.testing import Conversation, websocket_scope
from tests.proxy.websocket_sides import RawWebSocket, dial, echo, gateway, service, settings, through, url_of

CLOSE, PING, PONG = 0x88, 0x89, 0x8A
MIB = 2**20


class Ended:
    """A service's handler that remembers how its connection ended."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.over = asyncio.Event()
        self.close: Close | None = None

    async def __call__(self, connection: ServerConnection) -> None:
        self.open.set()
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as closed:
            self.close = closed.rcvd
        self.over.set()


async def end_of(connection: Any) -> ConnectionClosed:
    while True:
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            return closed


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, MIB, 15 * MIB])
async def test_messages_cross_unchanged_both_ways(size: int) -> None:
    binary, text = os.urandom(size), "é" * (size // 2)
    async with through() as client:
        for message in (binary, text):
            await client.send(message)
            assert await client.recv() == message


async def test_messages_keep_their_order_and_their_kind() -> None:
    sent = [kind for number in range(100) for kind in (str(number), str(number).encode(), "", b"")]
    async with through() as client:
        for message in sent:
            await client.send(message)
        assert [await client.recv() for _ in sent] == sent


async def test_fragments_arrive_as_one_message() -> None:
    async def pieces(connection: ServerConnection) -> None:
        await connection.send(["whole", " and", " sound"])
        await echo(connection)

    async with through(pieces) as client:
        assert await client.recv() == "whole and sound"
        await client.send([b"a", b"", b"b"])
        assert await client.recv() == b"ab"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"bytes": None, "text": "t"}, "t"),
        ({"bytes": b"b", "text": None}, b"b"),
        ({"bytes": b"b"}, b"b"),
        ({"text": "t"}, "t"),
        ({"bytes": b"b", "text": ""}, b"b"),
        ({"bytes": b"", "text": "t"}, "t"),
    ],
)
async def test_both_keys_of_a_message_may_be_there(message: dict[str, Any], expected: str | bytes) -> None:
    async with service() as upstream:
        app = Gateway(settings(url_of(upstream)))
        async with Conversation(app, websocket_scope("/api/x")) as talk:
            talk.give({"type": "websocket.connect"})
            assert (await talk.next())["type"] == "websocket.accept"
            talk.give({"type": "websocket.receive", **message})
            back = await talk.next()
    assert back == {"type": "websocket.send", "text" if isinstance(expected, str) else "bytes": expected}


# Ends

CODES = [1000, 1001, 1008, 1011, 1012, 3000, 4999]


@pytest.mark.parametrize("code", CODES)
async def test_a_clients_close_is_the_services(code: int) -> None:
    ended = Ended()
    async with through(ended) as client:
        await client.close(code, "grund: ü")
        await asyncio.wait_for(ended.over.wait(), 1)
    assert ended.close == Close(code, "grund: ü")


@pytest.mark.parametrize("code", CODES)
async def test_a_services_close_is_the_clients(code: int) -> None:
    async def closes(connection: ServerConnection) -> None:
        await connection.send("last")
        await connection.close(code, "grund: ü")

    async with through(closes) as client:
        assert await client.recv() == "last"
        assert (await end_of(client)).rcvd == Close(code, "grund: ü")


async def test_a_close_without_a_code_is_1000_on_the_other_side() -> None:
    ended = Ended()
    async with (
        service(ended) as upstream,
        gateway(url_of(upstream)) as server,
        RawWebSocket(server.url) as client,
    ):
        await client.handshake()
        client.say(8)
        await asyncio.wait_for(ended.over.wait(), 1)
        assert await client.frame() == (CLOSE, b"")
    assert ended.close == Close(1000, "")

    async def silent(connection: ServerConnection) -> None:
        async with connection.send_context():
            connection.protocol.send_close()

    async with through(silent) as client:
        assert (await end_of(client)).rcvd == Close(1000, "")


async def test_a_service_that_is_cut_off_is_1011_for_the_client() -> None:
    async def cut(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with through(cut) as client:
        assert (await asyncio.wait_for(end_of(client), 1)).rcvd == Close(1011, "")


async def test_a_client_that_vanishes_closes_the_service_within_a_second() -> None:
    ended = Ended()
    async with service(ended) as upstream, gateway(url_of(upstream)) as server:
        async with RawWebSocket(server.url) as client:
            await client.handshake()
            await ended.open.wait()
            client.close()
            left = time.monotonic()
            await asyncio.wait_for(ended.over.wait(), 1)
    assert time.monotonic() - left < 1


@pytest.mark.parametrize(
    ("code", "sent"),
    [(1005, 1000), (1006, 1011), (1015, 1011), (None, 1000), (4000, 4000)]
    + [(code, 1000) for code in (5000, 2999, 1016, 1004, 999, 65535)],
)
async def test_codes_that_never_travel_are_replaced(code: int | None, sent: int) -> None:
    ended = Ended()
    async with service(ended) as upstream:
        app = Gateway(settings(url_of(upstream)))
        async with Conversation(app, websocket_scope("/api/x")) as talk:
            talk.give({"type": "websocket.connect"})
            await talk.next()
            talk.give({"type": "websocket.disconnect", "code": code, "reason": None})
            await talk.finish()
        await asyncio.wait_for(ended.over.wait(), 1)
    assert ended.close == Close(sent, "")
    assert [message["type"] for message in talk.answer.messages] == ["websocket.accept"]


async def test_a_service_that_says_close_and_stays_is_closed_all_the_same() -> None:
    async def says_close(connection: ServerConnection) -> None:
        connection.transport.write(b"\x88\x02\x03\xe9")  # 1001, past the protocol that would hang up
        await connection.wait_closed()

    async with through(says_close) as client:
        assert (await asyncio.wait_for(end_of(client), 3)).rcvd == Close(1001, "")


@pytest.mark.parametrize(
    ("frames", "code"),
    [(b"\x83\x00", 1011), (b"\x81\x01\xff", 1011), (b"\xc1\x00", 1011), (b"\x80\x00", 1011)],
    ids=["opcode", "utf-8", "reserved-bit", "no-beginning"],
)
async def test_a_service_that_breaks_the_protocol_is_1011_for_the_client(frames: bytes, code: int) -> None:
    async def breaks(connection: ServerConnection) -> None:
        connection.transport.write(frames)
        await connection.wait_closed()

    async with through(breaks) as client:
        assert (await asyncio.wait_for(end_of(client), 3)).rcvd == Close(code, "")


async def test_a_service_that_breaks_the_protocol_and_stays_is_hung_up_on() -> None:
    over = asyncio.Event()

    async def breaks(connection: ServerConnection) -> None:
        connection.transport.pause_reading()  # so that it answers no close
        connection.transport.write(b"\x83\x00")
        await over.wait()
        connection.transport.abort()

    async with through(breaks) as client:
        try:
            assert (await asyncio.wait_for(end_of(client), 3)).rcvd == Close(1011, "")
        finally:
            over.set()


# Limits


@pytest.mark.parametrize("message", ["é" * 513, b"x" * 1025])
async def test_a_message_over_the_limit_is_1009_for_both(message: str | bytes) -> None:
    ended = Ended()
    async with through(ended, websocket={"max_message": "1KiB"}) as client:
        await client.send(message)
        assert (await end_of(client)).rcvd == Close(1009, "the message is too big")
        await asyncio.wait_for(ended.over.wait(), 1)
    assert ended.close == Close(1009, "the message is too big")

    heard: list[Close | None] = []

    async def talks(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await connection.send(message)
        heard.append((await end_of(connection)).rcvd)

    async with through(talks, websocket={"max_message": "1KiB"}) as client:
        closed = (await end_of(client)).rcvd
    assert closed is not None
    assert closed.code == 1009
    assert heard[0] is not None
    assert heard[0].code == 1009


async def test_a_message_of_exactly_the_limit_passes() -> None:
    async with through(websocket={"max_message": "1KiB"}) as client:
        for message in ("é" * 512, b"x" * 1024):
            await client.send(message)
            assert await client.recv() == message


async def test_ten_thousand_fragments_are_refused() -> None:
    async def crumbles(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await connection.send("x" for _ in range(10_000))

    async with through(crumbles) as client:
        closed = (await end_of(client)).rcvd
    assert closed is not None
    assert closed.code == 1009


async def test_silence_longer_than_idle_closes_both() -> None:
    ended = Ended()
    async with through(ended, websocket={"idle": "200ms"}) as client:
        begun = time.monotonic()
        while time.monotonic() - begun < 0.4:
            await client.send("busy")
            await asyncio.sleep(0.05)
        assert not ended.over.is_set()
        assert (await asyncio.wait_for(end_of(client), 2)).rcvd == Close(1001, "idle")
        await asyncio.wait_for(ended.over.wait(), 1)
    assert ended.close == Close(1001, "idle")


async def test_a_service_that_stops_reading_is_given_up() -> None:
    release = asyncio.Event()

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await release.wait()
        connection.transport.abort()

    async with through(deaf, timeouts={"idle": "300ms"}) as client:
        sending = asyncio.ensure_future(client.send(b"x" * (15 * MIB)))
        try:
            closed = (await asyncio.wait_for(end_of(client), 5)).rcvd
        finally:
            release.set()
        with contextlib.suppress(ConnectionClosed):
            await sending
    assert closed == Close(1011, "the service stopped reading")


# Pings


async def test_pings_are_answered_by_the_gateway_on_either_side() -> None:
    seen: list[float] = []

    async def pings(connection: ServerConnection) -> None:
        seen.append(await asyncio.wait_for(await connection.ping(), 1))
        await echo(connection)

    async with (
        service(pings) as upstream,
        gateway(url_of(upstream)) as server,
        RawWebSocket(server.url) as client,
    ):
        await client.handshake()
        client.say(9, b"there?")
        assert await client.frame() == (PONG, b"there?")
        client.say(1, b"after")
        assert await client.frame() == (0x81, b"after")
    assert len(seen) == 1


async def test_a_service_that_answers_no_ping_is_given_up() -> None:
    release = asyncio.Event()

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await release.wait()
        connection.transport.abort()

    async with through(deaf, websocket={"ping_interval": "100ms"}) as client:
        closed = (await asyncio.wait_for(end_of(client), 3)).rcvd
        release.set()
    assert closed == Close(1011, "")


# Back-pressure


async def test_a_client_that_does_not_read_pauses_the_service() -> None:
    sent = 0

    async def floods(connection: ServerConnection) -> None:
        nonlocal sent
        for _ in range(100):
            await connection.send(b"x" * MIB)
            sent += 1

    async with through(floods) as client:
        client.transport.pause_reading()
        before = -1
        while sent > before:  # until nothing moved for a while
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 25
        client.transport.resume_reading()
        received = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                received += len(await client.recv())
    assert (received, sent) == (100 * MIB, 100)


async def test_a_service_that_does_not_read_pauses_the_client() -> None:
    sent, received = 0, 0
    release = asyncio.Event()

    async def slow(connection: ServerConnection) -> None:
        nonlocal received
        await release.wait()
        async for message in connection:
            received += len(message)
            if received == 100 * MIB:
                break

    async with through(slow) as client:

        async def flood() -> None:
            nonlocal sent
            for _ in range(100):
                await client.send(b"x" * MIB)
                sent += 1

        flooding = asyncio.ensure_future(flood())
        before = -1
        while sent > before:
            before = sent
            await asyncio.sleep(0.3)
        paused_at = sent
        release.set()  # before anything is judged: the service's end waits for its handler
        async with asyncio.timeout(30):
            await flooding
            await end_of(client)
    # uvicorn's queue holds 32 messages and the service's 16; what is beyond them waits in sockets.
    assert paused_at < 90
    assert received == 100 * MIB


# Nothing is left


async def test_two_hundred_connections_leave_nothing_behind() -> None:
    async with service() as upstream:
        app = Gateway(settings(url_of(upstream)))

        async def once(number: int) -> None:
            async with Conversation(app, websocket_scope("/api/x")) as talk:
                talk.give({"type": "websocket.connect"})
                await talk.next()
                talk.give({"type": "websocket.receive", "text": "hello"})
                await talk.next()
                if number % 3 == 0:
                    talk.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await talk.finish()
                else:
                    talk.give({"type": "websocket.disconnect", "code": 1000 + number % 3 * 5})
                    await talk.finish()

        await once(0)
        tasks, files = len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))
        for batch in range(0, 200, 20):
            await asyncio.gather(*(once(batch + number) for number in range(20)))
        for _ in range(100):
            if not upstream.connections and len(asyncio.all_tasks()) <= tasks:
                break
            await asyncio.sleep(0.02)
        assert not upstream.connections
        assert len(asyncio.all_tasks()) <= tasks
        assert len(list(Path("/proc/self/fd").iterdir())) <= files


async def test_many_at_once_through_a_server_leave_nothing_behind() -> None:
    async with service() as upstream, gateway(url_of(upstream)) as server:

        async def once() -> None:
            async with dial(server) as client:
                await client.send("hello")
                assert await client.recv() == "hello"

        await asyncio.gather(*(once() for _ in range(50)))
        async with asyncio.timeout(2):
            while upstream.connections:
                await asyncio.sleep(0.01)
