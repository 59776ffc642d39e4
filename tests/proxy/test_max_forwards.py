"""TRACE and OPTIONS that may go no farther, at the router: what is answered here and what goes on."""

from typing import Any

import pytest

from asgi_gateway.router import Router, ServiceRoute
from asgi_gateway.testing import Answer, ScriptedApp, request

SECRETS = [
    (b"authorization", b"Bearer secret"),
    (b"cookie", b"session=secret"),
    (b"proxy-authorization", b"Basic secret"),
    (b"x-api-key", b"secret"),
    (b"x-forwarded-for", b"10.1.2.3"),
    (b"x-request-id", b"abc"),
]


async def asked(app: ScriptedApp, method: str, *values: bytes, **scope: Any) -> Answer:
    """The answer of a router with one route, `app` behind it, to a request with these Max-Forwards."""
    route = ServiceRoute(
        "/a/*", "a", app, methods=scope.pop("methods", None), mounted=scope.pop("mounted", False)
    )
    headers = [*scope.pop("headers", [(b"host", b"h")]), *((b"Max-Forwards", value) for value in values)]
    return await request(Router([route]), method, "/a/x", headers=headers, **scope)


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    ("value", "sent"),
    [(b"1", b"0"), (b"10", b"9"), (b"007", b"6"), (b"1000000000", b"999999999"), (b"9" * 5000, b"999999999")],
)
async def test_one_is_taken_off(method: str, value: bytes, sent: bytes) -> None:
    app = ScriptedApp()
    await asked(app, method, value)
    assert [pair for pair in app.calls[0]["headers"] if pair[0].lower() == b"max-forwards"] == [
        (b"max-forwards", sent)
    ]


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    "values", [[b""], [b"-1"], [b"+1"], [b"1.0"], [b"0x1"], [b"1 0"], [b"0, 0"], [b"\xb2"], [b"1", b"1"]]
)
async def test_what_is_no_number_is_refused(method: str, values: list[bytes]) -> None:
    app = ScriptedApp()
    answer = await asked(app, method, *values)
    assert (answer.status, answer.header("x-gateway-error"), app.calls) == (400, "bad_request", [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
async def test_for_other_methods_it_means_nothing(method: str) -> None:
    app = ScriptedApp()
    await asked(app, method, b"0")
    assert (b"Max-Forwards", b"0") in app.calls[0]["headers"]


@pytest.mark.parametrize(
    ("methods", "allow"),
    [
        (None, "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE"),
        (frozenset({"GET", "OPTIONS", "PROPFIND"}), "GET, OPTIONS, PROPFIND"),
    ],
)
async def test_options_at_zero_is_answered_with_the_routes_methods(
    methods: frozenset[str] | None, allow: str
) -> None:
    app = ScriptedApp()
    answer = await asked(app, "OPTIONS", b"0", methods=methods)
    assert (answer.status, answer.body, app.calls) == (200, b"", [])
    assert (answer.header("allow"), answer.header("content-length")) == (allow, "0")


async def test_the_methods_are_those_of_all_routes_of_the_path() -> None:
    routes = [
        ServiceRoute("/a/*", "a", ScriptedApp(), methods=frozenset({"OPTIONS"})),
        ServiceRoute("/*", "b", ScriptedApp(), methods=frozenset({"PUT"})),
        ServiceRoute("/b/*", "c", ScriptedApp(), methods=frozenset({"GET"})),
    ]
    answer = await request(Router(routes), "OPTIONS", "/a/x", headers=[(b"max-forwards", b"0")])
    assert answer.header("allow") == "OPTIONS, PUT"


async def test_trace_at_zero_shows_the_way_and_no_secret() -> None:
    app = ScriptedApp()
    shown = [(b"host", b"h"), (b"Via", b"1.1 first"), (b"via", b"1.1 second"), (b"user-agent", b"curl")]
    answer = await asked(app, "TRACE", b"0", headers=[*shown, *SECRETS], query=b"q=1")
    assert (answer.status, answer.header("content-type"), app.calls) == (200, "message/http", [])
    assert answer.body == (
        b"TRACE /a/x?q=1 HTTP/1.1\r\nhost: h\r\nVia: 1.1 first\r\nvia: 1.1 second\r\n"
        b"user-agent: curl\r\nMax-Forwards: 0\r\n\r\n"
    )


async def test_an_app_in_this_process_is_the_final_recipient_itself() -> None:
    app = ScriptedApp()
    await asked(app, "TRACE", b"0", mounted=True)
    assert (b"Max-Forwards", b"0") in app.calls[0]["headers"]


async def test_the_server_as_a_whole_is_asked_by_a_star() -> None:
    """No route leads from ``*``, not even the one for everything (RFC 9110 section 9.3.7)."""
    app, wrapped = ScriptedApp(), ScriptedApp()
    routes = [ServiceRoute("/*", "all", app)]
    answer = await request(Router(routes), "OPTIONS", "*")
    assert (answer.status, answer.header("content-length"), app.calls) == (200, "0", [])
    await request(Router(routes, wrapped), "OPTIONS", "*")
    assert len(wrapped.calls) == 1


async def test_connect_is_forwarded_under_no_server() -> None:
    """A 2xx to it would turn the service's connection into a tunnel (RFC 9112 section 6.3)."""
    app = ScriptedApp()
    answer = await asked(app, "CONNECT")
    assert (answer.status, answer.header("x-gateway-error"), app.calls) == (501, "not_implemented", [])
