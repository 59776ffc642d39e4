from typing import Any

import pytest

from asgi_gateway.context import EXCHANGE, ROUTE, SERVICE, STRIPPED_PREFIX, Exchange
from asgi_gateway.router import Router, ServiceRoute
from asgi_gateway.testing import ScriptedApp, request


def route(pattern: str, service: str = "", **options: Any) -> ServiceRoute:
    """A route whose app answers with the service's name."""
    name = service or pattern
    return ServiceRoute(pattern, name, ScriptedApp((200, [], [name.encode()])), **options)


async def service_of(router: Router, path: str, method: str = "GET", **scope: Any) -> str:
    answer = await request(router, method, path, **scope)
    return answer.body.decode() if answer.status == 200 else str(answer.status)


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/api/ai", "/api/ai/*"),
        ("/api/ai/", "/api/ai/*"),
        ("/api/ai/x/y", "/api/ai/*"),
        ("/api/aix", "/api/*"),
        ("/api", "/api/*"),
        ("/api/ai/exact", "/api/ai/exact"),
        ("/api/ai/exact/below", "/api/ai/*"),
        ("/apix", "404"),
        ("/", "404"),
    ],
)
async def test_longest_prefix_wins_on_whole_segments(path: str, service: str) -> None:
    router = Router([route("/api/*"), route("/api/ai/*"), route("/api/ai/exact")])
    assert await service_of(router, path) == service


async def test_star_alone_takes_everything_else() -> None:
    router = Router([route("/*"), route("/a/*")])
    assert [await service_of(router, path) for path in ("/", "/x/y", "/a")] == ["/*", "/*", "/a/*"]


@pytest.mark.parametrize(
    ("host", "service"),
    [
        (b"a.example", "a"),
        (b"A.Example.:8080", "a"),
        (b"x.b.example", "b"),
        (b"exact.b.example", "exact"),
        (b"y.x.b.example", "xb"),
        (b"b.example", "any"),
        (b"other", "any"),
        (b"[::1]:80", "v6"),
    ],
)
async def test_routes_ask_for_hosts(host: bytes, service: str) -> None:
    router = Router(
        [
            route("/*", "any"),
            route("/*", "a", host="a.example"),
            route("/*", "b", host="*.b.example"),
            route("/*", "xb", host="*.x.b.example"),
            route("/*", "exact", host="exact.b.example"),
            route("/*", "v6", host="[::1]"),
        ]
    )
    assert await service_of(router, "/", headers=[(b"host", host)]) == service


async def test_routes_ask_for_methods_and_fall_through() -> None:
    router = Router([route("/a/*", "get", methods=frozenset({"GET"})), route("/*", "rest")])
    assert await service_of(router, "/a/x") == "get"
    assert await service_of(router, "/a/x", "POST") == "rest"


async def test_a_path_without_the_method_is_405_with_what_is_allowed() -> None:
    router = Router(
        [route("/a/*", methods=frozenset({"GET", "HEAD"})), route("/a/x", methods=frozenset({"PUT"}))]
    )
    answer = await request(router, "POST", "/a/x")
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD, PUT")
    assert answer.header("x-gateway-error") == "method_not_allowed"


async def test_404_tells_nothing_of_the_routes() -> None:
    answer = await request(Router([route("/secret/*")]), path="/other")
    assert (answer.status, answer.header("x-gateway-error")) == (404, "route_not_found")
    assert b"secret" not in answer.body


async def test_what_no_route_wants_reaches_the_wrapped_app() -> None:
    wrapped = ScriptedApp((200, [], [b"wrapped"]))
    router = Router([route("/a/*")], fallback=wrapped)
    assert await service_of(router, "/b") == "wrapped"
    assert SERVICE not in wrapped.calls[0]


@pytest.mark.parametrize(
    "path",
    [
        "/public/../admin/x",
        "/public//../admin",
        "/public/..;/admin",
        "/public\\..\\admin",
        "/../admin",
        "//admin",
    ],
)
async def test_a_path_with_two_readings_is_refused(path: str) -> None:
    router = Router([route("/public/*"), route("/admin/*")])
    answer = await request(router, path=path)
    assert (answer.status, answer.header("x-gateway-error")) == (400, "bad_request")


async def test_dots_that_stay_inside_one_route_pass_as_they_are() -> None:
    app = ScriptedApp()
    await request(Router([ServiceRoute("/a/*", "a", app)]), path="/a/b/../c", raw_path=b"/a/b/%2e%2e/c")
    assert app.calls[0]["raw_path"] == b"/a/b/%2e%2e/c"


@pytest.mark.parametrize(
    "path",
    [
        "/../x",
        "/open/../../open/x",
        "/open/..;/../open/x",
        "/open\\..\\..\\open\\x",
        "/stripped/../stripped/x",
        "/stripped//../stripped/x",
        "/stripped/a/../../stripped/x",
        "/..",
    ],
)
async def test_a_path_cannot_climb_out_of_what_its_service_is_shown(path: str) -> None:
    """Behind the path of the service's URL, ``/../x`` would be a path beside it."""
    app = ScriptedApp()
    routes = [ServiceRoute("/*", "all", app), ServiceRoute("/stripped/*", "s", app, strip_prefix="/stripped")]
    answer = await request(Router(routes), path=path)
    assert (answer.status, answer.header("x-gateway-error"), app.calls) == (400, "bad_request", [])


@pytest.mark.parametrize("path", ["/a/../x", "/stripped/a/../x", "/stripped/./x", "/stripped//x", "//"])
async def test_a_path_may_climb_inside_it(path: str) -> None:
    routes = [route("/*", "all"), route("/stripped/*", "s", strip_prefix="/stripped")]
    assert await service_of(Router(routes), path) in ("all", "s")


async def test_the_chain_and_the_exchange_learn_where_the_request_went() -> None:
    app = ScriptedApp()
    exchange = Exchange()
    router = Router([ServiceRoute("/api/*", "data", app, strip_prefix="/api")])
    await request(router, path="/api/x", **{EXCHANGE: exchange})
    inner = app.calls[0]
    assert (inner[SERVICE], inner[ROUTE], inner[STRIPPED_PREFIX]) == ("data", "/api/*", b"/api")
    assert (exchange.service, exchange.route) == ("data", "/api/*")
    assert inner["path"] == "/api/x"


@pytest.mark.parametrize("path", ["*", "http://evil/x", "a/b"])
async def test_what_is_no_path_has_no_route(path: str) -> None:
    """Some servers leave a whole URL in the path: it must not be sent on as it is."""
    app = ScriptedApp()
    answer = await request(Router([ServiceRoute("/*", "all", app)]), path=path)
    assert (answer.status in (400, 404), app.calls) == (True, [])
