"""What an app is told of a request: the same tests over uvicorn's own protocol class and ours."""

import asyncio
import contextvars
import ssl
from typing import Any

import pytest
import trustme
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from asgi_gateway.context import ON_DISCONNECT
from asgi_gateway.server import HttpProtocol
from asgi_gateway.testing import RawClient, read_body
from asgi_gateway.types import Receive, Scope, Send
from tests.server.apps import DISCONNECT, GET, Listener, given, is_last, post, respond
from tests.server.listening import listening

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

# The scope


async def test_the_scope(http: Any) -> None:
    app = Listener()
    raw = (
        b"GET /a%2Fb%20c?d=%20&d HTTP/1.1\r\nHost: h\r\nX-Twice: 1\r\nx-twice:  two\r\nX-Latin: \xe9\r\n\r\n"
    )
    async with listening(app, http, state={"pool": 1}) as server, RawClient(server.url) as client:
        await client.send(raw)
        assert (await client.answer()).status == 200
    (scope,) = app.scopes
    host, port = scope.pop("client")
    assert (host, port > 0) == ("127.0.0.1", True)
    assert scope.pop("server") == ("127.0.0.1", int(server.url.rpartition(":")[2]))
    extensions = scope.pop("extensions", {})
    assert callable(scope.pop(ON_DISCONNECT, None)) == (http is HttpProtocol)
    assert set(extensions) == ({"http.response.early_hint"} if http is HttpProtocol else set())
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a/b c",
        "raw_path": b"/a%2Fb%20c",
        "query_string": b"d=%20&d",
        "root_path": "",
        "headers": [(b"host", b"h"), (b"x-twice", b"1"), (b"x-twice", b"two"), (b"x-latin", b"\xe9")],
        "state": {"pool": 1},
    }


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nHost: h\r\n\r\n"])
async def test_the_version_is_the_clients(http: Any, raw: bytes) -> None:
    app = Listener()
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(raw)
        assert (await client.answer()).status == 200
    assert app.scopes[0]["http_version"] == "1.0"


async def test_a_root_path_is_in_front_of_both_paths(http: Any) -> None:
    app = Listener()
    async with listening(app, http, root_path="/app") as server, RawClient(server.url) as client:
        await client.send(b"GET /one%2Ftwo HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.answer()).status == 200
    (scope,) = app.scopes
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
        "/app",
        "/app/one/two",
        b"/app/one%2Ftwo",
    )


async def test_tls_is_seen_in_the_scheme(http: Any) -> None:
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    app = Listener()
    async with listening(app, http, tls=ours) as server:
        port = int(server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=theirs, server_hostname="localhost"
        )
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
    assert app.scopes[0]["scheme"] == "https"


async def test_every_request_has_a_state_of_its_own_with_what_the_lifespan_left(http: Any) -> None:
    shared: list[int] = []
    seen: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["state"]))
        scope["state"]["mine"] = len(seen)
        scope["state"]["shared"].append(len(seen))
        await respond(send)

    async with listening(app, http, state={"shared": shared}) as server, RawClient(server.url) as client:
        for _ in range(2):
            await client.send(GET)
            await client.answer()
    assert seen == [{"shared": shared}] * 2
    assert shared == [1, 2]


@pytest.mark.parametrize(("reset", "seen"), [(True, [None, None]), (False, ["outer", "outer"])])
async def test_the_context_of_a_request_is_the_servers_unless_it_is_reset(
    http: Any, reset: bool, seen: list[str | None]
) -> None:
    variable: contextvars.ContextVar[str | None] = contextvars.ContextVar("variable", default=None)
    found = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(variable.get())
        variable.set("inner")  # which no other request may see
        await respond(send)

    variable.set("outer")
    async with listening(app, http, reset_contextvars=reset) as server, RawClient(server.url) as client:
        for _ in range(2):
            await client.send(GET)
            await client.answer()
    assert found == seen


@pytest.mark.parametrize("upload", [b"", b"x" * 200_000], ids=["at once", "after reading was paused"])
async def test_no_request_sees_the_context_of_the_one_before(upload: bytes) -> None:
    variable: contextvars.ContextVar[str | None] = contextvars.ContextVar("variable", default=None)
    found = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(variable.get())
        variable.set("inner")
        await asyncio.sleep(0.01)
        await read_body(receive)
        await respond(send)

    variable.set("outer")
    async with listening(app) as server, RawClient(server.url) as client:
        client.write(post(upload) + post(upload) + GET)
        for _ in range(3):
            await client.answer()
        await client.send(GET)
        await client.answer()
    assert found == ["outer"] * 4


# The body


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (GET, b""),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", b""),
        (post(b"all of it"), b"all of it"),
        (
            CHUNKED + b"4\r\nall \r\n5;x=y\r\nof it\r\n0\r\n\r\n",
            b"all of it",
        ),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nall of it", b"all of it"),
    ],
    ids=["none", "empty", "length", "chunked", "GET"],
)
async def test_a_body_that_has_come_is_one_message_and_then_the_client_is_waited_for(
    http: Any, raw: bytes, data: bytes
) -> None:
    app = Listener(is_last)
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(raw)
        assert (await client.answer()).body == b"ok"
        await app.over()
    assert app.heard == [given(data), DISCONNECT]


async def test_a_body_comes_in_the_pieces_that_it_is_sent_in(http: Any) -> None:
    app = Listener(is_last)
    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\none")
        while not app.heard:
            await asyncio.sleep(0)
        assert app.heard[-1] == given(b"one", more=True)
        await client.send(b"two")
        assert (await client.answer()).status == 200
        await app.over()
    assert app.whole == b"onetwo"
    assert [message["type"] for message in app.heard][-2:] == ["http.request", "http.disconnect"]


async def test_no_more_is_read_than_the_app_takes(http: Any) -> None:
    size = 50 * 2**20
    taken = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await taken.wait()
        await respond(send, b"%d" % len(await read_body(receive)))

    async with listening(app, http) as server, RawClient(server.url) as client:
        client.write(post(b"x" * size))
        while not server.protocols or server.protocols[0].transport.is_reading():
            await asyncio.sleep(0)
        taken.set()
        assert (await client.answer()).body == b"%d" % size


# 100 Continue


async def test_continue_is_said_once_the_app_asks_for_the_body(http: Any) -> None:
    asked = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.wait()
        await respond(send, await read_body(receive))

    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.head(), 0.05)
        asked.set()
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hi")
        assert (await client.answer()).body == b"hi"


async def test_continue_is_not_said_where_the_answer_comes_first(http: Any) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status=403)

    async with listening(app, http) as server, RawClient(server.url) as client:
        await client.send(post(b"", b"Expect: 100-continue"))
        assert (await client.head()).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("expect", [b"X: y", b"Expect: 100-continue"])
@pytest.mark.parametrize(("kind", "kept"), [(HttpProtocol, False), (HttpToolsProtocol, True)])
async def test_an_answer_before_the_end_of_the_body_ends_the_connection_through_ours_alone(
    kind: Any, kept: bool, expect: bytes
) -> None:
    """Who was told 403 may send the body or not (RFC 9110 section 10.1.1); ours does not guess."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status=403)

    async with listening(app, kind) as server, RawClient(server.url) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\n%b\r\nContent-Length: 2\r\n\r\n" % expect)
        assert (await client.answer()).status == 403
        await client.send(b"hi" + b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        rest = await client.rest()
    assert rest.startswith(b"HTTP/1.1 403") is kept
    assert client.ended == "closed"
