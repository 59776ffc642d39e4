"""What an app sends and what the client gets: the same tests over uvicorn's own protocol class and ours.

Each case is one request, followed in the same segment by a second one that asks to be the last. Whether
that second one is answered says whether the connection was kept.
"""

from dataclasses import dataclass
from typing import Any

import h11
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from asgi_gateway.server import HttpProtocol
from asgi_gateway.testing import RawClient
from asgi_gateway.types import ASGIApp, Headers, Message, Receive, Scope, Send
from tests.server.listening import listening

PROBE = b"GET /probe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
LENGTH_2 = [(b"content-length", b"2")]


def request(method: bytes = b"GET", version: bytes = b"1.1", *headers: bytes) -> bytes:
    return b"\r\n".join([b"%b / HTTP/%b" % (method, version), b"Host: h", *headers, b"", b""])


def start(status: int = 200, headers: Headers | None = None) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers or []}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: Message | Exception, returning: Any = None) -> ASGIApp:
    """An app that sends these messages, raises where it meets an exception, and answers the probe."""

    async def app(scope: Scope, receive: Receive, send: Send) -> Any:
        if scope["path"] == "/probe":
            await send(start(200, [(b"content-length", b"5")]))
            await send(body(b"probe"))
            return None
        for message in messages:
            if isinstance(message, Exception):
                raise message
            await send(message)
        return returning

    return app


@dataclass(frozen=True)
class Case:
    """`gets` is status and body, or "broken"; `then` is "kept", "closed" or "reset".

    `uvicorn` holds what uvicorn's own class does where that is something else, and `because` why we differ.
    """

    app: ASGIApp
    gets: tuple[int, bytes] | str
    then: str
    asked: bytes = request()
    uvicorn: tuple[Any, str] | None = None
    because: str = ""


