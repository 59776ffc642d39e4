"""The whole: a real uvicorn, real sockets, a service that misbehaves, with the full chain on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from asgi_gateway import Gateway
from asgi_gateway.server import HttpProtocol
from asgi_gateway.testing import Handler, RawClient, Server, Upstream, behaviours, serve

CHAIN: list[Any] = [
    "request_id",
    "tracing",
    "client_address",
    "access_log",
    "gateway_headers",
    "errors",
    "health",
    {"rate_limit": {"limit": "100000/minute", "exempt": ["/health/*"]}},
]
SERVICE_CHAIN: list[Any] = [
    {"rate_limit": {"limit": "100000/minute"}},
    {"circuit_breaker": {"failure_threshold": 1000}},
    {"timeout": {"total": "30s"}},
    {"retry": {"attempts": 2, "backoff": {"initial": "10ms"}}},
]
SERVERS: list[dict[str, Any]] = [
    {"loop": "uvloop", "http": HttpProtocol},
    {"loop": "uvloop", "http": "httptools"},
    {"loop": "asyncio", "http": "h11"},
]


@pytest.fixture(params=SERVERS, ids=["ours", "httptools", "h11"])
def server_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@asynccontextmanager
async def running(upstream: Upstream, options: dict[str, Any], **service: Any) -> AsyncIterator[Server]:
    settings = {
        "version": 1,
        "middleware": CHAIN,
        "services": {
            "data": {
                "url": upstream.url,
                "routes": [{"path": "/api/data/*", "strip_prefix": "/api/data"}],
                "middleware": SERVICE_CHAIN,
                **service,
            }
        },
    }
    async with serve(Gateway(settings), **options) as server:
        yield server


GET = b"GET /api/data/x HTTP/1.1\r\nHost: gateway\r\n\r\n"
CLOSING_GET = b"GET /api/data/x HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"


async def test_events_arrive_one_by_one_through_the_whole_chain(server_options: dict[str, Any]) -> None:
    turn = asyncio.Semaphore(0)

    async def events(_, connection) -> None:
        await connection.send_head(
            200, [(b"Content-Type", b"text/event-stream"), (b"Transfer-Encoding", b"chunked")]
        )
        for number in range(5):
            await connection.send_chunk(b"data: %d\n\n" % number)
            await turn.acquire()
        await connection.send_chunk(b"")

    async with Upstream(events) as upstream, running(upstream, server_options) as server:
        async with (
            httpx.AsyncClient() as client,
            client.stream("GET", f"{server.url}/api/data/x") as response,
        ):
            seen = []
            async for event in response.aiter_raw():
                seen.append(event)
                turn.release()
    assert seen == [b"data: %d\n\n" % number for number in range(5)]


@pytest.mark.parametrize(
    "behaviour",
    [
        behaviours.too_short(b"part", length=1000),
        behaviours.chunked_cut(b"part"),
        behaviours.reset_inside_body(b"part"),
        behaviours.reset_inside_body(b"part", length=1000),
    ],
)
async def test_a_broken_answer_never_looks_whole(server_options: dict[str, Any], behaviour: Handler) -> None:
    async with Upstream(behaviour) as upstream, running(upstream, server_options) as server:
        async with RawClient(server.url) as client:
            client.write(GET)
            received = await client.rest()
        with pytest.raises(httpx.RemoteProtocolError):
            async with httpx.AsyncClient() as proper:
                await proper.get(f"{server.url}/api/data/x")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"part" in body
    assert not body.endswith(b"0\r\n\r\n")


async def test_a_client_who_leaves_ends_the_upstream_request_within_a_second(
    server_options: dict[str, Any],
) -> None:
    async with Upstream(behaviours.hang()) as upstream, running(upstream, server_options) as server:
        async with RawClient(server.url) as client:
            client.write(GET)
            await upstream.wait_for(lambda: upstream.requests)
        await upstream.wait_for(lambda: upstream.connections.open == 0, 1)


@pytest.mark.parametrize(
    "upload",
    [
        b"POST /api/data/x HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n\r\npart",
        b"POST /api/data/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    ],
)
async def test_a_cut_upload_is_aborted_upstream(server_options: dict[str, Any], upload: bytes) -> None:
    async with Upstream(behaviours.answer()) as upstream, running(upstream, server_options) as server:
        async with RawClient(server.url) as client:
            client.write(upload)
            await upstream.wait_for(lambda: upstream.requests and upstream.requests[0].content == b"part")
        await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted", 1)


async def test_a_bad_chunk_aborts_the_upload_upstream(server_options: dict[str, Any]) -> None:
    upload = b"POST /api/data/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"
    async with Upstream(behaviours.answer()) as upstream, running(upstream, server_options) as server:
        async with RawClient(server.url) as client:
            client.write(upload)
            await upstream.wait_for(lambda: upstream.requests and upstream.requests[0].content == b"part")
            client.write(b"zz\r\nnot a chunk")
            await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted", 2)


async def test_a_thousand_aborts_leave_nothing_busy(server_options: dict[str, Any]) -> None:
    script = [behaviours.hang()] * 1000 + [behaviours.answer(body=b"still here")]
    async with (
        Upstream.script(*script) as upstream,
        running(upstream, server_options, connections={"max": 60}) as server,
    ):
        for round_number in range(1, 21):
            async with AsyncExitStack() as stack:
                for _ in range(50):
                    client = await stack.enter_async_context(RawClient(server.url))
                    client.write(GET)
                await upstream.wait_for(lambda asked=50 * round_number: len(upstream.requests) == asked, 10)
            await upstream.wait_for(lambda: upstream.connections.open == 0, 10)
        async with RawClient(server.url) as client:
            client.write(CLOSING_GET)
            assert (await client.rest()).endswith(b"still here")


async def test_one_id_is_in_the_answer_upstream_and_every_log_line(
    server_options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asgi_gateway")
    headers = {"X-Request-ID": "my-id.1", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    async with Upstream(behaviours.answer()) as upstream, running(upstream, server_options) as server:
        async with httpx.AsyncClient() as client:
            response = await client.get(f"{server.url}/api/data/x?secret=1", headers=headers)
    assert response.headers["x-request-id"] == "my-id.1"
    assert upstream.requests[0].all("x-request-id") == [b"my-id.1"]
    parent = upstream.requests[0].header("traceparent")
    assert parent.startswith(b"00-" + b"a" * 32)
    assert b"b" * 16 not in parent
    record = next(record for record in caplog.records if record.name == "asgi_gateway.access")
    assert record.request_id == "my-id.1"  # type: ignore[attr-defined]
    assert "secret" not in caplog.text


async def test_retries_share_the_request_id_and_each_has_a_span_of_its_own(
    server_options: dict[str, Any],
) -> None:
    script = [behaviours.answer(503), behaviours.answer()]
    async with Upstream.script(*script) as upstream, running(upstream, server_options) as server:
        async with httpx.AsyncClient() as client:
            response = await client.get(f"{server.url}/api/data/x")
    first, second = upstream.requests
    assert (response.status_code, response.headers["x-gateway-attempts"]) == (200, "2")
    assert first.header("x-request-id") == second.header("x-request-id")
    assert first.header("traceparent")[:35] == second.header("traceparent")[:35]
    assert first.header("traceparent") != second.header("traceparent")


async def test_refusals_are_problems_with_every_gateway_header(server_options: dict[str, Any]) -> None:
    async with Upstream(behaviours.reset_before_headers()) as upstream:
        async with running(upstream, server_options) as server, httpx.AsyncClient() as client:
            failed = await client.post(f"{server.url}/api/data/x", content=b"x")
            unrouted = await client.get(f"{server.url}/nowhere")
            unrouted_head = await client.head(f"{server.url}/nowhere")
    problem = json.loads(failed.content)
    assert failed.status_code == problem["status"] == 502
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.headers["x-gateway-error"] == problem["code"] == "upstream_reset"
    assert failed.headers["x-request-id"] == problem["request_id"]
    assert failed.headers["x-gateway-service"] == problem["service"] == "data"
    assert float(failed.headers["x-gateway-response-time"]) >= 0
    assert (unrouted.status_code, unrouted.headers["x-gateway-error"]) == (404, "route_not_found")
    assert unrouted.headers["x-request-id"]
    assert (unrouted_head.status_code, unrouted_head.content) == (404, b"")


async def test_upstream_copies_of_gateway_headers_never_win(server_options: dict[str, Any]) -> None:
    spoofed = [
        (b"X-Request-ID", b"theirs"),
        (b"X-Gateway-Service", b"theirs"),
        (b"X-Gateway-Response-Time", b"theirs"),
        (b"X-Gateway-Attempts", b"theirs"),
        (b"X-Gateway-Error", b"theirs"),
        (b"RateLimit-Limit", b"theirs"),
    ]
    async with Upstream(behaviours.answer(headers=spoofed)) as upstream:
        async with running(upstream, server_options) as server, httpx.AsyncClient() as client:
            response = await client.get(f"{server.url}/api/data/x")
    assert "theirs" not in str(response.headers)


async def test_path_and_query_arrive_byte_for_byte(server_options: dict[str, Any]) -> None:
    target = b"/a%2Fb//c%20d/%7E;v=1?b=2&a=1&a=%20&c"
    async with Upstream(behaviours.answer()) as upstream, running(upstream, server_options) as server:
        async with RawClient(server.url) as client:
            client.write(b"GET /api/data" + target + b" HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
            await client.rest()
    assert [request.target for request in upstream.requests] == [target]
