"""Whatever reaches a service means one thing: two other parsers read the bytes as the same requests.

Requests are taken apart and put together again at random, sent to our protocol class with a gateway
behind it, and what the gateway says to a service is kept byte for byte (RFC 9112 section 11.2).
"""

import asyncio
from collections.abc import Iterator
from typing import Any, TypeAlias

import h11
import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_gateway import Gateway
from asgi_gateway.testing import RawClient
from asgi_gateway.types import Headers, Receive, Scope, Send
from tests.server.listening import listening

Read: TypeAlias = list[tuple[bytes, bytes, Headers, bytes]]

SEEDS = [
    b"GET /a?b HTTP/1.1\r\nHost: h\r\nCookie: a=1; b=2\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"PUT http://h/ HTTP/1.1\r\nHost: h\r\nConnection: X, close\r\nX: 1\r\nExpect: 100-continue\r\n\r\n",
    b"OPTIONS / HTTP/1.0\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n",
]
PARTS = [
    *(bytes([code]) for code in b'\0\t\n\x0b\r !"#%,:;\x7f\x80\xff'),
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: i\r\n",
    b"Connection: content-length\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"0\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """One or two requests, changed in up to four places."""
    raw = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.sampled_from([0, 0, 1, 1, 2, 9])))
        raw = raw[:start] + draw(st.sampled_from([b"", raw[start:end] * 2, *PARTS])) + raw[end:]
    return raw


class Service(asyncio.Protocol):
    """Keeps what it is told and answers every request that h11 reads."""

    said: list[bytes]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = h11.Connection(h11.SERVER)
        self.number = len(self.said)
        self.said.append(b"")

    def data_received(self, data: bytes) -> None:
        self.said[self.number] += data
        for _ in read_events(self.parser, data):
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def read_events(parser: h11.Connection, data: bytes) -> Iterator[tuple[h11.Request, bytes]]:
    """Every request that is complete with these bytes."""
    parser.receive_data(data)
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            parser.request, parser.body = event, b""  # type: ignore[attr-defined]
        elif isinstance(event, h11.Data):
            parser.body += event.data  # type: ignore[attr-defined]
        elif isinstance(event, h11.EndOfMessage):
            yield parser.request, parser.body  # type: ignore[attr-defined]
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            if parser.our_state is not h11.DONE:
                return
            parser.start_next_cycle()
        else:
            return


def read_by_h11(raw: bytes) -> Read:
    parser = h11.Connection(h11.SERVER)
    return [
        (bytes(request.method), bytes(request.target), list(request.headers), body)
        for request, body in read_events(parser, raw)
    ]


class Llhttp:
    """What llhttp reads."""

    def __init__(self) -> None:
        self.complete: Read = []
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.target, self.headers, self.body = b"", [], b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete.append((self.parser.get_method(), self.target, self.headers, self.body))


def read_by_llhttp(raw: bytes) -> Read:
    reader = Llhttp()
    reader.parser.feed_data(raw)
    return reader.complete


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


async def exchanged(raw: bytes, cut: int) -> tuple[Read, list[bytes]]:
    """What the gateway was asked, in two pieces, as its app saw it, and what it said to the service."""
    asked: Read = []
    waiting: set[int] = set()
    Service.said = []
    service = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{service.sockets[0].getsockname()[1]}"
    gateway = Gateway({"version": 1, "services": {"s": {"url": url, "routes": [{"path": "/*"}]}}})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = scope["method"].encode(), scope["raw_path"], scope["headers"], b""
        asked.append(request)
        number = len(asked) - 1

        async def keeping() -> Any:
            waiting.add(number)
            message = await receive()
            waiting.discard(number)
            asked[number] = (*request[:3], asked[number][3] + message.get("body", b""))
            return message

        await gateway(scope, keeping, send)

    async with listening(app, ws="none") as server, RawClient(server.url):
        protocol = await server.newest()
        protocol.data_received(raw[:cut])
        for _ in range(5):  # until the gateway has begun to pass it on
            await asyncio.sleep(0)
        protocol.data_received(raw[cut:])
        await asyncio.sleep(0)
        while server.server_state.tasks and not waiting:  # nothing more will come
            await asyncio.sleep(0)
    for proxy in gateway._live.proxies:
        await proxy.aclose()
    service.close()
    await service.wait_closed()
    return asked, Service.said


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=mutated(), cut=st.integers(0, 200))
def test_what_a_service_is_told_is_read_by_others_as_what_was_asked(
    loop: asyncio.AbstractEventLoop, raw: bytes, cut: int
) -> None:
    asked, said = loop.run_until_complete(exchanged(raw, min(cut, len(raw))))
    told = [request for connection in said for request in read_by_h11(connection)]
    assert [request for connection in said for request in read_by_llhttp(connection)] == told
    assert len(told) <= len(asked)
    left = [(method, path.partition(b"?")[0], body) for method, path, _, body in asked]
    for method, target, _, body in told:
        left.remove((method, target.partition(b"?")[0], body))  # each was asked for, and once


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seeds_reach_a_service(loop: asyncio.AbstractEventLoop, seed: bytes) -> None:
    """Or the test above would show nothing."""
    asked, said = loop.run_until_complete(exchanged(seed, cut=len(seed)))
    assert len(asked) == 1
    assert len(read_by_h11(said[0])) == 1
