"""What an answer may hold besides head and body: early hints before it, trailers behind it."""

import asyncio
from typing import Any

import pytest

from asgi_gateway import Gateway
from asgi_gateway.testing import RawClient, Upstream, behaviours
from asgi_gateway.types import Message, Receive, Scope, Send
from tests.server.listening import listening

TE = b"GET / HTTP/1.1\r\nHost: h\r\nTE: deflate, Trailers\r\nConnection: TE\r\n\r\n"
PLAIN = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n"
HINT: Message = {"type": "http.response.early_hint", "links": [b"</a>; rel=preload", b"</b>"]}
START: Message = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
HINTED = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"


def body(data: bytes = b"ok") -> Message:
    return {"type": "http.response.body", "body": data}


def trailers(*headers: tuple[bytes, bytes], more: bool = False) -> Message:
    return {"type": "http.response.trailers", "headers": list(headers), "more_trailers": more}


def sending(*messages: Message) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def received(app: Any, raw: bytes) -> bytes:
    """All that comes until the connection is idle or ends."""
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(raw)
        protocol = await server.newest()
        while protocol._cycle is not None or server.server_state.total_requests == 0:
            if protocol.transport.is_closing():
                break
            await asyncio.sleep(0)
        protocol.transport.close()
        return await client.rest()


@pytest.mark.parametrize(
    ("raw", "offered"),
    [(PLAIN, {"early_hint"}), (TE, {"early_hint", "trailers"}), (OLD, set())],
    ids=["plain", "te", "1.0"],
)
async def test_what_is_offered_is_what_the_client_can_take(raw: bytes, offered: set[str]) -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await sending({**START, "trailers": False}, body())(scope, receive, send)

    await received(app, raw)
    assert set(scopes[0]["extensions"]) == {f"http.response.{name}" for name in offered}


async def test_early_hints_come_before_the_answer_is_made() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(HINT)
        await go_on.wait()
        await sending({**START, "trailers": False}, body())(scope, receive, send)

    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(PLAIN)
        assert await client.until(b"\r\n\r\n") == HINTED
        go_on.set()
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"ok")


async def test_a_client_of_http_1_0_is_spared_hints_and_trailers() -> None:
    got = await received(sending(HINT, START, body(), trailers((b"x-sum", b"1"))), OLD)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"\r\n\r\nok")


async def test_hints_behind_the_start_are_a_mistake() -> None:
    got = await received(sending(START, HINT), PLAIN)
    assert b" 103 " not in got


@pytest.mark.parametrize(
    ("raw", "end"),
    [(TE, b"2\r\nok\r\n0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n"), (PLAIN, b"2\r\nok\r\n0\r\n\r\n")],
    ids=["asked for", "not asked for"],
)
async def test_trailers_go_to_those_who_asked(raw: bytes, end: bytes) -> None:
    app = sending(START, body(), trailers((b"x-sum", b"1"), more=True), trailers((b"x-more", b"2")))
    assert (await received(app, raw)).endswith(b"\r\n\r\n" + end)


async def test_trailers_of_an_answer_with_a_length_are_dropped_and_the_connection_is_kept() -> None:
    start = {**START, "headers": [(b"content-length", b"2")]}
    async with listening(sending(start, body(), trailers((b"x-sum", b"1")))) as server:
        async with RawClient(server.url) as client:
            for _ in range(2):
                await client.send(TE)
                answer = await client.answer()
                assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize(
    "messages",
    [
        [START, body()],
        [START, body(), body()],
        [START, body(), trailers((b"x", b"a\r\ny: b"))],
        [START, body(), trailers((b"x y", b"a"))],
        [START, body(), trailers((b"Content-Length", b"1"))],
        [START, trailers((b"x", b"1"))],
        [{**START, "trailers": False}, {**body(), "more_body": True}, trailers((b"x", b"1"))],
    ],
    ids=["none", "body again", "two lines", "no name", "framing", "no body", "not announced"],
)
async def test_what_cannot_be_a_trailer_leaves_the_answer_unfinished(messages: list[Message]) -> None:
    assert not (await received(sending(*messages), TE)).endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("link", [b"</a>\r\nset-cookie: b", b"a\nb", b"\0"])
async def test_a_hint_cannot_become_two(link: bytes) -> None:
    got = await received(sending({**HINT, "links": [link]}), PLAIN)
    assert got.startswith(b"HTTP/1.1 500")


def gateway_to(url: str) -> Gateway:
    return Gateway({"version": 1, "services": {"s": {"url": url, "routes": [{"path": "/*"}]}}})


async def test_a_services_early_hints_reach_the_client_and_other_interim_answers_do_not() -> None:
    async with Upstream(behaviours.interim((102, 103))) as service:
        async with listening(gateway_to(service.url)) as server, RawClient(server.url) as client:
            await client.send(PLAIN)
            assert (await client.until(b"\r\n\r\n")).startswith(
                b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>"
            )
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"ok")
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("raw", "there"), [(TE, True), (PLAIN, False)], ids=["asked for", "not"])
async def test_a_services_trailers_reach_a_client_that_asked(raw: bytes, there: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = head + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with Upstream(behaviours.raw(said, close=False)) as service:
        async with listening(gateway_to(service.url)) as server, RawClient(server.url) as client:
            await client.send(raw)
            got = await client.until(b"0\r\n")
            got += await client.until(b"\r\n\r\n") if there else await client.until(b"\r\n")
    assert got.endswith(b"2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n" if there else b"2\r\nok\r\n0\r\n\r\n")
