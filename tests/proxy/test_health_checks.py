"""Active checks: through real sockets for what is sent, by hand-moved time for what follows."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_gateway import Gateway
from asgi_gateway.errors import Failure
from asgi_gateway.events import EndpointHealthy, EndpointUnhealthy, Event
from asgi_gateway.policies.health_check import HealthCheck
from asgi_gateway.proxy.health_checks import LONGEST_ANSWER, HealthChecks
from asgi_gateway.proxy.transport import UpstreamError, UpstreamRequest
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import ManualClock, Upstream, behaviours, request
from asgi_gateway.testing.clock import settle

CHECK = HealthCheck(path="/up", interval=10, jitter=0, timeout=2, healthy_threshold=2, unhealthy_threshold=3)


class Response:
    def __init__(self, status: int, pieces: int = 1) -> None:
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces = pieces
        self.closed = False

    async def read(self) -> tuple[bytes, bool]:
        self.pieces -= 1
        return bytes(4096), self.pieces > 0

    async def aclose(self) -> None:
        self.closed = True


class Answers:
    """A transport that gives each answer in turn, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[UpstreamRequest] = []

    async def exchange(self, request: UpstreamRequest) -> Any:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer == "hang":
            await asyncio.get_running_loop().create_future()
        return Response(answer) if isinstance(answer, int) else answer

    async def warm(self) -> None:
        """Nothing to open."""

    async def aclose(self) -> None:
        """Nothing to close."""


@asynccontextmanager
async def checking(
    *answers: Any, settings: HealthCheck = CHECK
) -> AsyncIterator[tuple[ManualClock, list[bool], Answers]]:
    clock, transport, changes = ManualClock(), Answers(*answers), []
    checks = HealthChecks(
        settings, transport, host=b"service:80", target=b"/up", clock=clock, random=random.Random(1).random
    )

    async def follow() -> None:
        async for change in checks.changes():
            changes.append(change)

    task = asyncio.ensure_future(follow())
    try:
        yield clock, changes, transport
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_three_bad_checks_take_an_endpoint_out_and_two_good_ones_bring_it_back() -> None:
    async with checking(200, 500, 500, 500, 200) as (clock, changes, _):
        await clock.advance(29.9)
        assert changes == []
        await clock.advance(0.2)
        assert changes == [False]
        await clock.advance(20)
        assert changes == [False, True]


REFUSED = UpstreamError(Failure("connect", "upstream"), "refused")


