"""Django, which refuses the lifespan and writes header names in capitals, inside the gateway."""

from collections.abc import Callable
from typing import Any

import django
import httpx
import pytest
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from asgi_gateway import Gateway
from asgi_gateway.middleware import RateLimitMiddleware, RequestIdMiddleware
from asgi_gateway.testing import Upstream, http_scope, serve
from asgi_gateway.types import ASGIApp
from tests.middleware.options_needed import EVERY


async def hello(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("hello", content_type="text/plain")
    response.set_cookie("one", "1")
    response.set_cookie("two", "2")
    response["X-Request-ID"] = "django's own"
    return response


async def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> Any:
        yield b"first"
        yield b"last"

    return StreamingHttpResponse(parts())


urlpatterns = [path("hello", hello), path("echo", echo), path("stream", stream)]


@pytest.fixture(scope="module")
def app() -> ASGIApp:
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="only for tests",
            USE_TZ=True,
            MIDDLEWARE=[],
        )
        django.setup()
    return get_asgi_application()


async def test_the_gateway_starts_serves_and_stops_around_an_app_that_refuses_the_lifespan(
    config: dict[str, Any], app: ASGIApp, upstream: Upstream
) -> None:
    async with (
        serve(Gateway(config, app=app), lifespan="on") as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        routed = await client.get("/api/thing")
        own = await client.get("/hello", headers={"X-Request-ID": "mine"})
        posted = await client.post("/echo", content=b"x" * 100_000)
        streamed = await client.get("/stream")
    assert (routed.text, upstream.requests[0].target) == ("from the service", b"/thing")
    assert own.text == "hello"
    assert own.headers.get_list("set-cookie") == ["one=1; Path=/", "two=2; Path=/"]
    assert own.headers.get_list("x-request-id") == ["mine"], "capitals do not hide the app's own"
    assert len(posted.content) == 100_000
    assert streamed.text == "firstlast"


async def test_one_middleware_alone(app: ASGIApp) -> None:
    limited = RateLimitMiddleware(app, limit="2/minute")
    async with serve(limited) as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        answers = [await client.get("/hello") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-remaining"] == "1"


async def test_two_middlewares_stack(app: ASGIApp) -> None:
    stack = RequestIdMiddleware(RateLimitMiddleware(app, limit="1/minute"))
    async with serve(stack) as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        await client.get("/hello")
        refused = await client.get("/hello", headers={"X-Request-ID": "mine"})
    assert refused.json()["request_id"] == "mine"


@pytest.mark.parametrize("wrap", EVERY)
async def test_every_middleware_stands_alone(wrap: Callable[..., ASGIApp], app: ASGIApp) -> None:
    wrapped = wrap(app)
    async with serve(wrapped) as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.get("/hello")).text == "hello"
        assert (await client.post("/echo", content=b"body")).text == "body"
        assert (await client.get("/stream")).text == "firstlast"


@pytest.mark.parametrize("wrap", EVERY)
async def test_a_refused_lifespan_is_passed_on(wrap: Callable[..., ASGIApp], app: ASGIApp) -> None:
    """So that the server hears of it; a middleware alone hides nothing."""
    scope = {**http_scope(), "type": "lifespan"}

    async def nothing(*_: Any) -> Any:
        raise NotImplementedError

    with pytest.raises(ValueError, match="can only handle"):
        await wrap(app)(scope, nothing, nothing)
