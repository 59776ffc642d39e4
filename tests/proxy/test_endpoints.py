"""Several endpoints behind one app: real services on sockets, time moved by hand."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_gateway.context import EXCHANGE, Exchange
from asgi_gateway.errors import Failure, ResponseAborted
from asgi_gateway.events import EndpointEjected, EndpointReturned, Event
from asgi_gateway.middleware import RetryMiddleware
from asgi_gateway.policies.backoff import Backoff
from asgi_gateway.policies.balance import ConsistentHash, RoundRobin, Weighted
from asgi_gateway.policies.ejection import Ejection
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.endpoints import Endpoint, EndpointsApp, request_key
from asgi_gateway.proxy.pool import Http1Transport
from asgi_gateway.proxy.transport import Connections, Origin, Timeouts
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    Upstream,
    behaviours,
    http_scope,
    refused_url,
    request,
)
from asgi_gateway.types import Receive, Scope, Send


class Service:
    """An `EndpointsApp` and what a test looks at."""

    def __init__(self, *ports: int, weights: tuple[float, ...] = (), seed: int = 1, **options: Any) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.runtime = Runtime(
            clock=self.clock, random=random.Random(seed).random, emit=self.events.append, service="data"
        )
        ejection = options.get("ejection", Ejection())
        self.endpoints = [
            Endpoint(self._proxy(port), name=str(port), weight=weight, ejection=ejection)
            for port, weight in zip(ports, weights or [1.0] * len(ports), strict=True)
        ]
        self.app = EndpointsApp(self.endpoints, runtime=self.runtime, **options)

    def _proxy(self, port: int) -> ProxyApp:
        timeouts = Timeouts(connect=5, first_byte=5, idle=5)
        transport = Http1Transport(
            Origin("127.0.0.1", port), timeouts=timeouts, connections=Connections(), clock=self.clock
        )
        return ProxyApp(
            transport, endpoint=f"127.0.0.1:{port}", authority=b"service", base_path=b"", clock=self.clock
        )

    @property
    def states(self) -> list[str]:
        return [status.state for status in self.app.statuses()]

    async def ask(self, times: int = 1, **options: Any) -> list[int]:
        return [(await request(self.app, **options)).status for _ in range(times)]


class Scripted:
    """Stands in the place of a `ProxyApp`: what became of the exchange is what it is told to say."""

    def __init__(self, status: int | None = None, failure: Failure | None = None) -> None:
        self.status = status
        self.failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[EXCHANGE].upstream_status = self.status
        scope[EXCHANGE].failure = self.failure

    async def aclose(self) -> None:
        """Nothing to close."""


@asynccontextmanager
async def service(*upstreams: Upstream | int, **options: Any) -> AsyncIterator[Service]:
    ports = [upstream if isinstance(upstream, int) else upstream.port for upstream in upstreams]
    made = Service(*ports, **options)
    try:
        yield made
    finally:
        await made.app.aclose()


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A port that refuses connections."""
    with refused_url() as url:
        yield int(url.rpartition(":")[2])


def retrying(app: EndpointsApp, attempts: int = 2) -> RetryMiddleware:
    return RetryMiddleware(app, attempts=attempts, backoff=Backoff(initial=0.0))


async def test_requests_are_shared_by_weight() -> None:
    async with Upstream(behaviours.answer()) as one, Upstream(behaviours.answer()) as other:
        async with service(one, other, weights=(3, 1), balance=RoundRobin()) as data:
            assert set(await data.ask(40)) == {200}
    assert (len(one.requests), len(other.requests)) == (30, 10)


async def test_a_weight_of_nothing_gets_nothing(nowhere: int) -> None:
    async with Upstream(behaviours.answer()) as one:
        async with service(one, nowhere, weights=(1, 0)) as data:
            assert set(await data.ask(20)) == {200}
            assert data.states == ["usable", "off"]


async def test_the_exchange_names_the_endpoint() -> None:
    async with Upstream(behaviours.answer()) as one:
        async with service(one) as data:
            exchange = Exchange()
            await request(data.app, **{EXCHANGE: exchange})
    assert exchange.endpoint == f"127.0.0.1:{one.port}"


async def test_a_stream_is_in_flight_until_it_ends() -> None:
    turn = asyncio.Event()

    async def stream(_: object, connection: Any) -> None:
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        await connection.send_chunk(b"first")
        await turn.wait()
        await connection.send_chunk(b"")

    async with Upstream(stream) as one, Upstream(stream) as other:
        async with service(one, other) as data:
            async with Conversation(data.app, http_scope()) as first:
                first.body()
                assert (await first.next())["status"] == 200
                assert sorted(endpoint.in_flight for endpoint in data.endpoints) == [0, 1]
                async with Conversation(data.app, http_scope()) as second:
                    second.body()
                    await second.next()
                    assert [endpoint.in_flight for endpoint in data.endpoints] == [1, 1]
                    turn.set()
                    await first.finish()
                    await second.finish()
            assert [endpoint.in_flight for endpoint in data.endpoints] == [0, 0]