@pytest.mark.parametrize("bad", [404, 301, REFUSED, OSError("no"), ZeroDivisionError()], ids=repr)
async def test_a_check_that_did_not_go_well(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with checking(bad) as (clock, changes, transport):
        await clock.advance(20)
        assert changes == [False]
        assert len(transport.requests) == 3
    logged = [record.getMessage() for record in caplog.records]
    if bad is REFUSED:
        assert logged == ["service:80: refused"]  # once for all three
    else:
        assert len(logged) == (3 if isinstance(bad, ZeroDivisionError) else 0)


async def test_a_check_has_its_own_time_limit() -> None:
    async with checking("hang") as (clock, changes, transport):
        await clock.advance(1.9)
        assert len(transport.requests) == 1
        await clock.advance(2 * (10 + 2) + 0.2)
        assert changes == [False]


async def test_the_statuses_wanted_may_be_others() -> None:
    settings = HealthCheck(path="/up", expected_statuses=frozenset({401}), unhealthy_threshold=1, jitter=0)
    async with checking(401, 200, settings=settings) as (clock, changes, _):
        await clock.advance(9)
        assert changes == []
        await clock.advance(2)
        assert changes == [False]


async def test_intervals_are_jittered() -> None:
    settings = HealthCheck(path="/up", interval=10, jitter=0.5)
    async with checking(200, settings=settings) as (clock, _, __):
        seen = []
        for _ in range(50):
            await settle()
            [wait] = clock.pending
            seen.append(wait)
            await clock.advance(wait)
    assert 0 <= seen[0] <= 5
    assert 5 <= min(seen[1:]) < 7
    assert 13 < max(seen[1:]) <= 15


async def test_a_long_answer_is_not_read_to_its_end() -> None:
    response = Response(200, pieces=1000)
    async with checking(response) as (clock, _, __):
        await clock.advance(1)
    assert 1000 - response.pieces == LONGEST_ANSWER // 4096
    assert response.closed


def settings(*urls: str, **service: Any) -> dict[str, Any]:
    check = {
        "path": "/up?full=1",
        "interval": "10s",
        "jitter": 0,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
    }
    return {
        "version": 1,
        "middleware": ["health"],
        "services": {
            "data": {
                "endpoints": [{"url": url} for url in urls],
                "health_check": check,
                "routes": [{"path": "/api/*"}],
                **service,
            }
        },
    }


class Switched:
    """A service whose health can be switched, apart from what it answers to others."""

    def __init__(self) -> None:
        self.status = 200

    async def __call__(self, received: Any, connection: Any) -> None:
        await received.body()
        checked = received.target.startswith(b"/base/up")
        await connection.respond(self.status if checked else 200, [], b"ok")


def checks_of(upstream: Upstream) -> int:
    return sum(
        1 for received in upstream.requests if received.header("user-agent") == b"asgi-gateway-health-check"
    )


async def lifespan(gateway: Gateway) -> tuple[asyncio.Queue[Any], asyncio.Task[None]]:
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()

    async def run() -> None:
        await gateway({"type": "lifespan", "state": {}}, incoming.get, outgoing.put)

    task = asyncio.ensure_future(run())
    incoming.put_nowait({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    return incoming, task


async def test_checks_take_an_endpoint_out_and_bring_it_back() -> None:
    clock, events, handler = ManualClock(), list[Event](), Switched()
    async with Upstream(handler) as one, Upstream(behaviours.answer()) as other:
        gateway = Gateway(
            settings(f"{one.url}/base/", f"{other.url}/base/"),
            runtime=Runtime(clock=clock, emit=events.append),
        )
        incoming, task = await lifespan(gateway)
        await one.wait_for(lambda: checks_of(one) == 1)
        check = one.requests[0]
        assert (check.method, check.target) == ("GET", b"/base/up?full=1")
        assert check.header("host") == f"127.0.0.1:{one.port}".encode()
        await other.wait_for(lambda: checks_of(other) == 1)

        handler.status = 503
        await until(lambda: not any(1 < wait <= 2 for wait in clock.pending))
        await clock.advance(10)
        await until(lambda: events)
        assert events == [EndpointUnhealthy("data", f"127.0.0.1:{one.port}")]
        for _ in range(20):
            assert (await request(gateway, path="/api/x")).status == 200
        assert len(one.requests) == checks_of(one)
        report = (await request(gateway, path="/health")).body
        assert (
            b'"endpoints": [{"number": 1, "state": "unhealthy"}, {"number": 2, "state": "usable"}]' in report
        )
        assert b'"status": "degraded"' in report
        assert b"127.0.0.1" not in report

        handler.status = 200
        await until(lambda: not any(1 < wait <= 2 for wait in clock.pending))
        await clock.advance(10)
        await until(lambda: len(events) == 2)
        assert events[1:] == [EndpointHealthy("data", f"127.0.0.1:{one.port}")]
        for _ in range(20):
            await request(gateway, path="/api/x")
        assert len(one.requests) > checks_of(one)

        incoming.put_nowait({"type": "lifespan.shutdown"})
        await task
        checked = checks_of(one)
        await clock.advance(100)
        assert checks_of(one) == checked


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_without_a_lifespan_checks_begin_with_the_first_request() -> None:
    clock = ManualClock()
    async with Upstream(behaviours.answer()) as only:
        gateway = Gateway(settings(only.url), runtime=Runtime(clock=clock))
        await settle()
        assert checks_of(only) == 0
        await request(gateway, path="/api/x")
        await only.wait_for(lambda: checks_of(only) == 1)
        for proxy in gateway._live.proxies:
            await proxy.aclose()


async def test_a_required_service_with_no_usable_endpoint_makes_the_gateway_unready() -> None:
    """Its requests are tried all the same: panic is for clients, readiness for who chooses among gateways."""
    clock, events = ManualClock(), list[Event]()

    async def sick(received: Any, connection: Any) -> None:
        await received.body()
        await connection.respond(503 if received.target.startswith(b"/up") else 200, [], b"ok")

    async with Upstream(sick) as only:
        url = {"url": only.url, "endpoints": None, "required": True}
        gateway = Gateway(settings(**url), runtime=Runtime(clock=clock, emit=events.append))
        assert (await request(gateway, path="/health/ready")).status == 200
        assert (await request(gateway, path="/api/x")).status == 200
        await until(lambda: events)
        assert (await request(gateway, path="/health/ready")).status == 503
        assert (await request(gateway, path="/api/x")).status == 200
        for proxy in gateway._live.proxies:
            await proxy.aclose()
