"""What one attempt told is not taken for what the next one tells."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asgi_gateway.asgi.targets import ServiceName, target_app
from asgi_gateway.context import EXCHANGE, Exchange
from asgi_gateway.errors import Failure
from asgi_gateway.middleware import (
    CircuitBreakerMiddleware,
    FallbackMiddleware,
    HedgeMiddleware,
    RateLimitMiddleware,
    RetryMiddleware,
)
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Answer, Conversation, ManualClock, ScriptedApp, http_scope, request, settle
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

UNREACHABLE = Problem(502, Failure("connect", "upstream", request_sent=False), "no connection")


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """A service that answers 503, and whatever a layer may learn of it."""
    tell(scope)
    await ScriptedApp(503)(scope, receive, send)


async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
    """The same, but it does not come to its answer."""
    tell(scope)
    await asyncio.Event().wait()


def tell(scope: Scope) -> None:
    exchange: Exchange = scope[EXCHANGE]
    exchange.endpoint, exchange.upstream_status, exchange.failure = "http://one", 503, UNREACHABLE.failure
    exchange.first_byte_seconds = exchange.upstream_seconds = 0.5


def limited(app: ASGIApp, runtime: Runtime) -> RateLimitMiddleware:
    return RateLimitMiddleware(app, limit="9/minute", runtime=runtime)


def retried(last: ASGIApp, runtime: Runtime) -> ASGIApp:
    """The first attempt fails; the same limiter counts both."""
    return RetryMiddleware(limited(ScriptedApp(failing, last), runtime), backoff={"initial": 0})


def fallen_back(last: ASGIApp, runtime: Runtime) -> ASGIApp:
    """The first service fails; each has a limiter of its own."""
    return FallbackMiddleware(limited(failing, runtime), targets=[limited(last, runtime)])


def hedged(last: ASGIApp, runtime: Runtime) -> ASGIApp:
    """The first attempt is late."""
    return HedgeMiddleware(limited(ScriptedApp(hanging, last), runtime), runtime=runtime)


Layer = Callable[[ASGIApp, Runtime], ASGIApp]
LAYERS = pytest.mark.parametrize("layer", [retried, fallen_back, hedged])


@pytest.fixture
def runtime(clock: ManualClock) -> Runtime:
    return Runtime(clock=clock)


async def last_answer(app: ASGIApp, clock: ManualClock, **scope: Any) -> Answer:
    async with Conversation(app, http_scope(**scope)) as talk:
        talk.body()
        await settle()
        await clock.advance(1)
        return await talk.finish()


@LAYERS
async def test_the_limiter_of_the_last_attempt_tells_its_limit(
    layer: Layer, runtime: Runtime, clock: ManualClock
):
    last = ScriptedApp((200, [(b"ratelimit-limit", b"the service's own")], [b"ok"]))
    answer = await last_answer(layer(last, runtime), clock)
    assert (answer.status, answer.all("ratelimit-limit")) == (200, ["9"])


@LAYERS
async def test_a_limiter_outside_tells_for_all(layer: Layer, runtime: Runtime, clock: ManualClock):
    app = RateLimitMiddleware(layer(ScriptedApp(200), runtime), limit="99/minute", runtime=runtime)
    answer = await last_answer(app, clock)
    assert (answer.status, answer.all("ratelimit-limit")) == (200, ["9"])


async def test_the_limit_of_a_service_that_refused_is_not_told_of_one_that_answered():
    refusing = RateLimitMiddleware(ScriptedApp(200), limit="1/hour")
    assert (await request(refusing)).status == 200
    app = FallbackMiddleware(refusing, targets=[ScriptedApp(200)], failures=["rate_limited"])
    answer = await request(RateLimitMiddleware(app, limit="99/minute"))
    assert (answer.status, answer.header("ratelimit-remaining")) == (200, "98")


@LAYERS
async def test_what_a_service_said_is_not_told_of_an_attempt_that_reached_none(
    layer: Layer, runtime: Runtime, clock: ManualClock
):
    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(repr(scope[EXCHANGE]))
        await ScriptedApp(200)(scope, receive, send)

    seen: list[str] = []
    exchange = Exchange()
    assert (await last_answer(layer(told, runtime), clock, **{EXCHANGE: exchange})).status == 200
    for name in ("endpoint", "upstream_status", "failure", "first_byte_seconds", "upstream_seconds"):
        assert name not in seen[0]
        assert getattr(exchange, name) is None


@LAYERS
async def test_the_state_of_a_breaker_that_stands_outside_is_kept(
    layer: Layer, runtime: Runtime, clock: ManualClock
):
    exchange = Exchange()
    app = CircuitBreakerMiddleware(layer(ScriptedApp(200), runtime))
    await last_answer(app, clock, **{EXCHANGE: exchange})
    assert exchange.breaker_state == "closed"


async def test_a_service_that_an_earlier_attempt_was_sent_to_is_not_named():
    """A split may send one attempt there and the next one not, and so may a breaker."""
    elsewhere = target_app(ServiceName("b"), Runtime(chains={"b": ScriptedApp(503)}))
    app = RetryMiddleware(ScriptedApp(elsewhere, 200), backoff={"initial": 0})
    exchange = Exchange()
    exchange.service = "a"
    assert (await request(app, **{EXCHANGE: exchange})).status == 200
    assert exchange.service == "a"