async def test_a_cancelled_request_is_no_longer_in_flight() -> None:
    async with Upstream(behaviours.hang()) as one, service(one) as data:
        async with Conversation(data.app, http_scope()) as talk:
            talk.body()
            await one.wait_for(lambda: one.requests)
            assert data.endpoints[0].in_flight == 1
        assert data.endpoints[0].in_flight == 0


# Retries


async def test_with_one_of_two_bad_and_a_retry_every_request_succeeds() -> None:
    async with Upstream(behaviours.answer(503)) as bad, Upstream(behaviours.answer()) as good:
        never = Ejection(max_ejected=0)
        async with service(bad, good, balance=Weighted(), ejection=never) as data:
            app = retrying(data.app)
            assert {(await request(app)).status for _ in range(50)} == {200}
    assert len(good.requests) == 50
    assert len(bad.requests) > 10


async def test_with_one_endpoint_a_retry_goes_there_again() -> None:
    async with Upstream.script(behaviours.answer(503), behaviours.answer()) as only, service(only) as data:
        assert (await request(retrying(data.app))).status == 200


async def test_when_all_were_tried_any_is_tried_again() -> None:
    async with (
        Upstream.script(behaviours.answer(503), behaviours.answer()) as one,
        Upstream.script(behaviours.answer(503), behaviours.answer()) as other,
        service(one, other) as data,
    ):
        assert (await request(retrying(data.app, attempts=3))).status == 200
        assert sorted([len(one.requests), len(other.requests)]) == [1, 2]


async def test_a_retry_keeps_to_the_second_choice_of_a_hash(nowhere: int) -> None:
    async with Upstream(behaviours.answer()) as one, Upstream(behaviours.answer()) as other:
        never = Ejection(max_ejected=0)
        async with service(one, other, nowhere, balance=ConsistentHash(), ejection=never) as data:
            *_, dead = data.endpoints
            keys = iter(range(1000))
            data.app._key = lambda _: key
            while (key := str(next(keys))) and data.app._choose(http_scope(), Exchange()) is not dead:
                pass
            app = retrying(data.app)
            assert {(await request(app)).status for _ in range(10)} == {200}
    assert sorted([len(one.requests), len(other.requests)]) == [0, 10]


# Passive ejection


async def test_a_dead_endpoint_is_ejected_after_five_failures_and_returns(nowhere: int) -> None:
    async with Upstream(behaviours.answer()) as good:
        async with service(nowhere, good, balance=RoundRobin()) as data:
            assert await data.ask(10) == [502, 200] * 5
            assert data.events == [EndpointEjected("data", str(nowhere), 30.0)]
            assert data.states == ["ejected", "usable"]
            assert set(await data.ask(10)) == {200}
            await data.clock.advance(30)
            assert data.states == ["usable", "usable"]
            assert data.events[1:] == [EndpointReturned("data", str(nowhere))]
            assert 502 in await data.ask(3)


@pytest.mark.parametrize(
    "behaviour",
    [behaviours.answer(500), behaviours.reset_before_headers(), behaviours.reset_inside_body(b"part")],
    ids=["500", "reset", "broken stream"],
)
async def test_what_ejects_an_endpoint(behaviour: Any) -> None:
    async with Upstream(behaviour) as bad, Upstream(behaviours.answer()) as good:
        async with service(
            bad, good, balance=RoundRobin(), ejection=Ejection(consecutive_failures=2)
        ) as data:
            for _ in range(4):
                try:
                    await request(data.app)
                except ResponseAborted:
                    continue
            assert data.states == ["ejected", "usable"]


async def test_a_timeout_ejects() -> None:
    async with Upstream(behaviours.hang()) as bad, Upstream(behaviours.answer()) as good:
        async with service(
            bad, good, balance=RoundRobin(), ejection=Ejection(consecutive_failures=1)
        ) as data:
            asking = asyncio.ensure_future(request(data.app))
            await bad.wait_for(lambda: bad.requests)
            await data.clock.advance(5)
            assert (await asking).status == 504
            assert data.states == ["ejected", "usable"]


async def test_a_time_limit_further_out_ejects_too() -> None:
    async with Upstream(behaviours.hang()) as bad, Upstream(behaviours.answer()) as good:
        async with service(
            bad, good, balance=RoundRobin(), ejection=Ejection(consecutive_failures=1)
        ) as data:
            exchange = Exchange()
            async with Conversation(data.app, http_scope(**{EXCHANGE: exchange})) as talk:
                talk.body()
                await bad.wait_for(lambda: bad.requests)
                exchange.failure = Failure("timeout", "upstream", request_sent=True)
                talk.cancel()
            assert data.states == ["ejected", "usable"]


