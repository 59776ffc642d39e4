"""How the public names are used by code that is checked: read by mypy, never run."""

from __future__ import annotations

from pathlib import Path

from asgi_gateway import ConfigError, Gateway, create_app
from asgi_gateway.config import Config, Mistake, load_config, parse_config
from asgi_gateway.middleware import (
    AccessLogMiddleware,
    CircuitBreakerMiddleware,
    ClientAddressMiddleware,
    ErrorsMiddleware,
    GatewayHeadersMiddleware,
    HealthMiddleware,
    HedgeMiddleware,
    RateLimitMiddleware,
    RequestIdMiddleware,
    RetryMiddleware,
    TimeoutMiddleware,
    TracingMiddleware,
)
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Answer, ManualClock, ScriptedApp, Upstream, behaviours, request
from asgi_gateway.types import ASGIApp, Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def every_middleware_takes_an_app_and_is_one() -> list[ASGIApp]:
    return [
        AccessLogMiddleware(app),
        CircuitBreakerMiddleware(app),
        ClientAddressMiddleware(app),
        ErrorsMiddleware(app),
        GatewayHeadersMiddleware(app),
        HealthMiddleware(app),
        HedgeMiddleware(app, percentile=95, budget="off"),
        RateLimitMiddleware(app),
        RateLimitMiddleware(app, key=["client_address", lambda scope: scope.get("plan")]),
        RequestIdMiddleware(app),
        RetryMiddleware(app),
        TimeoutMiddleware(app),
        TracingMiddleware(app),
    ]


def middlewares_stack() -> ASGIApp:
    clock = ManualClock()
    inner = CircuitBreakerMiddleware(
        app, failure_threshold=3, break_duration=30, runtime=Runtime(clock=clock)
    )
    return RequestIdMiddleware(RateLimitMiddleware(inner, limit=["10/second", "100/minute"]))


def a_gateway_takes_a_path_a_mapping_or_a_config() -> list[ASGIApp]:
    config: Config = load_config("gateway.yaml")
    return [
        create_app(),
        Gateway("gateway.yaml"),
        Gateway(Path("gateway.yaml"), app=app),
        Gateway({"version": 1}),
        Gateway(parse_config("version: 1")),
        Gateway(config, app=app, runtime=Runtime()),
    ]


def mistakes_have_places() -> list[tuple[int | None, int | None, str]]:
    try:
        Gateway("gateway.yaml")
    except ConfigError as error:
        mistakes: list[Mistake] = list(error.mistakes)
        return [(mistake.line, mistake.column, mistake.message) for mistake in mistakes]
    return []


def wrong_types_are_refused() -> None:
    RateLimitMiddleware(app, limit=100)  # type: ignore[arg-type]
    RateLimitMiddleware(app, "100/minute")  # type: ignore[call-arg]
    CircuitBreakerMiddleware(app, breaks=1)  # type: ignore[call-arg]
    Gateway(3000)  # type: ignore[arg-type]


async def tools_for_tests() -> Answer:
    async with Upstream(behaviours.answer(503)) as upstream:
        url: str = upstream.url
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)
    return await request(ScriptedApp(503, 200), "GET", url)
