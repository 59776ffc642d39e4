"""What a service may answer and what it may not: refused or broken off, never relayed, never reused."""

import asyncio

import pytest

from asgi_gateway.proxy.transport import UpstreamError
from asgi_gateway.testing import Upstream, behaviours
from tests.proxy.conftest import MakeTransport, fetch, get

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n\r\nab"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "two lengths": OK + b"Content-Length: 3\r\n" + LENGTH,
    "the same length twice": OK + b"Content-Length: 2\r\n" + LENGTH,
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nab",
    "length with a sign": OK + b"Content-Length: +2\r\n\r\nab",
    "length in hex": OK + b"Content-Length: 0x2\r\n\r\nab",
    "negative length": OK + b"Content-Length: -2\r\n\r\nab",
    "empty length": OK + b"Content-Length:\r\n\r\nab",
    "length past 64 bits": OK + b"Content-Length: 99999999999999999999999\r\n\r\nab",
    "length and coding": OK + b"Transfer-Encoding: chunked\r\n" + LENGTH,
    "coding and length": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nab",
    "chunked is not last": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\nab",
    "a coding before chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\nab",
    "empty coding": OK + b"Transfer-Encoding:\r\n" + LENGTH,
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "chunk size 0x": CHUNKED + b"0x2\r\nab\r\n0\r\n\r\n",
    "chunk size with a sign": CHUNKED + b"+2\r\nab\r\n0\r\n\r\n",
    "chunk size with a space": CHUNKED + b" 2\r\nab\r\n0\r\n\r\n",
    "chunk size with an underscore": CHUNKED + b"2_0\r\nab\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nab\r\n0\r\n\r\n",
    "chunk size past 64 bits": CHUNKED + b"fffffffffffffffff\r\nab\r\n",
    "chunk ends in LF": CHUNKED + b"2\nab\r\n0\r\n\r\n",
    "chunk longer than it says": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "chunk without its end": CHUNKED + b"2\r\nab0\r\n\r\n",
    "LF in a chunk extension": CHUNKED + b"2;\nab\r\n0\r\n\r\n",
    # Longer than any two reads together: what is complete within two is not judged by its extensions.
    "huge chunk extension": CHUNKED + b"2;" + b"x" * 1_000_000 + b"\r\nab\r\n0\r\n\r\n",
    "trailer without a colon": CHUNKED + b"2\r\nab\r\n0\r\nbad\r\n\r\n",
    "huge trailer": CHUNKED + b"2\r\nab\r\n0\r\nx: " + b"x" * 300_000 + b"\r\n\r\n",
    "many trailers": CHUNKED + b"2\r\nab\r\n0\r\n" + b"x: y\r\n" * 300 + b"\r\n",
    "length among the trailers": CHUNKED + b"2\r\nab\r\n0\r\nContent-Length: 2\r\n\r\n",
    "head over the limit": OK + b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 4000 + LENGTH,
    "header over the limit": OK + b"X: " + b"a" * 33_000 + b"\r\n" + LENGTH,
    "headers past the limit": OK + b"X: a\r\n" * 257 + LENGTH,
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + LENGTH,
    "HTTP/2": b"HTTP/2 200 OK\r\n" + LENGTH,
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n" + LENGTH,
    "RTSP": b"RTSP/1.0 200 OK\r\n" + LENGTH,
    "lower case": b"http/1.1 200 OK\r\n" + LENGTH,
    "empty lines first": b"\r\n\r\n" + OK + LENGTH,
    "status 000": b"HTTP/1.1 000 OK\r\n" + LENGTH,
    "status 099": b"HTTP/1.1 099 OK\r\n" + LENGTH,
    "status 1000": b"HTTP/1.1 1000 OK\r\n" + LENGTH,
    "status of two digits": b"HTTP/1.1 20 OK\r\n" + LENGTH,
    "status of letters": b"HTTP/1.1 abc OK\r\n" + LENGTH,
    "two spaces": b"HTTP/1.1  200 OK\r\n" + LENGTH,
    "LF after the status line": b"HTTP/1.1 200 OK\n" + LENGTH,
    "space before the colon": OK + b"X : a\r\n" + LENGTH,
    "no colon": OK + b"bad\r\n" + LENGTH,
    "no name": OK + b": a\r\n" + LENGTH,
    "name that is no token": OK + b"X(y: a\r\n" + LENGTH,
    "NUL in a value": OK + b"X: a\0b\r\n" + LENGTH,
    "CR in a value": OK + b"X: a\rb\r\n" + LENGTH,
    "LF at the end of a header": OK + b"X: a\nY: b\r\n" + LENGTH,
    "control character in a value": OK + b"X: a\x01b\r\n" + LENGTH,
    "obs-fold": OK + b"X: a\r\n b\r\n" + LENGTH,
    "space before the first header": OK + b" X: a\r\n" + LENGTH,
    "205 with a body": b"HTTP/1.1 205 OK\r\n" + LENGTH,
    "101 unasked": b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "101 without an upgrade": b"HTTP/1.1 101 X\r\n\r\n" + OK + LENGTH,
    "10 000 interim answers": b"HTTP/1.1 103 X\r\n\r\n" * 10_000 + OK + LENGTH,
}


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_answer_is_never_relayed_and_its_connection_never_reused(
    make_http1: MakeTransport, answer: bytes, pieces: bool
) -> None:
    async def wrong(request, connection) -> None:
        await request.body()
        step = 1 if len(answer) < 200 else 5000
        for start in range(0, len(answer), step) if pieces else ():
            await connection.write(answer[start : start + step])
            await asyncio.sleep(0)
        if not pieces:
            await connection.write(answer)
        await connection.hang()

    async with (
        Upstream.script(wrong, behaviours.answer(body=b"mine")) as upstream,
        make_http1(upstream.port) as transport,
    ):
        with pytest.raises(UpstreamError) as caught:
            await asyncio.wait_for(fetch(transport), 5)
        assert caught.value.failure.code == "upstream_protocol"
        await upstream.wait_for(lambda: upstream.connections.open == 0)
        assert await fetch(transport) == b"mine"
        assert upstream.connections.total == 2


