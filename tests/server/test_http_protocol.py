"""The protocol class of `asgi-gateway run` on a real socket: what it refuses, bounds and times out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import pytest

from asgi_gateway.server import HttpProtocol
from asgi_gateway.testing import read_body, serve
from asgi_gateway.types import Receive, Scope, Send

OK = b"HTTP/1.1 200"


class Recorder:
    """An app that answers with what it was asked and remembers it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes, list[tuple[bytes, bytes]], bytes]] = []
        self.broken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            body = await read_body(receive)
        except ConnectionError:
            self.broken += 1
            return
        self.requests.append((scope["method"], scope["path"], scope["query_string"], scope["headers"], body))
        answer = b"%b %b" % (scope["method"].encode(), scope["raw_path"])
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class Client:
    def __init__(self, server: Any) -> None:
        self.server = server

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self.server.host, self.server.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def say(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def everything(self, seconds: float = 5.0) -> bytes:
        received = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await self.reader.read(65536):
                    received += piece
        except ConnectionError:
            pass
        return received


@asynccontextmanager
async def running(app: Any, **options: Any) -> AsyncIterator[Any]:
    async with serve(app, http=HttpProtocol, lifespan="off", **options) as server:
        yield server


async def ask(app: Any, raw: bytes, **options: Any) -> bytes:
    async with running(app, **options) as server, Client(server) as client:
        await client.say(raw)
        return await client.everything()


def post(*headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST /x HTTP/" + version, b"Host: h", *headers, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"
REFUSED = {
    "both framings": post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"),
    "both framings, other order": post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 1", b"Content-Length: 2", body=b"xx"),
    **{
        f"length {value!r}": post(b"Content-Length: " + value, body=b"xxxxxxxx")
        for value in (
            b"+5",
            b"-0",
            b"-5",
            b"0x5",
            b"1_0",
            b"5, 6",
            b"5,5",
            b"",
            b" ",
            b"5 5",
            b"9" * 20,
            b"1e1",
            b"\xb25",
        )
    },
    **{
        f"coding {value!r}": post(b"Transfer-Encoding: " + value, body=b"0\r\n\r\n")
        for value in (
            b"xchunked",
            b"identity",
            b"chunked, gzip",
            b"gzip, chunked",
            b",chunked",
            b"chunked,",
            b"\x0bchunked",
            b"chunked, chunked",
            b'"chunked"',
            b"chunked;q=1",
            b"",
            b"chun\tked",
            b"identity, chunked",
        )
    },
    "two codings": post(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "two equal codings": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "folded coding": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "coding in HTTP/1.0": post(CHUNKED, body=b"0\r\n\r\n", version=b"1.0"),
    "space before colon": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "name with space": post(b"X Y: 1"),
    "empty name": post(b": 1"),
    "no colon": post(b"nothing"),
    "NUL in a value": post(b"X: a\0b"),
    "bare CR in a value": post(b"X: a\rb"),
    "bare LF in a value": post(b"X: a\nY: b"),
    "control character in a value": post(b"X: a\x01b"),
    "delete in a value": post(b"X: a\x7fb"),
    "folded value": post(b"X: a\r\n b"),
    "non-ASCII name": post(b"X\xe9: 1"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two equal hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    **{
        f"host {value!r}": b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n"
        for value in (
            b"",
            b"a/b",
            b"a?b",
            b"a#b",
            b"u@h",
            b"a,b",
            b"a b",
            b"a:b",
            b"a:123456",
            b"[::1",
            b"a\\b",
            b"<a>",
        )
    },
    "absolute target of another host": b"GET http://evil/x HTTP/1.1\r\nHost: good\r\n\r\n",
    "absolute target of another scheme": b"GET ftp://good/x HTTP/1.1\r\nHost: good\r\n\r\n",
    "absolute target with user": b"GET http://u@good/x HTTP/1.1\r\nHost: good\r\n\r\n",
    "star for GET": b"GET * HTTP/1.1\r\nHost: h\r\n\r\n",
    "relative target": b"GET x HTTP/1.1\r\nHost: h\r\n\r\n",
    "fragment": b"GET /x#y HTTP/1.1\r\nHost: h\r\n\r\n",
    "raw non-ASCII target": b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    "tab in the target": b"GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT": b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: h\r\n\r\n",
    "no version": b"GET / HTTP/\r\nHost: h\r\n\r\n",
    "bare LF lines": b"GET / HTTP/1.1\nHost: h\n\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "expectation": post(b"Expect: 200-maybe"),
    "upgrade with a body": post(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 4", body=b"GET "),
    "long target": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "long header": post(b"X: " + b"x" * 40_000),
    "many headers": post(*[b"X-%d: 1" % number for number in range(200)]),
    "large head": post(*[b"X-%d: %b" % (number, b"x" * 900) for number in range(100)]),
    "endless head": b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 200_000,
    **{
        f"chunk size {size!r}": post(CHUNKED, body=size + b"\r\nhello\r\n0\r\n\r\n")
        for size in (b"0x5", b"+5", b"-5", b"5_0", b" 5", b"1" * 17, b"5\t;", b"g", b"")
    },
    "chunk ended by bare LF": post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"),
    "chunk ended by bare CR": post(CHUNKED, body=b"5\rhello\r\n0\r\n\r\n"),
    "chunk without its end": post(CHUNKED, body=b"5\r\nhelloX\r\n0\r\n\r\n"),
    "chunk longer than its size": post(CHUNKED, body=b"3\r\nhello\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_malformed_or_ambiguous_reaches_no_app(raw: bytes) -> None:
    app = Recorder()
    received = await ask(app, raw)
    assert app.requests == []
    assert not received.startswith(OK)
    if received:
        assert received[9:12] in (b"400", b"414", b"417", b"431", b"501", b"505")
        assert b"connection: close" in received


GOOD = {
    "absolute target": (b"GET http://h:80/x?y HTTP/1.1\r\nHost: h:80\r\n\r\n", "/x", b"y"),
    "absolute target without path": (b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", "/", b""),
    "star": (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "*", b""),
    "encoded": (b"GET /a%2Fb%20c?d=%20 HTTP/1.1\r\nHost: h\r\n\r\n", "/a/b c", b"d=%20"),
    "IPv6 host": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "/", b""),
    "HTTP/1.0 without host": (b"GET / HTTP/1.0\r\n\r\n", "/", b""),
    "odd characters": (b'GET /|^{}"<>`\\;v=1 HTTP/1.1\r\nHost: h\r\n\r\n', '/|^{}"<>`\\;v=1', b""),
    "h2c upgrade is ignored": (
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "/",
        b"",
    ),
}


@pytest.mark.parametrize(("raw", "path", "query"), GOOD.values(), ids=GOOD.keys())
async def test_what_is_plain_is_served(raw: bytes, path: str, query: bytes) -> None:
    app = Recorder()
    async with running(app) as server, Client(server) as client:
        await client.say(raw)
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 200")
    assert [(request[1], request[2]) for request in app.requests] == [(path, query)]


async def test_trailers_are_dropped() -> None:
    app = Recorder()
    trailers = b"Authorization: secret\r\nHost: evil\r\nX-User: root\r\n"
    async with running(app) as server, Client(server) as client:
        await client.say(post(CHUNKED, body=b"2\r\nhi\r\n0\r\n"))
        await client.say(trailers + b"\r\n")
        await client.reader.readline()
    method, _, _, headers, body = app.requests[0]
    assert (method, body) == ("POST", b"hi")
    assert headers == [(b"host", b"h"), (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize("trailer", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
async def test_a_trailer_that_frames_is_refused(trailer: bytes) -> None:
    app = Recorder()
    received = await ask(app, post(CHUNKED, body=b"2\r\nhi\r\n0\r\n" + trailer + b"\r\n\r\n"))
    assert (app.requests, received[:12]) == ([], b"HTTP/1.1 400")


async def test_keep_alive_and_pipelining_answer_in_order() -> None:
    app = Recorder()
    three = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(3))
    last = b"GET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    received = await ask(app, three + last)
    assert [received.find(b"GET /%d" % number) for number in range(4)] == sorted(
        received.find(b"GET /%d" % number) for number in range(4)
    )
    assert received.count(OK) == 4
    assert received.count(b"connection: close") == 1


async def test_a_bad_request_behind_a_good_one_is_refused_after_it() -> None:
    app = Recorder()
    received = await ask(app, b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
    assert received.startswith(OK)
    assert received.count(b"HTTP/1.1 400") == 1
    assert len(app.requests) == 1


@pytest.mark.parametrize(
    "behind",
    [b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /2 HTTP/1.1\r\n\r\n", b"GET /2 HTTP/1.1\r\nHo"],
    ids=["whole", "refused", "half"],
)
async def test_a_client_that_leaves_is_noticed_with_a_request_behind_the_one_in_progress(
    behind: bytes,
) -> None:
    asked, gone = asyncio.Semaphore(0), asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        loop.call_soon_threadsafe(asked.release)
        while (await receive())["type"] != "http.disconnect":
            pass
        loop.call_soon_threadsafe(gone.release)

    async with running(waiting) as server:
        async with Client(server) as client:
            await client.say(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n" + behind)
            await asyncio.wait_for(asked.acquire(), 5)
        await asyncio.wait_for(gone.acquire(), 1)


async def test_a_bad_chunk_breaks_the_request_for_the_app() -> None:
    app = Recorder()
    async with running(app) as server, Client(server) as client:
        await client.say(post(CHUNKED, body=b"5\r\nhello\r\n"))
        await client.say(b"zz\r\n")
        received = await client.everything()
    assert received.startswith(b"HTTP/1.1 400")
    assert (app.requests, app.broken) == ([], 1)


async def test_continue_is_sent_when_the_app_asks_for_the_body() -> None:
    app = Recorder()
    async with running(app) as server, Client(server) as client:
        await client.say(post(b"Expect: 100-continue", b"Content-Length: 2"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.say(b"hi")
        assert (await client.reader.readline()).startswith(OK)
    assert app.requests[0][4] == b"hi"


async def test_a_final_answer_instead_of_continue_ends_the_connection() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    received = await ask(refusing, post(b"Expect: 100-continue", b"Content-Length: 2"))
    assert received.startswith(b"HTTP/1.1 403")
    assert b"connection: close" in received
    assert b"100 Continue" not in received


async def test_an_answer_before_the_upload_ends_is_readable_and_ends_the_connection() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"big"})

    async with running(refusing) as server, Client(server) as client:
        await client.say(post(b"Content-Length: 100000000", body=b"x" * 100_000))
        await client.say(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n" * 10)
        received = await client.everything()
    assert received.startswith(b"HTTP/1.1 413")
    assert received.count(b"HTTP/1.1") == 1


async def test_http_1_0_gets_no_chunks_and_a_closed_connection() -> None:
    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    received = await ask(streaming, b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"onetwo"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_breaks_off_never_looks_whole(version: bytes) -> None:
    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0.05)
        raise RuntimeError("a bug")

    async with running(breaking) as server, Client(server) as client:
        await client.say(b"GET / HTTP/" + version + b"\r\nHost: h\r\n\r\n")
        received = await client.reader.readuntil(b"part")
        if version == b"1.0":
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
        else:
            received += await client.reader.read()
            assert not received.endswith(b"0\r\n\r\n")


async def test_headers_do_not_wait_for_a_body_that_is_late() -> None:
    release = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not release.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"late"})

    async with running(slow) as server, Client(server) as client:
        await client.say(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5)
        release.set()
        assert b"late" in await client.reader.readuntil(b"0\r\n\r\n")


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\0b"])
async def test_a_response_header_cannot_become_two(value: bytes) -> None:
    async def splitting(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", value)]})
        await send({"type": "http.response.body"})

    assert (await ask(splitting, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).startswith(b"HTTP/1.1 500")


async def test_default_headers_do_not_double_an_apps_own() -> None:
    async def dated(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"Date", b"mine"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    raw = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    received = (await ask(dated, raw, date_header=True)).lower()
    assert received.count(b"date:") == 1
    assert b"date: mine" in received
    assert (await ask(Recorder(), raw, date_header=True)).lower().count(b"date:") == 1


class Impatient(HttpProtocol):
    head_timeout = 0.2
    body_interval = 0.2
    body_minimum = 100
    linger = 0.2


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", b"HTTP/1.1 408"),
        (post(b"Content-Length: 100", body=b"x"), b"HTTP/1.1 408"),
        (post(CHUNKED, body=b"5\r\nhel"), b"HTTP/1.1 408"),
    ],
)
async def test_slow_clients_are_sent_away(raw: bytes, status: bytes) -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off") as server, Client(server) as client:
        await client.say(raw)
        received = await client.everything(3)
    assert received[:12] == status
    assert app.requests == []


async def test_trickling_does_not_buy_time() -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off") as server, Client(server) as client:

        async def trickle() -> None:
            for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 1000:
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await client.everything(3)).startswith(b"HTTP/1.1 408")
        trickling.cancel()


async def test_idle_connections_end_and_busy_ones_do_not() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.6)
        await Recorder()(scope, receive, send)

    async with serve(slow, http=Impatient, lifespan="off", timeout_keep_alive=0.3) as server:
        async with Client(server) as client:
            await client.say(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            received = await client.everything(3)
    assert received.startswith(OK)


async def test_an_app_that_does_not_read_is_not_the_clients_fault() -> None:
    release = asyncio.Event()

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.7)
        await Recorder()(scope, receive, send)

    body = b"x" * 300_000
    async with serve(later, http=Impatient, lifespan="off") as server, Client(server) as client:
        client.writer.write(post(b"Content-Length: %d" % len(body), body=body))
        assert (await client.reader.readline()).startswith(OK)
    release.set()


async def test_five_hundred_silent_clients_do_no_harm() -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off") as server:
        silent = [await asyncio.open_connection(server.host, server.port) for _ in range(500)]
        for number, (_, writer) in enumerate(silent):
            writer.write((b"", b"GET / HT", post(b"Content-Length: 9", body=b"x"))[number % 3])
        for _ in range(20):
            async with Client(server) as client:
                await client.say(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await client.reader.readline()).startswith(OK)
        async with asyncio.timeout(5):
            for reader, writer in silent:
                with suppress(ConnectionError):  # a reset ends it as well
                    await reader.read()
                writer.transport.abort()
    assert len(app.requests) == 20
