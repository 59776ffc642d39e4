"""A refusal behind a request in progress: it comes in its turn, ends the connection, and runs nothing."""

import asyncio
from functools import partial
from typing import Any

import pytest

from asgi_gateway.server import Bounds, HttpProtocol
from asgi_gateway.testing import RawClient
from asgi_gateway.types import Receive, Scope, Send
from tests.server.apps import respond
from tests.server.listening import Listening, listening
from tests.server.test_malformed_requests import FAMILIES, PLAIN, SMUGGLED, STATUSES, Recorder

Impatient = partial(
    HttpProtocol, bounds=Bounds(head_timeout=0.2, body_interval=0.2, body_minimum=100, linger=0.2)
)


class Held:
    """An app whose answers wait until `go_on` is set; `paths` are those that reached it."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        await self.go_on.wait()
        await respond(send, scope["raw_path"])


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path


async def without_connections(server: Listening) -> None:
    async with asyncio.timeout(5):
        while server.server_state.connections:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
async def test_it_is_refused_while_a_good_request_is_in_progress(family: Any) -> None:
    app = Recorder()
    wrong: list[object] = []
    async with listening(app, ws="none") as server:
        for name, raw in family():
            async with RawClient(server.url) as client:
                client.write(PLAIN + raw + SMUGGLED)
                first = await client.answer()
                received = await client.rest()
            paths = [request[1] for request in app.requests]
            if first.status != 200 or int(received[9:12] or 0) not in STATUSES or paths != ["/plain"]:
                wrong.append((name, first.status, received[:12], paths))
            app.requests = []
        await without_connections(server)
    assert wrong == []


async def test_a_bad_chunk_of_a_request_that_waits_runs_nothing_and_keeps_nothing() -> None:
    app = Held()
    bad = b"POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(get(b"/1") + bad)
        while not app.paths:
            await asyncio.sleep(0)
        await client.send(b"more")
        app.go_on.set()
        assert (await client.answer()).body == b"/1"
        assert (await client.answer()).status == 400
        assert (await client.rest(), client.ended) == (b"", "closed")
        client.close()
        await without_connections(server)
    assert app.paths == ["/1"]


async def test_one_request_too_many_is_refused_behind_the_others() -> None:
    app = Held()
    app.go_on.set()
    most = Bounds().max_pipelined
    async with listening(app) as server, RawClient(server.url) as client:
        client.write(b"".join(get(b"/%d" % number) for number in range(most + 2)))
        answers = [await client.answer() for _ in range(most + 1)]
        assert (await client.answer()).status == 400
        assert (await client.rest(), client.ended) == (b"", "closed")
        client.close()
        await without_connections(server)
    assert [answer.body for answer in answers] == [b"/%d" % number for number in range(most + 1)]
    assert len(app.paths) == most + 1


async def test_a_body_that_stops_coming_behind_a_slow_request_is_refused_in_its_turn() -> None:
    app = Held()
    async with listening(app, Impatient) as server, RawClient(server.url) as client:
        await client.send(get(b"/1") + b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nx")
        await asyncio.sleep(0.5)
        app.go_on.set()
        assert (await client.answer()).body == b"/1"
        assert (await client.answer()).status == 408
        assert (await client.rest(), client.ended) == (b"", "closed")
        client.close()
        await without_connections(server)
    assert app.paths == ["/1"]


async def test_what_comes_behind_a_refusal_is_not_served() -> None:
    """The rest of a head that came too late."""
    listen, release = asyncio.Event(), asyncio.Event()
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await receive()
        await listen.wait()
        waiting = asyncio.ensure_future(receive())  # which has it read on
        await release.wait()
        waiting.cancel()
        await respond(send)

    async with listening(app, Impatient) as server, RawClient(server.url) as client:
        await client.send(get(b"/1") + b"GET /2 HT")
        await asyncio.sleep(0.5)
        listen.set()
        await client.send(b"TP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.sleep(0.05)
        release.set()
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 408
        assert (await client.rest(), client.ended) == (b"", "closed")
    assert paths == ["/1"]


async def test_a_client_that_leaves_behind_a_refusal_is_noticed() -> None:
    """Though the app does not listen by `receive`, which has the server read on."""
    app = Held()
    async with listening(app) as server:
        async with RawClient(server.url) as client:
            await client.send(get(b"/1") + b"nonsense\r\n\r\n")
            while not app.paths:
                await asyncio.sleep(0)
        await without_connections(server)


HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_no_websocket_takes_over_from_a_request_in_progress() -> None:
    app = Held()
    async with listening(app, ws="websockets-sansio") as server, RawClient(server.url) as client:
        await client.send(get(b"/1") + HANDSHAKE)
        while not app.paths:
            await asyncio.sleep(0)
        app.go_on.set()
        assert (await client.answer()).body == b"/1"
        assert (await client.answer()).status == 400
        assert (await client.rest(), client.ended) == (b"", "closed")
    assert app.paths == ["/1"]


async def test_a_websocket_may_follow_an_answered_request() -> None:
    kinds: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.append(scope["type"])
        if scope["type"] == "http":
            await respond(send)
        else:
            await receive()
            await send({"type": "websocket.accept"})

    async with listening(app, ws="websockets-sansio") as server, RawClient(server.url) as client:
        await client.send(get(b"/1"))
        assert (await client.answer()).status == 200
        await client.send(HANDSHAKE)
        assert (await client.head()).startswith(b"HTTP/1.1 101")
    assert kinds == ["http", "websocket"]


async def test_a_client_that_leaves_behind_a_handshake_unread_ends_the_request_in_progress() -> None:
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not server.protocols[0].transport.is_closing():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        over.set()

    async with listening(app, ws="websockets-sansio") as server:
        async with RawClient(server.url) as client:
            await client.send(get(b"/large"))
            while not server.protocols or not server.protocols[0].write_paused:
                await asyncio.sleep(0)
            await client.send(HANDSHAKE)
            await asyncio.sleep(0.05)
        await asyncio.wait_for(over.wait(), 5)
