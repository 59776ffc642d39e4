"""Clients that leave, read slowly or ask twice, and the server's end: over uvicorn's own class and ours."""

import asyncio
import contextlib
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from asgi_gateway.server import HttpProtocol
from asgi_gateway.testing import RawClient, read_body
from asgi_gateway.types import Message, Receive, Scope, Send
from tests.server.apps import DISCONNECT, GET, Listener, given, is_gone, is_last, respond
from tests.server.listening import listening

# A client that leaves


@pytest.mark.parametrize("how", ["closes", "resets", "half-closes"])
async def test_a_client_that_leaves_is_a_disconnect_from_then_on(http: Any, how: str) -> None:
    heard: list[Message] = []
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(await receive())
        arrived.set()
        heard.append(await receive())
        await respond(send)  # to nobody, which is no mistake
        heard.append(await receive())
        over.set()

    arrived = asyncio.Event()
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(GET)
        await arrived.wait()
        if how == "half-closes":
            client.finish()
            assert (await client.rest(), client.ended) == (b"", "closed")
        elif how == "resets":
            client.reset()
        else:
            await client.__aexit__()
        await asyncio.wait_for(over.wait(), 5)
    assert heard == [given(), DISCONNECT, DISCONNECT]


async def test_a_body_that_breaks_off_is_a_disconnect_and_never_whole(http: Any) -> None:
    app = Listener(is_gone)
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\npart")
        while not app.heard:
            await asyncio.sleep(0)
        client.reset()
        await app.over()
    assert app.heard[0] == given(b"part", more=True)
    assert [message["type"] for message in app.heard[1:]] == ["http.disconnect"] * 2


async def test_the_answers_end_is_a_disconnect_while_the_client_stays(http: Any) -> None:
    app = Listener()
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(GET)
        await client.answer()
        await app.over()
        assert app.heard[-1] == DISCONNECT
        await client.send(GET)
        assert (await client.answer()).status == 200


async def test_asking_whether_the_client_has_left_leaves_nothing_behind() -> None:
    """As Starlette's `Request.is_disconnected` asks: by a `receive` that is cancelled."""
    asked, finish = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for _ in range(100):
            waiting = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        asked.set()
        await finish.wait()
        await respond(send)

    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(GET)
        await asyncio.wait_for(asked.wait(), 5)
        assert server.protocols[0]._cycle.waiters == ()
        finish.set()
        assert (await client.answer()).status == 200


async def test_one_who_gives_up_waiting_does_not_end_the_wait_of_another(http: Any) -> None:
    heard: list[Message] = []
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        first, second = asyncio.ensure_future(receive()), asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        first.cancel()
        asked.set()
        heard.append(await second)
        over.set()

    asked = asyncio.Event()
    async with listening(app, http) as server:
        async with RawClient(server.url) as client:
            await client.send(GET)
            await asyncio.wait_for(asked.wait(), 5)
        await asyncio.wait_for(over.wait(), 5)
    assert heard == [DISCONNECT]


# A client that does not read


async def test_send_waits_for_a_client_that_does_not_read(http: Any) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(800):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(GET)
        before = -1
        while sent > before:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 400
        assert len((await client.answer()).body) == 800 * 65536


async def test_a_client_that_leaves_unread_ends_the_wait(http: Any) -> None:
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not (server.protocols[0].transport.is_closing()):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        over.set()

    async with listening(app, http) as server:
        async with RawClient(server.url) as client:
            await client.send(GET)
            await client.head()
        await asyncio.wait_for(over.wait(), 5)


# Several requests on a connection


