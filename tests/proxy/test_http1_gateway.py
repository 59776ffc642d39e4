"""The transport inside a gateway that runs for real: memory, uploads that are refused, hints, trailers."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h2.events
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from asgi_gateway import Gateway
from asgi_gateway.testing import (
    Conversation,
    Process,
    RawClient,
    Upstream,
    behaviours,
    http_scope,
    refused_url,
    request,
    run_process,
    serve,
)
from asgi_gateway.types import ASGIApp
from tests.proxy.test_http2 import serving

ROOT = str(Path(__file__).parents[2])
MIB = 1024 * 1024


@asynccontextmanager
async def gateway_process(url: str, folder: Path) -> AsyncIterator[Process]:
    file = folder / "gateway.yaml"
    file.write_text(
        f"version: 1\nlisten: {{port: 0}}\nservices: {{s: {{url: '{url}', routes: [{{path: /*}}]}}}}\n"
    )
    async with run_process(["run", str(file)], env={**os.environ, "PYTHONPATH": ROOT}) as process:
        yield process


def resident(process: Process) -> int:
    """Bytes of memory that a process holds."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


async def stands_still(count: list[int]) -> None:
    """Return once a count has not changed for a while."""
    seen = -1
    while seen != count[0]:
        seen = count[0]
        await asyncio.sleep(0.3)


async def warmed(process: Process) -> None:
    """A few requests, so that what is loaded once is loaded."""
    for _ in range(20):
        async with RawClient(process.url) as client:
            await client.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
            )
            await client.rest()


async def test_a_client_that_never_reads_costs_no_memory(tmp_path: Path) -> None:
    sent = [0]

    async def flood(request, connection) -> None:
        if request.method == "POST":
            await connection.respond()
            return
        await connection.send_head(200, [(b"Content-Length", b"%d" % (200 * MIB))])
        for _ in range(200 * 16):
            await connection.write(b"x" * 65536)
            sent[0] += 65536

    async with Upstream(flood) as upstream, gateway_process(upstream.url, tmp_path) as process:
        await warmed(process)
        before = resident(process)
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port, limit=65536)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await stands_still(sent)
        assert 0 < sent[0] < 50 * MIB
        assert resident(process) - before < 8 * MIB
        received = 0
        while received < 200 * MIB:
            received += len(await reader.read(MIB))
        assert resident(process) - before < 8 * MIB
        writer.close()


async def test_a_service_that_never_reads_costs_no_memory(tmp_path: Path) -> None:
    given = [0]

    async def handler(request, connection) -> None:
        if request.header("content-length") != b"1":
            connection.pause_reading()
            await connection.lost.wait()
        else:
            await connection.respond()

    async def upload(writer: asyncio.StreamWriter) -> None:
        for _ in range(200 * 16):
            writer.write(b"x" * 65536)
            await writer.drain()
            given[0] += 65536

    async with Upstream(handler) as upstream, gateway_process(upstream.url, tmp_path) as process:
        await warmed(process)
        before = resident(process)
        _, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (200 * MIB))
        uploading = asyncio.create_task(upload(writer))
        await stands_still(given)
        assert 0 < given[0] < 50 * MIB
        assert resident(process) - before < 8 * MIB
        uploading.cancel()
        await asyncio.wait([uploading])
        writer.transport.abort()
        await upstream.wait_for(lambda: upstream.connections.total > 0)