OK = (200, b"ok")
FAILED = (500, b"Internal Server Error")
BOOM = RuntimeError("boom")
SAME = {
    "a length": Case(sending(start(200, LENGTH_2), body(b"ok")), OK, "kept"),
    "a length, in pieces": Case(sending(start(200, LENGTH_2), body(b"o", more=True), body(b"k")), OK, "kept"),
    "no length": Case(sending(start(), body(b"ok")), OK, "kept"),
    "no length, in pieces": Case(
        sending(start(), body(b"o", more=True), body(b"", more=True), body(b"k", more=True), body()),
        OK,
        "kept",
    ),
    "no length and no body": Case(sending(start(), body()), (200, b""), "kept"),
    "a coding of its own": Case(
        sending(start(200, [(b"Transfer-Encoding", b"chunked")]), body(b"ok")), OK, "kept"
    ),
    "only the keys that must be there": Case(
        sending({"type": "http.response.start", "status": 200}, {"type": "http.response.body"}),
        (200, b""),
        "kept",
    ),
    "HEAD with a length": Case(
        sending(start(200, LENGTH_2), body(b"ok")), (200, b""), "kept", request(b"HEAD")
    ),
    "HEAD with a length and no body": Case(
        sending(start(200, LENGTH_2), body()), (200, b""), "kept", request(b"HEAD")
    ),
    "HEAD without a length": Case(sending(start(), body(b"ok")), (200, b""), "kept", request(b"HEAD")),
    "204": Case(sending(start(204), body()), (204, b""), "kept"),
    "304": Case(sending(start(304, [(b"etag", b'"a"')]), body()), (304, b""), "kept"),
    "a status without a phrase": Case(sending(start(299, LENGTH_2), body(b"ok")), (299, b"ok"), "kept"),
    "the app closes": Case(
        sending(start(200, [(b"Connection", b"Close"), *LENGTH_2]), body(b"ok")), OK, "closed"
    ),
    "the client closes": Case(
        sending(start(200, LENGTH_2), body(b"ok")),
        OK,
        "closed",
        request(b"GET", b"1.1", b"Connection: close"),
    ),
    "HTTP/1.0": Case(sending(start(200, LENGTH_2), body(b"ok")), OK, "closed", request(b"GET", b"1.0")),
    "HTTP/1.0 that would be kept": Case(
        sending(start(200, LENGTH_2), body(b"ok")),
        OK,
        "closed",
        request(b"GET", b"1.0", b"Connection: keep-alive"),
    ),
    "it raises before the answer": Case(sending(BOOM), FAILED, "closed"),
    "it returns without an answer": Case(sending(), FAILED, "closed"),
    "a body before the start": Case(sending(body(b"x")), FAILED, "closed"),
    "an unknown message before the start": Case(sending({"type": "http.unknown"}), FAILED, "closed"),
    "it raises after the start": Case(sending(start(), BOOM), "broken", "closed"),
    "it raises inside the body": Case(sending(start(), body(b"o", more=True), BOOM), "broken", "closed"),
    "it returns after the start": Case(sending(start()), "broken", "closed"),
    "it returns inside the body": Case(sending(start(), body(b"o", more=True)), "broken", "closed"),
    "two starts": Case(sending(start(), start()), "broken", "closed"),
    "an unknown message inside the body": Case(
        sending(start(), body(b"o", more=True), {"type": "http.unknown"}), "broken", "closed"
    ),
    "more than the length": Case(sending(start(200, LENGTH_2), body(b"too much")), "broken", "closed"),
    "less than the length": Case(sending(start(200, LENGTH_2), body(b"x")), "broken", "closed"),
}
DIFFERENT = {
    "a body with 204": Case(
        sending(start(204), body(b"ok")),
        (204, b""),
        "kept",
        uvicorn=((204, b""), "closed"),
        because="such a body is dropped as for HEAD, and no mistake of the framing",
    ),
    "304 with the length of what it stands for": Case(
        sending(start(304, LENGTH_2), body()),
        (304, b""),
        "kept",
        uvicorn=((304, b""), "closed"),
        because="RFC 9110 section 8.6 allows it, and services send it",
    ),
    "a header that would become two": Case(
        sending(start(200, [(b"x", b"a\r\nset-cookie: b")]), body(b"ok")),
        FAILED,
        "closed",
        uvicorn=("broken", "closed"),
        because="nothing was sent, so the client may be told",
    ),
    "it returns something": Case(
        sending(start(200, LENGTH_2), body(b"ok"), returning=123),
        OK,
        "kept",
        uvicorn=(OK, "closed"),
        because="the answer is whole",
    ),
    "it raises after the answer": Case(
        sending(start(200, LENGTH_2), body(b"ok"), BOOM),
        OK,
        "kept",
        uvicorn=(OK, "closed"),
        because="the answer is whole, and the next request on the connection is another's",
    ),
    "it sends more after the answer": Case(
        sending(start(200, LENGTH_2), body(b"ok"), body(b"more")),
        OK,
        "kept",
        uvicorn=(OK, "closed"),
        because="the answer is whole, and the next request on the connection is another's",
    ),
    "HTTP/1.0 that breaks off": Case(
        sending(start(), body(b"o", more=True), BOOM),
        "broken",
        "reset",
        request(b"GET", b"1.0"),
        uvicorn=("broken", "closed"),
        because="without a length only a reset tells a client of HTTP/1.0",
    ),
}


async def seen(http: Any, case: Case) -> tuple[Any, str]:
    async with listening(case.app, http) as server, RawClient(server.url) as client:
        await client.send(case.asked + PROBE)
        try:
            answer = await client.answer(case.asked.partition(b" ")[0].decode())
            gets: Any = (answer.status, answer.body)
        except (h11.RemoteProtocolError, ConnectionResetError):
            gets = "broken"
        rest = await client.rest()
        return gets, "kept" if rest.endswith(b"probe") else str(client.ended)


@pytest.mark.parametrize("http", [HttpProtocol, HttpToolsProtocol], ids=["ours", "uvicorn"])
@pytest.mark.parametrize("case", SAME.values(), ids=SAME.keys())
async def test_the_client_gets_the_same_through_either_class(http: Any, case: Case) -> None:
    assert await seen(http, case) == (case.gets, case.then)


@pytest.mark.parametrize("case", DIFFERENT.values(), ids=DIFFERENT.keys())
async def test_where_we_differ_we_mean_to(case: Case) -> None:
    assert await seen(HttpProtocol, case) == (case.gets, case.then), case.because
    assert await seen(HttpToolsProtocol, case) == case.uvicorn


