"""Starlette, wrapped by the gateway, mounted as a service, and with single middlewares inside."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_gateway import Gateway
from asgi_gateway.middleware import RateLimitMiddleware, RequestIdMiddleware
from asgi_gateway.testing import Conversation, Upstream, serve, websocket_scope
from asgi_gateway.types import ASGIApp
from tests.middleware.options_needed import EVERY


def make_app(events: list[str] | None = None) -> Starlette:
    """An app with a lifespan that has state, a stream and a WebSocket."""
    told: list[str] = [] if events is None else events

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
        told.append("started")
        yield {"greeting": "hello"}
        told.append("stopped")

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.greeting)

    async def path(request: Request) -> JSONResponse:
        return JSONResponse({"path": request.url.path, "root": request.scope["root_path"]})

    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "first"
            await request.app.state.go_on.wait()
            yield "last"

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    app = Starlette(
        routes=[
            Route("/hello", hello),
            Route("/stream", stream),
            Route("/where/{rest:path}", path),
            WebSocketRoute("/echo", echo),
        ],
        lifespan=lifespan,
    )
    app.state.go_on = asyncio.Event()
    return app


mounted = make_app()
"""What the configuration finds by import string."""


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
    assert events == ["started", "stopped"]
    assert (routed.text, upstream.requests[0].target) == ("from the service", b"/thing")
    assert routed.headers["x-gateway-service"] == "api"
    assert own.text == "hello", "the state of the app's lifespan reaches its requests"
    assert own.headers["x-request-id"], "the global chain stands around the app too"
    assert "x-gateway-service" not in own.headers


async def test_an_app_that_fails_to_start_stops_the_start(config: dict[str, Any]) -> None:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    with pytest.raises(RuntimeError, match="did not start"):
        async with serve(Gateway(config, app=Starlette(lifespan=lifespan)), lifespan="on"):
            pass


async def test_an_app_as_a_service_by_import_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(__file__.rpartition("/")[0]))
    config = {
        "version": 1,
        "services": {
            "mine": {
                "app": "test_starlette:mounted",
                "routes": [{"path": "/mine/*", "strip_prefix": "/mine"}],
                "middleware": [{"rate_limit": {"limit": "100/minute"}}],
            }
        },
    }
    async with (
        serve(Gateway(config), lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        hello = await client.get("/mine/hello")
        where = await client.get("/mine/where/a%2Fb")
        elsewhere = await client.get("/hello")
    assert (hello.text, hello.headers["ratelimit-limit"]) == ("hello", "100")
    assert where.json() == {"path": "/mine/where/a/b", "root": "/mine"}
    assert elsewhere.status_code == 404
    assert elsewhere.json()["code"] == "route_not_found"


async def test_one_middleware_alone() -> None:
    app = make_app()
    app.add_middleware(RateLimitMiddleware, limit="2/minute")
    async with (
        serve(app, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        answers = [await client.get("/hello") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["content-type"] == "application/problem+json"
    assert int(answers[2].headers["retry-after"]) >= 1


@pytest.mark.parametrize("wrap", EVERY)
async def test_every_middleware_stands_alone(wrap: Callable[..., ASGIApp]) -> None:
    app = make_app()
    app.add_middleware(wrap)
    async with (
        serve(app, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        assert (await client.get("/hello")).text == "hello"
        assert (await client.get("/nothing")).status_code == 404


@pytest.mark.parametrize("wrap", EVERY)
async def test_no_middleware_holds_a_stream_back(wrap: Callable[..., ASGIApp]) -> None:
    app = make_app()
    app.add_middleware(wrap)
    async with (
        serve(app, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
        client.stream("GET", "/stream") as answer,
    ):
        chunks = answer.aiter_text()
        assert await anext(chunks) == "first", "it arrives before the last is made"
        app.state.go_on._loop.call_soon_threadsafe(app.state.go_on.set)
        assert await anext(chunks) == "last"


@pytest.mark.parametrize("wrap", EVERY)
async def test_every_middleware_passes_a_websocket(wrap: Callable[..., ASGIApp]) -> None:
    app = wrap(make_app())
    async with Conversation(app, websocket_scope("/echo")) as talk:
        talk.give({"type": "websocket.connect"})
        assert (await talk.next())["type"] == "websocket.accept"
        talk.give({"type": "websocket.receive", "text": "again"})
        assert (await talk.next())["text"] == "again"
        assert (await talk.next())["type"] == "websocket.close"


async def test_middlewares_stack_in_starlettes_order() -> None:
    app = make_app()
    app.add_middleware(RateLimitMiddleware, limit="1/minute")
    app.add_middleware(RequestIdMiddleware)  # the last added is the outermost
    async with (
        serve(app, lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        await client.get("/hello")
        refused = await client.get("/hello", headers={"X-Request-ID": "mine"})
    assert refused.status_code == 429
    assert refused.headers["x-request-id"] == refused.json()["request_id"] == "mine"
