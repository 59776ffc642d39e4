"""FastAPI, wrapped by the gateway, and with single middlewares inside."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from asgi_gateway import Gateway
from asgi_gateway.middleware import CircuitBreakerMiddleware, RateLimitMiddleware, RetryMiddleware
from asgi_gateway.testing import Upstream, serve
from asgi_gateway.types import ASGIApp
from tests.middleware.options_needed import EVERY


class Item(BaseModel):
    name: str


def make_app(events: list[str] | None = None) -> FastAPI:
    """An app with a lifespan, validation, and an endpoint that fails as told."""
    told: list[str] = [] if events is None else events

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        told.append("started")
        yield {"greeting": "hello"}
        told.append("stopped")

    app = FastAPI(lifespan=lifespan)
    app.state.statuses = []

    @app.get("/hello")
    async def hello(request: Request) -> dict[str, str]:
        return {"says": request.state.greeting}

    @app.post("/items")
    async def create(item: Item) -> Item:
        return item

    @app.get("/flaky")
    async def flaky() -> dict[str, int]:
        status = app.state.statuses.pop(0)
        if status != 200:
            raise HTTPException(status)
        return {"status": status}

    return app


async def test_the_gateway_around_an_app(config: dict[str, Any], upstream: Upstream) -> None:
    events: list[str] = []
    gateway = Gateway(config, app=make_app(events))
    async with (
        serve(gateway, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        assert events == ["started"]
        routed = await client.get("/api/thing")
        own = await client.get("/hello")
        created = await client.post("/items", json={"name": "one"})
        refused = await client.post("/items", json={})
    assert events == ["started", "stopped"]
    assert (routed.text, upstream.requests[0].target) == ("from the service", b"/thing")
    assert own.json() == {"says": "hello"}
    assert created.json() == {"name": "one"}
    assert refused.status_code == 422
    assert "x-gateway-error" not in refused.headers, "the app's own errors stay its own"


async def test_one_middleware_alone() -> None:
    app = make_app()
    app.add_middleware(RateLimitMiddleware, limit="2/minute")
    async with (
        serve(app, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        answers = [await client.get("/hello") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_retry_and_breaker_around_an_endpoint_that_fails() -> None:
    app = make_app()
    app.add_middleware(RetryMiddleware, attempts=3, backoff={"initial": 0})
    app.add_middleware(CircuitBreakerMiddleware, failure_threshold=1)
    app.state.statuses = [503, 503, 200, 503, 503, 503]
    async with (
        serve(app, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        statuses = [(await client.get("/flaky")).status_code for _ in range(2)]
        refused = await client.get("/flaky")
    assert statuses == [200, 503]
    assert app.state.statuses == []
    assert refused.json()["code"] == "circuit_open"


@pytest.mark.parametrize("wrap", EVERY)
async def test_every_middleware_stands_alone(wrap: Callable[..., ASGIApp]) -> None:
    app = make_app()
    app.add_middleware(wrap)
    async with (
        serve(app, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        assert (await client.get("/hello")).json() == {"says": "hello"}
        assert (await client.post("/items", json={"name": "one"})).json() == {"name": "one"}
