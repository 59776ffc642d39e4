"""Retries and hedges with real servers and sockets: what a service sees of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from asgi_gateway import Gateway
from asgi_gateway.proxy.client import WATCH_AFTER
from asgi_gateway.server import HttpProtocol
from asgi_gateway.testing import Connection, Handler, RawClient, Request, Upstream, behaviours, serve

SERVERS: list[dict[str, Any]] = [
    {"loop": "uvloop", "http": HttpProtocol},
    {"loop": "asyncio", "http": "h11"},
]
GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"


@pytest.fixture(params=SERVERS, ids=["ours", "h11"])
def server_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def gateway(middleware: list[Any], *upstreams: Upstream) -> Gateway:
    service = {
        "endpoints": [{"url": upstream.url} for upstream in upstreams],
        "balance": "round_robin",
        "routes": [{"path": "/*"}],
        "middleware": middleware,
    }
    return Gateway({"version": 1, "middleware": ["gateway_headers"], "services": {"data": service}})


async def test_a_dead_service_sees_a_fifth_more_requests_and_the_floor() -> None:
    """1 000 requests, no breaker: at most 1 200 attempts and what the floor allows, 3 a second."""
    retry = {"retry": {"attempts": 4, "backoff": {"initial": "1ms", "max": "5ms"}}}
    loop = asyncio.get_running_loop()
    async with Upstream(behaviours.answer(503)) as upstream, serve(gateway([retry], upstream)) as server:
        began = loop.time()
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=20)) as client:
            gate = asyncio.Semaphore(20)

            async def ask() -> int:
                async with gate:
                    return (await client.get(f"{server.url}/", timeout=30)).status_code

            statuses = await asyncio.gather(*(ask() for _ in range(1000)))
        took = loop.time() - began
        attempts = len(upstream.requests)
    assert set(statuses) == {503}
    windows = 1 + took // 10
    assert 1000 + 30 <= attempts <= 1000 + 200 + 30 * windows


async def test_a_hedge_goes_to_the_other_endpoint_and_closes_the_slow_connection(
    server_options: dict[str, Any],
) -> None:
    async with Upstream(behaviours.hang()) as slow, Upstream(behaviours.answer()) as quick:
        app = gateway([{"hedge": {"delay": "50ms"}}], slow, quick)
        async with serve(app, **server_options) as server, httpx.AsyncClient() as client:
            for _ in range(10):
                answer = await client.get(f"{server.url}/", timeout=10)
                assert (answer.status_code, answer.text) == (200, "ok")
            await slow.wait_for(lambda: slow.connections.open == 0, 1)
    assert slow.requests
    assert len(quick.requests) == 10


async def test_an_answer_that_a_hedge_won_streams(server_options: dict[str, Any]) -> None:
    async with (
        Upstream(behaviours.hang()) as slow,
        Upstream(behaviours.chunked(b"a" * 100_000, b"b" * 100_000, interval=0.05)) as quick,
    ):
        app = gateway([{"hedge": {"delay": "50ms"}}], slow, quick)
        async with serve(app, **server_options) as server, httpx.AsyncClient() as client:
            for _ in range(2):
                answer = await client.get(f"{server.url}/", timeout=10)
                assert answer.content == b"a" * 100_000 + b"b" * 100_000
    assert slow.requests


class Cued:
    """A handler that waits for its cue before it does what another one does."""

    def __init__(self, then: Handler) -> None:
        self.then = then
        self.cue = asyncio.Event()

    async def __call__(self, request: Request, connection: Connection) -> None:
        await request.body()
        await self.cue.wait()
        await self.then(request, connection)


@contextlib.asynccontextmanager
async def hedged(
    one: Handler, other: Handler, options: dict[str, Any]
) -> AsyncIterator[tuple[RawClient, Upstream, Upstream]]:
    """A client whose request is under way at both endpoints; it leaves at the end.

    Both attempts have run for long enough by then to watch for that.
    """
    async with Upstream(one) as first, Upstream(other) as second:
        app = gateway([{"hedge": {"delay": "50ms"}}], first, second)
        async with serve(app, **options) as server:
            async with RawClient(server.url) as client:
                client.write(GET)
                await first.wait_for(lambda: first.requests)
                await second.wait_for(lambda: second.requests)
                await asyncio.sleep(2 * WATCH_AFTER)
                yield client, first, second
            await first.wait_for(lambda: first.connections.open == 0, 1)
            await second.wait_for(lambda: second.connections.open == 0, 1)


async def test_a_client_who_leaves_ends_both_attempts_within_a_second(server_options: dict[str, Any]) -> None:
    async with hedged(behaviours.hang(), behaviours.hang(), server_options):
        pass


@pytest.mark.parametrize("winner", [0, 1])
async def test_a_client_who_leaves_the_stream_of_a_winner_ends_it_within_a_second(
    winner: int, server_options: dict[str, Any]
) -> None:
    stream = Cued(behaviours.hang_inside_body(b"first"))
    both: list[Handler] = [behaviours.hang(), behaviours.hang()]
    both[winner] = stream
    async with hedged(*both, server_options) as (client, *upstreams):
        stream.cue.set()
        await client.until(b"first")
        loser = upstreams[1 - winner]
        await loser.wait_for(lambda: loser.connections.open == 0, 1)


@pytest.mark.parametrize("loser", [0, 1])
async def test_a_client_who_leaves_after_one_attempt_failed_ends_the_other_within_a_second(
    loser: int, server_options: dict[str, Any]
) -> None:
    failing = Cued(behaviours.answer(503, [(b"Connection", b"close")]))
    both: list[Handler] = [behaviours.hang(), behaviours.hang()]
    both[loser] = failing
    async with hedged(*both, server_options) as (_, *upstreams):
        failing.cue.set()
        failed = upstreams[loser]
        await failed.wait_for(lambda: failed.connections.open == 0, 1)


async def test_an_upload_is_the_same_in_both_attempts(server_options: dict[str, Any]) -> None:
    body = bytes(range(256)) * 1000
    async with Upstream(behaviours.hang()) as slow, Upstream(behaviours.echo()) as quick:
        app = gateway([{"hedge": {"delay": "300ms"}}], slow, quick)
        async with serve(app, **server_options) as server, httpx.AsyncClient() as client:
            for _ in range(2):
                answer = await client.put(f"{server.url}/", content=body, timeout=10)
                assert answer.content == body
    assert {request.content for request in slow.requests} == {body}


async def test_an_attempt_that_has_had_its_time_is_made_at_the_other_endpoint() -> None:
    retry = {"retry": {"attempts": 2, "per_attempt_timeout": "100ms", "backoff": {"initial": 0}}}
    async with Upstream(behaviours.hang()) as slow, Upstream(behaviours.answer()) as quick:
        async with serve(gateway([retry], slow, quick)) as server, httpx.AsyncClient() as client:
            answers = [await client.get(f"{server.url}/", timeout=10) for _ in range(4)]
            await slow.wait_for(lambda: slow.connections.open == 0, 1)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert slow.requests
    assert len(quick.requests) == 4
