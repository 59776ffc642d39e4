"""The protocol class of `asgi-gateway run` on a real socket: what it refuses, bounds and times out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from asgi_gateway.server import Bounds, HttpProtocol
from asgi_gateway.testing import RawClient, read_body, serve
from asgi_gateway.types import Receive, Scope, Send
from tests.server.listening import listening

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


@asynccontextmanager
async def running(app: Any, **options: Any) -> AsyncIterator[Any]:
    async with serve(app, http=HttpProtocol, lifespan="off", **options) as server:
        yield server


async def ask(app: Any, raw: bytes, **options: Any) -> bytes:
    async with running(app, **options) as server, RawClient(server.url) as client:
        await client.send(raw)
        return await client.rest()


def post(*headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST /x HTTP/" + version, b"Host: h", *headers, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"
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
    async with running(app) as server, RawClient(server.url) as client:
        await client.send(raw)
        assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert [(request[1], request[2]) for request in app.requests] == [(path, query)]


async def test_trailers_are_dropped() -> None:
    app = Recorder()
    trailers = b"Authorization: secret\r\nHost: evil\r\nX-User: root\r\n"
    async with running(app) as server, RawClient(server.url) as client:
        await client.send(post(CHUNKED, body=b"2\r\nhi\r\n0\r\n"))
        await client.send(trailers + b"\r\n")
        await client.until(b"\r\n")
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
        async with RawClient(server.url) as client:
            await client.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n" + behind)
            await asyncio.wait_for(asked.acquire(), 5)
        await asyncio.wait_for(gone.acquire(), 1)


async def test_a_bad_chunk_breaks_the_request_for_the_app() -> None:
    app = Recorder()
    async with running(app) as server, RawClient(server.url) as client:
        await client.send(post(CHUNKED, body=b"5\r\nhello\r\n"))
        await client.send(b"zz\r\n")
        received = await client.rest()
    assert received.startswith(b"HTTP/1.1 400")
    assert (app.requests, app.broken) == ([], 1)


async def test_continue_is_sent_when_the_app_asks_for_the_body() -> None:
    app = Recorder()
    async with running(app) as server, RawClient(server.url) as client:
        await client.send(post(b"Expect: 100-continue", b"Content-Length: 2"))
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hi")
        assert (await client.until(b"\r\n")).startswith(OK)
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

    async with running(refusing) as server, RawClient(server.url) as client:
        await client.send(post(b"Content-Length: 100000000", body=b"x" * 100_000))
        await client.send(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n" * 10)
        received = await client.rest()
    assert received.startswith(b"HTTP/1.1 413")
    assert received.count(b"HTTP/1.1") == 1
    assert received.partition(b"\r\n\r\n")[0].endswith(b"\r\nconnection: close")


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
    arrived = asyncio.Event()

    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await arrived.wait()
        raise RuntimeError("a bug")

    async with running(breaking) as server, RawClient(server.url) as client:
        await client.send(b"GET / HTTP/" + version + b"\r\nHost: h\r\n\r\n")
        await client.until(b"part")
        arrived.set()
        rest = await client.rest()
    assert (rest, client.ended) == ((b"", "reset") if version == b"1.0" else (b"\r\n", "closed"))


async def test_headers_do_not_wait_for_a_body_that_is_late() -> None:
    release = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not release.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"late"})

    async with running(slow) as server, RawClient(server.url) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(client.until(b"\r\n\r\n"), 5)
        release.set()
        assert b"late" in await client.until(b"0\r\n\r\n")


@pytest.mark.parametrize("name", [b"", b"x y", b"x:", b"x\r\ny", b"X\xe9", b"x\0"])
async def test_the_name_of_a_response_header_must_be_one(name: bytes) -> None:
    async def naming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b"), (name, b"1")]})
        await send({"type": "http.response.body"})

    assert (await ask(naming, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).startswith(b"HTTP/1.1 500")


async def test_any_good_name_of_a_response_header_passes_as_it_is() -> None:
    async def naming(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"X_Y!#$%&'*+.^`|~", b"1"), (b"9", b"2"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    received = await ask(naming, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"\r\nX_Y!#$%&'*+.^`|~: 1\r\n9: 2\r\n" in received


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


Impatient = partial(
    HttpProtocol, bounds=Bounds(head_timeout=0.2, body_interval=0.2, body_minimum=100, linger=0.2)
)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 408"),
        (b"G", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", b"HTTP/1.1 408"),
        (post(b"Content-Length: 100", body=b"x"), b"HTTP/1.1 408"),
        (post(CHUNKED, body=b"5\r\nhel"), b"HTTP/1.1 408"),
    ],
)
async def test_slow_clients_are_sent_away(raw: bytes, status: bytes) -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off") as server, RawClient(server.url) as client:
        await client.send(raw)
        received = await client.rest()
    assert received[:12] == status
    assert app.requests == []


async def test_trickling_does_not_buy_time() -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off") as server, RawClient(server.url) as client:

        async def trickle() -> None:
            for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 1000:
                client.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await client.rest()).startswith(b"HTTP/1.1 408")
        trickling.cancel()


async def test_a_head_that_begins_behind_a_request_has_no_longer() -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off", timeout_keep_alive=60) as server:
        async with RawClient(server.url) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nG")
            assert (await client.rest()).count(b"HTTP/1.1 408") == 1
    assert len(app.requests) == 1


async def test_empty_lines_between_requests_do_not_keep_a_connection() -> None:
    async with serve(Recorder(), http=Impatient, lifespan="off", timeout_keep_alive=0.3) as server:
        async with RawClient(server.url) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.answer()

            async def drip() -> None:
                while True:
                    client.write(b"\r\n")
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            assert await client.rest() == b""
            dripping.cancel()


async def test_idle_connections_end_and_busy_ones_do_not() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.6)
        await Recorder()(scope, receive, send)

    async with serve(slow, http=Impatient, lifespan="off", timeout_keep_alive=0.3) as server:
        async with RawClient(server.url) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            received = await client.rest()
    assert received.startswith(OK)


async def test_an_app_that_does_not_read_is_not_the_clients_fault() -> None:
    release = asyncio.Event()

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.7)
        await Recorder()(scope, receive, send)

    body = b"x" * 300_000
    async with serve(later, http=Impatient, lifespan="off") as server, RawClient(server.url) as client:
        client.write(post(b"Content-Length: %d" % len(body), body=body))
        assert (await client.until(b"\r\n")).startswith(OK)
    release.set()


HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"


async def test_who_waits_to_be_told_to_continue_is_not_slow() -> None:
    """The time for a body begins when it is asked for."""

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)
        await Recorder()(scope, receive, send)

    async with serve(later, http=Impatient, lifespan="off") as server, RawClient(server.url) as client:
        await client.send(HEAD + b"Expect: 100-continue\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await asyncio.sleep(0.1)
        await client.send(b"hi")
        assert (await client.until(b"\r\n")).startswith(OK)


async def test_who_was_told_to_continue_and_does_not_is_slow() -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off") as server, RawClient(server.url) as client:
        await client.send(HEAD + b"Expect: 100-continue\r\n\r\n")
        received = await client.rest()
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 408")
    assert (app.requests, app.broken) == ([], 1)


async def test_nobody_is_told_to_continue_what_was_refused() -> None:
    heard: list[Any] = []
    refused = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refused.wait()
        heard.append(await receive())

    chunked = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(chunked + b"zz\r\n")
        assert (await client.answer()).status == 400
        refused.set()
        assert await client.rest() == b""
    assert heard == [{"type": "http.disconnect"}]


async def test_the_time_of_a_body_begins_when_its_head_is_there() -> None:
    """Though the head came in two pieces, and had a shorter time."""
    bounds = Bounds(head_timeout=0.3, body_interval=5)
    app = Recorder()
    async with (
        serve(app, http=partial(HttpProtocol, bounds=bounds), lifespan="off") as server,
        RawClient(server.url) as client,
    ):
        await client.send(HEAD)
        await asyncio.sleep(0.1)
        await client.send(b"\r\n")
        await asyncio.sleep(0.4)
        await client.send(b"hi")
        assert (await client.until(b"\r\n")).startswith(OK)


async def test_the_time_in_which_nothing_was_read_is_not_the_clients() -> None:
    taken = asyncio.Event()

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.8)
        await receive()
        taken.set()
        await Recorder()(scope, receive, send)

    bounds = Bounds(body_interval=0.5, body_minimum=100, buffer=1000)
    async with (
        listening(later, partial(HttpProtocol, bounds=bounds)) as server,
        RawClient(server.url) as client,
    ):
        await client.send(post(b"Content-Length: 4000", body=b"x" * 2000))
        await taken.wait()
        await asyncio.sleep(0.3)  # past the end of the interval that began while nothing was read
        await client.send(b"x" * 2000)
        assert (await client.answer()).status == 200


async def test_five_hundred_silent_clients_do_no_harm() -> None:
    app = Recorder()
    async with serve(app, http=Impatient, lifespan="off") as server:
        silent = [await RawClient(server.url).open() for _ in range(500)]
        for number, client in enumerate(silent):
            client.write((b"", b"GET / HT", post(b"Content-Length: 9", body=b"x"))[number % 3])
        for _ in range(20):
            async with RawClient(server.url) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await client.until(b"\r\n")).startswith(OK)
        for client in silent:
            await client.rest()
            client.close()
    assert len(app.requests) == 20