@pytest.mark.parametrize("http", [HttpProtocol, HttpToolsProtocol], ids=["ours", "uvicorn"])
async def test_a_head_is_framed_once_and_says_when_the_connection_ends(http: Any) -> None:
    cases: list[tuple[ASGIApp, bytes, list[bytes]]] = [
        (sending(start(200, LENGTH_2), body(b"ok")), request(), [b"content-length: 2"]),
        (sending(start(), body(b"ok")), request(), [b"transfer-encoding: chunked"]),
        (
            sending(start(200, [(b"transfer-encoding", b"chunked")]), body(b"ok")),
            request(),
            [b"transfer-encoding: chunked"],
        ),
        (sending(start(204), body()), request(), []),
        (sending(start(), body()), request(b"HEAD"), []),
        (
            sending(start(200, LENGTH_2), body(b"ok")),
            request(b"GET", b"1.0"),
            [b"content-length: 2", b"connection: close"],
        ),
        (
            sending(start(200, [(b"connection", b"close"), *LENGTH_2]), body(b"ok")),
            request(),
            [b"connection: close", b"content-length: 2"],
        ),
    ]
    for app, asked, expected in cases:
        async with listening(app, http) as server, RawClient(server.url) as client:
            await client.send(asked)
            lines = (await client.head()).lower().split(b"\r\n")[1:-2]
        assert sorted(lines) == sorted(expected)


async def test_a_stream_for_http_1_0_has_no_chunks_through_ours_alone() -> None:
    app = sending(start(), body(b"o", more=True), body(b"k"))
    received = {}
    for http in (HttpProtocol, HttpToolsProtocol):
        async with listening(app, http) as server, RawClient(server.url) as client:
            await client.send(request(b"GET", b"1.0"))
            received[http] = (await client.rest()).partition(b"\r\n\r\n")[2]
    assert received == {HttpProtocol: b"ok", HttpToolsProtocol: b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"}


async def test_a_failure_after_a_whole_answer_does_not_cut_it() -> None:
    """In HTTP/1.0 a reset is how an answer is broken off; this one is whole and may still be on its way."""
    size = 8 * 2**20
    app = sending(start(), body(b"x" * size), BOOM)
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(request(b"GET", b"1.0"))
        answer = await client.answer()
        assert (len(answer.body), client.ended) == (size, "closed")


@pytest.mark.parametrize("size", [*range(3, 9), 100])
async def test_an_answer_that_was_longer_than_it_says_is_broken_whatever_the_app_does_then(size: int) -> None:
    """Else the answer to the next request would be read as this one's."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, LENGTH_2))
        try:
            await send(body(b"x" * size))
        finally:
            await send(body())

    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(request() + PROBE)
        with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
            await client.answer()
        assert client.ended == "closed"


async def test_an_app_may_mend_a_piece_that_was_too_long_or_too_short() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, LENGTH_2))
        for wrong in (b"ok then", b"o"):
            with pytest.raises(RuntimeError):
                await send(body(wrong))
        await send(body(b"ok"))

    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(request())
        assert (await client.answer()).body == b"ok"


@pytest.mark.parametrize("length", [b"-1", b"+2", b"0_2", b" 2", b"2 ", b"", b"two", b"2, 2"])
async def test_a_length_that_is_no_number_is_not_sent(length: bytes) -> None:
    app = sending(start(200, [(b"content-length", length)]), body(b"ok"))
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(request())
        assert (await client.answer()).status == 500


async def test_two_lengths_are_not_sent() -> None:
    app = sending(start(200, [(b"Content-Length", b"3"), *LENGTH_2]), body(b"ok"))
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(request())
        assert (await client.answer()).status == 500


@pytest.mark.parametrize("error", [BaseExceptionGroup("of a task group", [GeneratorExit()]), BaseException()])
async def test_an_exception_that_is_no_mistake_by_its_kind_is_one_all_the_same(
    http: Any, error: BaseException
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(request())
        assert (await client.answer()).status == 500
        assert (await client.rest(), client.ended) == (b"", "closed")