async def test_pipelined_requests_are_run_one_by_one_in_order(http: Any) -> None:
    running, most, paths = 0, 0, []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        paths.append(scope["path"])
        body = await read_body(receive)
        await asyncio.sleep(0.001)
        running -= 1
        await respond(send, scope["path"].encode() + body)

    raw = b"".join(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx" % n for n in range(5))
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(raw)
        answers = [await client.answer() for _ in range(5)]
        assert server.server_state.total_requests == 5
    assert [answer.body for answer in answers] == [b"/%dx" % number for number in range(5)]
    assert (paths, most) == ([f"/{number}" for number in range(5)], 1)


async def test_what_is_pipelined_behind_the_last_request_is_not_run(http: Any) -> None:
    app = Listener(is_last)
    closing = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(closing + GET)
        assert (await client.rest()).count(b"HTTP/1.1 200") == 1
    assert len(app.scopes) == 1


async def test_an_idle_connection_ends_after_its_time(http: Any) -> None:
    async with (
        listening(Listener(), http, timeout_keep_alive=0.05) as server,
        RawClient(server.url) as client,
    ):
        await client.send(GET)
        await client.answer()
        assert (await client.rest(), client.ended) == (b"", "closed")


# The server


async def test_a_shutdown_ends_an_idle_connection_at_once(http: Any) -> None:
    async with listening(Listener(), http) as server, RawClient(server.url) as client:
        await client.send(GET)
        await client.answer()
        server.shut_down()
        assert (await client.rest(), client.ended) == (b"", "closed")


@pytest.mark.parametrize(
    ("kind", "behind"),
    [
        (HttpProtocol, b""),
        (HttpToolsProtocol, b""),
        (HttpProtocol, b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n"),  # uvicorn's class tells only the newest
    ],
)
async def test_a_shutdown_lets_the_request_in_progress_end_and_no_other_begin(
    kind: Any, behind: bytes
) -> None:
    begun, finish = [], asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        await finish.wait()
        await respond(send)

    async with listening(app, kind) as server, RawClient(server.url) as client:
        await client.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n" + behind)
        while not begun:
            await asyncio.sleep(0)
        server.shut_down()
        finish.set()
        answer = await client.answer()
        assert (answer.body, answer.header("connection")) == (b"ok", "close")
        assert (await client.rest(), client.ended) == (b"", "closed")
    assert begun == ["/1"]


async def test_a_shutdown_lets_the_request_whose_head_arrives_be_the_last() -> None:
    async with listening(Listener(is_last)) as server, RawClient(server.url) as client:
        await client.send(GET[:-8])
        while not server.protocols or server.protocols[0].idle:
            await asyncio.sleep(0)
        server.shut_down()
        await client.send(GET[-8:])
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert (await client.rest(), client.ended) == (b"", "closed")


async def test_more_connections_than_the_limit_are_answered_503(http: Any) -> None:
    app = Listener()
    async with listening(app, http, limit_concurrency=2) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient(server.url)) for _ in range(2)]
        while len(server.protocols) < 2:
            await asyncio.sleep(0)
        await clients[0].send(GET)
        answer = await clients[0].answer()
        assert (answer.status, answer.body) == (503, b"Service Unavailable")
        assert (await clients[0].rest(), clients[0].ended) == (b"", "closed")
        await clients[1].send(GET)
        assert (await clients[1].answer()).status == 200
    assert len(app.scopes) == 1


async def test_the_server_knows_its_connections_and_requests(http: Any) -> None:
    finish = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await finish.wait()
        await respond(send)

    async with listening(app, http) as server:
        state = server.server_state
        async with RawClient(server.url) as client:
            await client.send(GET)
            while not state.tasks:
                await asyncio.sleep(0)
            assert (len(state.connections), len(state.tasks)) == (1, 1)
            finish.set()
            await client.answer()
            assert (len(state.connections), len(state.tasks), state.total_requests) == (1, 0, 1)
        async with asyncio.timeout(5):
            while state.connections:
                await asyncio.sleep(0)


@pytest.mark.parametrize("wanted", [b"websocket", b"h2c"])
@pytest.mark.parametrize("ws", ["websockets-sansio", "none"])
async def test_only_websocket_is_handed_over_and_only_where_it_is_spoken(
    http: Any, ws: str, wanted: bytes
) -> None:
    kinds: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.append(scope["type"])
        if scope["type"] == "http":
            await respond(send)
        else:
            await receive()
            await send({"type": "websocket.close"})

    upgrade = [b"Connection: keep-alive, Upgrade", b"Upgrade: " + wanted]
    key = [b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13"]
    async with listening(app, http, ws=ws) as server, RawClient(server.url) as client:
        await client.send(b"\r\n".join([b"GET / HTTP/1.1", b"Host: h", *upgrade, *key, b"", b""]))
        status = int((await client.head()).split()[1])
    spoken = ws != "none" and wanted == b"websocket"
    assert (kinds, status) == ((["websocket"], 403) if spoken else (["http"], 200))


UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"


async def test_http_1_0_cannot_change_the_protocol() -> None:
    """It must be ignored there (RFC 9110 section 7.8)."""
    app = Listener()
    async with listening(app, ws="websockets-sansio") as server, RawClient(server.url) as client:
        await client.send(b"GET / HTTP/1.0\r\nHost: h\r\n" + UPGRADE + KEY)
        assert (await client.answer()).status == 200
        assert (await client.rest(), client.ended) == (b"", "closed")
    assert [scope["http_version"] for scope in app.scopes] == ["1.0"]


@pytest.mark.parametrize(
    ("target", "seen"), [(b"http://h/ws?a", "/ws"), (b"http://h", "/"), (b"/ws?a", "/ws")]
)
async def test_a_websocket_may_be_asked_for_by_a_whole_url(target: bytes, seen: str) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await receive()
        await send({"type": "websocket.accept"})

    async with listening(app, ws="websockets-sansio") as server, RawClient(server.url) as client:
        await client.send(b"GET %b HTTP/1.1\r\nHost: h\r\n" % target + UPGRADE + KEY)
        assert (await client.head()).startswith(b"HTTP/1.1 101")
    query = b"a" if b"?" in target else b""
    assert [(scope["path"], scope["query_string"]) for scope in scopes] == [(seen, query)]