async def test_a_4xx_is_no_failure() -> None:
    async with Upstream(behaviours.answer(429)) as one, Upstream(behaviours.answer(404)) as other:
        async with service(one, other, ejection=Ejection(consecutive_failures=1)) as data:
            await data.ask(10)
            assert data.states == ["usable", "usable"]


async def test_a_client_that_leaves_is_no_failure() -> None:
    upload = http_scope("POST", headers=[(b"content-length", b"9")])
    async with Upstream(behaviours.hang()) as one, Upstream(behaviours.hang()) as other:
        async with service(one, other, ejection=Ejection(consecutive_failures=1)) as data:
            async with Conversation(data.app, upload) as talk:
                talk.body(b"part", more=True)
                talk.disconnect()
                await talk.finish()
            async with Conversation(data.app, http_scope()) as talk:
                talk.body()
                while not any(endpoint.in_flight for endpoint in data.endpoints):
                    await asyncio.sleep(0)
                talk.cancel()
            assert data.states == ["usable", "usable"]
            assert data.events == []


async def test_a_refusal_of_our_own_is_no_failure() -> None:
    async with service(1, 2, ejection=Ejection(consecutive_failures=1)) as data:
        for endpoint in data.endpoints:
            endpoint.app = Scripted(failure=Failure("overloaded", "gateway"))
        for _ in range(10):
            await data.app(http_scope(), None, None)
        assert data.states == ["usable", "usable"]


async def test_one_alone_is_never_ejected(nowhere: int) -> None:
    async with service(nowhere) as data:
        assert set(await data.ask(20)) == {502}
        assert data.states == ["usable"]


async def test_no_more_than_the_share_is_ejected(nowhere: int) -> None:
    async with service(nowhere, nowhere, nowhere, nowhere) as data:
        await data.ask(100)
        assert sorted(data.states) == ["ejected", "ejected", "usable", "usable"]


async def test_with_all_out_all_are_tried(nowhere: int) -> None:
    everything = Ejection(max_ejected=1)
    async with Upstream.script(*[behaviours.answer(500)] * 5, behaviours.answer()) as one:
        async with service(one, nowhere, balance=RoundRobin(), ejection=everything) as data:
            await data.ask(10)
            assert data.states == ["ejected", "ejected"]
            assert 200 in await data.ask(2)
            assert data.states == ["usable", "ejected"]
            assert set(await data.ask(5)) == {200}


async def test_without_panic_nothing_is_tried(nowhere: int) -> None:
    async with service(nowhere, nowhere, panic=False, ejection=Ejection(max_ejected=1)) as data:
        await data.ask(20)
        answer = await request(data.app)
        assert (answer.status, answer.header("x-gateway-error")) == (503, "no_endpoint")
        await data.clock.advance(30)
        assert await data.ask(1) == [502]


async def test_one_that_comes_back_starts_slowly() -> None:
    async with service(
        1, 2, balance=Weighted(), slow_start=100.0, ejection=Ejection(consecutive_failures=1)
    ) as data:
        data.endpoints[0].app, data.endpoints[1].app = Scripted(500), Scripted(200)
        while "ejected" not in data.states:
            await data.app(http_scope(), None, None)
        await data.clock.advance(30)
        shares = []
        for seconds in (0, 25, 25, 50):
            data.clock.shift(seconds)
            picked = Counter(data.app._choose(http_scope(), Exchange()) for _ in range(8000))
            shares.append(picked[data.endpoints[0]] / 8000)
        assert shares == pytest.approx([0.05 / 1.05, 0.25 / 1.25, 0.5 / 1.5, 0.5], rel=0.1)


# Keys


@pytest.mark.parametrize(
    ("name", "with_key", "other"),
    [
        ("header:X-User", {"headers": [(b"x-user", b"u1")]}, {"headers": [(b"x-user", b"u7")]}),
        (
            "cookie:sid",
            {"headers": [(b"cookie", b"a=1; sid=u1")]},
            {"headers": [(b"cookie", b"sid=u7; b=2")]},
        ),
        ("client_address", {"client": ("10.0.0.1", 1)}, {"client": ("10.0.0.77", 2)}),
    ],
)
async def test_the_same_key_goes_to_the_same_endpoint(name: str, with_key: Any, other: Any) -> None:
    key = request_key(name)
    assert key(http_scope(**with_key)) is not None
    async with service(*range(1, 60), balance=ConsistentHash(), key=key) as data:
        choose = data.app._choose
        assert len({choose(http_scope(**with_key), Exchange()) for _ in range(50)}) == 1
        assert choose(http_scope(**with_key), Exchange()) is not choose(http_scope(**other), Exchange())


async def test_without_a_key_the_choice_is_free() -> None:
    async with service(1, 2, 3, balance=ConsistentHash(), key=request_key("cookie:sid")) as data:
        scope = http_scope(headers=[(b"cookie", b"sid=; other=1")])
        assert len({data.app._choose(scope, Exchange()) for _ in range(50)}) == 3
