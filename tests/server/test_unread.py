"""A client that does not read its answer, or hardly, and what of ours it may hold on to meanwhile."""

import asyncio
import ssl
from functools import partial
from typing import Any

import pytest
import trustme
import uvloop

from asgi_gateway.server import Bounds, HttpProtocol
from asgi_gateway.testing import RawClient
from asgi_gateway.types import Receive, Scope, Send
from tests.server.apps import GET, Listener, respond
from tests.server.listening import Listening, listening

LARGE = b"x" * 20_000_000
Strict = partial(HttpProtocol, bounds=Bounds(write_interval=0.3, write_minimum=1000))


async def without_connections(server: Listening) -> None:
    async with asyncio.timeout(5):
        while server.server_state.connections:
            await asyncio.sleep(0.01)


class Streaming:
    """An app that sends without end; `over` is set when that ended."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.over.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            if await is_gone(receive):
                self.over.set()


async def is_gone(receive: Receive) -> bool:
    waiting = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    return not waiting.cancel() and waiting.result()["type"] == "http.disconnect"


async def test_one_that_takes_nothing_of_a_stream_is_sent_away() -> None:
    app = Streaming()
    async with listening(app, Strict) as server, RawClient(server.url) as client:
        await client.send(GET)
        await asyncio.wait_for(app.over.wait(), 5)
        await without_connections(server)


@pytest.mark.parametrize("kind", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_so_it_is_over_tls(kind: Any) -> None:
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)

    async def stall() -> None:
        app = Streaming()
        async with listening(app, Strict, tls=ours) as server:
            port = int(server.url.rpartition(":")[2])
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=theirs, server_hostname="localhost"
            )
            writer.write(GET)
            protocol = await server.newest()
            while not protocol.write_paused:
                await asyncio.sleep(0)
            assert protocol.transport.get_write_buffer_size() < 200_000
            await asyncio.wait_for(app.over.wait(), 5)
            await without_connections(server)
            writer.transport.abort()

    with asyncio.Runner(loop_factory=kind) as runner:
        runner.run(stall())


async def test_one_that_takes_it_slowly_gets_it_whole() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, LARGE)

    async with listening(app, Strict) as server, RawClient(server.url) as client:
        await client.send(GET)
        await client.head()
        left = len(LARGE)
        begun = asyncio.get_running_loop().time()
        while left:
            left -= len(await client.exactly(min(left, 1_000_000)))
            await asyncio.sleep(0.06)
        assert asyncio.get_running_loop().time() - begun > 3 * 0.3
        await client.send(GET)
        assert (await client.head()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("ends", [b"Connection: close", b"Connection: keep-alive"])
async def test_a_connection_that_is_closed_does_not_wait_for_one_that_does_not_read(ends: bytes) -> None:
    """Behind a whole answer that says so, and when the time is over for which it is kept."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, LARGE)

    async with listening(app, Strict, timeout_keep_alive=0.1) as server, RawClient(server.url) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % ends)
        while not server.server_state.total_requests:
            await asyncio.sleep(0)
        await without_connections(server)


async def test_one_that_has_taken_all_is_not_hurried() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, LARGE)

    async with listening(app, Strict) as server, RawClient(server.url) as client:
        await client.send(GET)
        assert len((await client.answer()).body) == len(LARGE)
        await asyncio.sleep(0.7)
        await client.send(GET)
        assert (await client.head()).startswith(b"HTTP/1.1 200")


async def test_what_a_websocket_follows_is_watched_no_more() -> None:
    """The transport is no longer ours then."""
    timers: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(send, LARGE)
            return
        timers.append(server.protocols[0].unread._timer)
        await receive()
        await send({"type": "websocket.accept"})

    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    async with listening(app, Strict, ws="websockets-sansio") as server, RawClient(server.url) as client:
        await client.send(GET)
        await client.answer()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n%b%b\r\n" % (upgrade, key))
        assert (await client.head()).startswith(b"HTTP/1.1 101")
    assert timers == [None]


async def test_small_answers_have_nothing_to_watch() -> None:
    async with listening(Listener()) as server, RawClient(server.url) as client:
        await client.send(GET)
        await client.answer()
        assert server.protocols[0].unread is None