BODILESS = {
    "HEAD": (b"HEAD", OK + LENGTH),
    "204": (b"GET", b"HTTP/1.1 204 No Content\r\n" + LENGTH),
    "204 chunked": (
        b"GET",
        b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    ),
    "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\n" + LENGTH),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("method", "answer"), BODILESS.values(), ids=BODILESS)
async def test_body_where_there_can_be_none_reaches_nobody(
    make_http1: MakeTransport, method: bytes, answer: bytes, late: bool
) -> None:
    head, separator, body = answer.partition(b"\r\n\r\n")

    async def wrong(request, connection) -> None:
        await connection.write(head + separator if late else answer)
        await asyncio.sleep(0.005)
        await connection.write(body)

    async with (
        Upstream.script(wrong, behaviours.answer(body=b"mine")) as upstream,
        make_http1(upstream.port) as transport,
    ):
        assert await fetch(transport, get(method)) == b""
        await upstream.wait_for(lambda: upstream.connections.open == 0)
        assert await fetch(transport) == b"mine"


async def test_204_has_no_length(make_http1: MakeTransport) -> None:
    """A length would make the server in front wait for a body (RFC 9110 section 8.6)."""
    raw = behaviours.raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nX: y\r\n\r\n")
    async with Upstream(raw) as upstream, make_http1(upstream.port) as transport:
        response = await transport.exchange(get())
        await response.aclose()
    assert response.headers == [(b"x", b"y")]


@pytest.mark.parametrize("after", [None, 0.0, 0.005, 0.5])
@pytest.mark.parametrize("extra", [b"\r\n", b"junk", OK + b"Content-Length: 6\r\n\r\nstolen"])
async def test_bytes_after_the_end_reach_nobody(
    make_http1: MakeTransport, extra: bytes, after: float | None
) -> None:
    async with (
        Upstream.script(
            behaviours.extra_bytes(extra, after=after), behaviours.answer(body=b"mine")
        ) as upstream,
        make_http1(upstream.port) as transport,
    ):
        assert await fetch(transport) == b"ok"
        await upstream.wait_for(lambda: upstream.connections.open == 0)
        assert await fetch(transport) == b"mine"


async def test_limits_leave_room_for_what_is_usual(make_http1: MakeTransport) -> None:
    headers = [(b"X-Big", b"x" * 32_000), *[(b"X-%d" % number, b"y") for number in range(200)]]
    async with (
        Upstream(behaviours.answer(headers=headers)) as upstream,
        make_http1(upstream.port) as transport,
    ):
        response = await transport.exchange(get())
        await response.aclose()
    assert len(response.headers) == 202


@pytest.mark.parametrize("at_once", [True, False])
async def test_early_hints_come_as_they_are_made(make_http1: MakeTransport, at_once: bool) -> None:
    told = asyncio.Event()
    hints = []
    interims = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: <1>\r\n\r\n"
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 X\r\nLink: <2>\r\n\r\n"
    )

    async def handler(request, connection) -> None:
        await connection.write(interims + (OK + LENGTH if at_once else b""))
        if not at_once:
            await told.wait()
            await connection.write(OK + LENGTH)

    async def on_early_hints(headers) -> None:
        hints.append(headers)
        if len(hints) == 2:
            told.set()

    async with Upstream(handler) as upstream, make_http1(upstream.port) as transport:
        response = await transport.exchange(get(on_early_hints=on_early_hints))
        assert hints == [[(b"link", b"<1>")], [(b"link", b"<2>")]]
        assert (response.headers, await response.read()) == ([(b"content-length", b"2")], (b"ab", False))
        await response.aclose()
        assert await fetch(transport) == b"ab"


async def test_trailers_are_kept_apart_from_headers_and_the_next_answer(
    make_http1: MakeTransport,
) -> None:
    trailed = behaviours.raw(CHUNKED + b"2\r\nab\r\n0\r\nX-Sum: 1\r\nX-Last: 2\r\n\r\n", close=False)
    async with (
        Upstream.script(trailed, behaviours.answer()) as upstream,
        make_http1(upstream.port) as transport,
    ):
        first = await transport.exchange(get(trailers=True))
        while (await first.read())[1]:
            pass
        assert first.headers == [(b"transfer-encoding", b"chunked")]
        assert first.trailers == [(b"x-sum", b"1"), (b"x-last", b"2")]
        await first.aclose()
        second = await transport.exchange(get())
        assert (second.headers, second.trailers) == ([(b"content-length", b"2")], [])
        await second.aclose()
        assert upstream.connections.total == 1
    assert [request.header("te") for request in upstream.requests] == [b"trailers", None]
    assert upstream.requests[0].header("connection") == b"te"
