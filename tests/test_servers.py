"""The gateway under every server that docs/servers.md names, started as it is written there."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from asgi_gateway.testing import Handler, Upstream, behaviours
from tests import servers

CONFIG = """\
version: 1
middleware: [request_id, tracing, client_address, access_log, gateway_headers, errors, health, rate_limit]
services:
  data:
    url: http://127.0.0.1:{port}
    routes: [{{path: /api/*, strip_prefix: /api}}]
    middleware: [circuit_breaker: {{failure_threshold: 1000}}, timeout, retry: {{attempts: 1}}]
"""
REQUEST = b"GET /api/x HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"


class Running(NamedTuple):
    """A server's port, and the port on which its gateway expects the service."""

    port: int
    service: int


@pytest.fixture(scope="module", params=servers.COMMANDS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    service = servers.free_port()
    config = tmp_path_factory.mktemp("server") / "gateway.yaml"
    config.write_text(CONFIG.format(port=service))
    with servers.running(request.param, config) as server:
        yield Running(server.port, service)


@asynccontextmanager
async def service(running: Running, handler: Handler) -> AsyncIterator[Upstream]:
    async with Upstream(handler, port=running.service) as upstream:
        yield upstream


@asynccontextmanager
async def client(running: Running, said: bytes) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(said)
    try:
        async with asyncio.timeout(10):
            yield reader
    finally:
        writer.transport.abort()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends, in whichever way."""
    received = b""
    try:
        while piece := await reader.read(65536):
            received += piece
    except ConnectionError:
        pass
    return received


async def test_bytes_and_repeated_headers_arrive_as_they_were_sent(running: Running) -> None:
    cookies = [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    target = b"/a%2Fb//c%20d?x=1&x=2&y="
    async with service(running, behaviours.answer(headers=cookies)) as upstream:
        async with client(running, REQUEST.replace(b"/x", target)) as reader:
            answer = await everything(reader)
        assert upstream.requests[0].target == target
    assert answer.startswith(b"HTTP/1.1 200")
    assert re.findall(rb"(?i)set-cookie: (.*?)\r\n", answer) == [b"a=1", b"b=2"]
    assert answer.endswith(b"\r\n\r\nok")


async def test_connection_takes_off_what_the_client_sent_and_nothing_else(running: Running) -> None:
    hop = b"Connection: close, X-Mine, X-Request-ID\r\nX-Mine: 1\r\nX-Kept: 1"
    async with service(running, behaviours.answer()) as upstream:
        async with client(running, REQUEST.replace(b"Connection: close", hop)) as reader:
            await everything(reader)
    sent = upstream.requests[0]
    assert (sent.header("x-mine"), sent.header("x-kept")) == (None, b"1")
    assert sent.header("x-request-id")


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/json"])
async def test_the_first_piece_comes_before_the_last_is_made(running: Running, kind: bytes) -> None:
    handler = behaviours.chunked(b"first", b"last", interval=30, headers=[(b"Content-Type", kind)])
    async with service(running, handler), client(running, REQUEST) as reader:
        assert (await reader.readuntil(b"first")).startswith(b"HTTP/1.1 200")


async def test_a_broken_answer_never_looks_whole(running: Running) -> None:
    async with service(running, behaviours.chunked_cut(b"part")), client(running, REQUEST) as reader:
        answer = await everything(reader)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"part" in answer
    assert b"\r\n0\r\n" not in answer


async def test_an_answer_that_is_too_short_never_looks_whole(running: Running) -> None:
    async with service(running, behaviours.too_short(b"part", length=1000)):
        async with client(running, REQUEST) as reader:
            answer = await everything(reader)
    assert b"content-length: 1000" in answer.lower()
    assert answer.endswith(b"part")


@pytest.mark.parametrize(
    ("handler", "begun"),
    [(behaviours.hang(), b""), (behaviours.chunked(*[b"piece"] * 600, interval=0.05), b"piece")],
    ids=["before", "inside"],
)
async def test_a_client_that_leaves_ends_the_request_at_the_service(
    running: Running, handler: Handler, begun: bytes
) -> None:
    async with service(running, handler) as upstream:
        async with client(running, REQUEST) as reader:
            await upstream.wait_for(lambda: upstream.requests)
            if begun:
                await reader.readuntil(begun)
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)


async def test_an_upload_streams_and_is_cut_where_the_client_cuts_it(running: Running) -> None:
    upload = b"POST /api/x HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\nbegun"
    async with service(running, behaviours.echo()) as upstream:
        async with client(running, upload):
            await upstream.wait_for(lambda: upstream.requests and upstream.requests[0].content == b"begun")
        await upstream.wait_for(lambda: upstream.requests[0].ended, seconds=1)
        assert upstream.requests[0].ended == "aborted"