def gateway(url: str, **service: object) -> Gateway:
    return Gateway({"version": 1, "services": {"s": {"url": url, "routes": [{"path": "/*"}], **service}}})


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_an_upload_that_is_refused_is_stopped_and_leaves_clean_connections(http: str) -> None:
    """The client asked with Expect: 100-continue; the server in front answers that, the service 413."""
    async with (
        Upstream.script(
            behaviours.early_answer(413, b"too much"), behaviours.answer(body=b"mine")
        ) as upstream,
        serve(gateway(upstream.url), http=http) as server,
        RawClient(server.url) as client,
        RawClient(server.url) as other,
    ):
        client.write(
            b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.write(b"x" * 65536)
        answer = await client.until(b"too much")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert upstream.requests[0].header("expect") is None
        await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted")
        assert len(upstream.requests[0].content) < 10_000_000
        # What is left of the upload is never read as a request, whatever it looks like.
        client.write(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        other.write(b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await other.rest()).endswith(b"mine")
    assert [sent.target for sent in upstream.requests] == [b"/up", b"/next"]
    assert upstream.malformed == []


EXTENSIONS = {"http.response.early_hint": {}, "http.response.trailers": {}}
TRAILED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nLink: <b>\r\nX-Other: 1\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nX-Other: 1\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"2\r\nab\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nX-Gateway-Error: x\r\nAuthorization: c\r\n\r\n"
)


async def exchanged(app: ASGIApp, **scope: object) -> list[dict]:
    async with Conversation(app, http_scope(**scope)) as talk:
        talk.body()
        return [dict(message) for message in (await talk.finish()).messages]


async def test_hints_and_trailers_are_passed_on_where_the_server_can() -> None:
    async with Upstream(behaviours.raw(TRAILED, close=False)) as upstream:
        app = gateway(upstream.url)
        messages = await exchanged(app, headers=[(b"te", b"gzip, trailers")], extensions=EXTENSIONS)
        await app._live.proxies[0].aclose()
    kinds = [message["type"].removeprefix("http.response.") for message in messages]
    assert kinds[:2] == ["early_hint", "start"]
    assert kinds[-1] == "trailers"
    assert messages[0]["links"] == [b"<a>", b"<b>"]
    assert messages[1]["trailers"] is True
    assert messages[1]["headers"] == []
    assert messages[-1] == {
        "type": "http.response.trailers",
        "headers": [(b"x-sum", b"1")],
        "more_trailers": False,
    }
    assert upstream.requests[0].all("te") == [b"trailers"]


@pytest.mark.parametrize(
    "scope",
    [{}, {"extensions": EXTENSIONS}, {"headers": [(b"te", b"trailers")]}, {"extensions": {"tls": {}}}],
)
async def test_trailers_are_dropped_where_server_or_client_cannot_take_them(scope: dict) -> None:
    async with Upstream(behaviours.raw(TRAILED, close=False)) as upstream:
        app = gateway(upstream.url)
        messages = await exchanged(app, **scope)
        await app._live.proxies[0].aclose()
    final = [message for message in messages if message["type"] != "http.response.early_hint"]
    assert len(messages) - len(final) == ("http.response.early_hint" in scope.get("extensions", {}))
    assert {message["type"] for message in final} == {"http.response.start", "http.response.body"}
    assert final[0]["headers"] == []
    assert "trailers" not in final[0]
    assert upstream.requests[0].all("te") == []


async def test_answers_that_announce_no_trailers_have_none() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        app = gateway(upstream.url)
        messages = await exchanged(app, headers=[(b"te", b"trailers")], extensions=EXTENSIONS)
        await app._live.proxies[0].aclose()
    assert "trailers" not in messages[0]
    assert messages[-1]["type"] == "http.response.body"


async def test_connections_are_warm_once_the_gateway_has_started() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        async with serve(gateway(upstream.url, connections={"warm": 3}), lifespan="on"):
            await upstream.wait_for(lambda: upstream.connections.open == 3)
        await upstream.wait_for(lambda: upstream.connections.open == 0)


async def test_a_service_that_is_down_does_not_stop_the_start() -> None:
    with refused_url() as url:
        async with serve(gateway(url, connections={"warm": 3}), lifespan="on"):
            assert (await request(gateway(url))).status == 502


@pytest.mark.parametrize("trailers", [[], [(b"x-sum", b"1")]])
async def test_hints_and_trailers_arrive_at_a_client_of_a_server_that_can(trailers: list) -> None:
    """hypercorn in front, HTTP/2 to the client, HTTP/1.1 to the service."""
    plain = TRAILED[: TRAILED.index(b"X-Sum: 1")].replace(b"Trailer: X-Sum\r\n", b"") + b"\r\n"
    raw = TRAILED if trailers else plain
    events: dict[type, h2.events.Event] = {}
    body = b""
    async with Upstream(behaviours.raw(raw, close=False)) as upstream:
        app = gateway(upstream.url)
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            client = H2Connection(H2Configuration(header_encoding=None))
            client.initiate_connection()
            head = {b":method": b"GET", b":authority": b"a", b":scheme": b"http", b":path": b"/"}
            client.send_headers(1, [*head.items(), (b"te", b"trailers")], end_stream=True)
            while h2.events.StreamEnded not in events:
                writer.write(client.data_to_send())
                data = await asyncio.wait_for(reader.read(65536), 5)
                for event in client.receive_data(data):
                    events[type(event)] = event
                    body += event.data if isinstance(event, h2.events.DataReceived) else b""
            writer.close()
        await app._live.proxies[0].aclose()
    hint = events[h2.events.InformationalResponseReceived]
    assert [value for name, value in hint.headers if name == b"link"] == [b"<a>", b"<b>"]
    assert body == b"ab"
    received = events.get(h2.events.TrailersReceived)
    assert (received.headers if received else []) == trailers
