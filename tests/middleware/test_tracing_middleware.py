import pytest

from asgi_gateway.asgi.headers import get_all
from asgi_gateway.context import TRACE, trace_id_var
from asgi_gateway.middleware import TracingMiddleware
from asgi_gateway.testing import ScriptedApp, request
from asgi_gateway.trace import TraceContext, parse_traceparent
from asgi_gateway.types import Headers, Receive, Scope, Send

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-00".encode()


async def seen_by_app(headers: Headers) -> Scope:
    app = ScriptedApp(200)
    await request(TracingMiddleware(app), headers=headers)
    return app.calls[0]


async def test_a_callers_trace_is_continued_with_a_span_of_our_own() -> None:
    scope = await seen_by_app([(b"TraceParent", PARENT), (b"a", b"1"), (b"tracestate", b"v=1")])
    trace: TraceContext = scope[TRACE]
    assert (trace.trace_id, trace.flags, trace.state) == (TRACE_ID, 0, b"v=1")
    assert trace.span_id != "b7ad6b7169203331"
    assert scope["headers"] == [
        (b"host", b"testserver"), (b"a", b"1"), (b"traceparent", trace.header()), (b"tracestate", b"v=1"),
    ]  # fmt: skip


async def test_the_state_of_several_lines_becomes_one() -> None:
    scope = await seen_by_app(
        [(b"tracestate", b"a=1"), (b"traceparent", PARENT), (b"TraceState", b"b=2, c=3")]
    )
    assert get_all(scope["headers"], b"tracestate") == [b"a=1,b=2,c=3"]


async def test_a_broken_state_is_dropped_and_the_trace_kept() -> None:
    scope = await seen_by_app([(b"traceparent", PARENT), (b"tracestate", b"NOT VALID")])
    assert scope[TRACE].trace_id == TRACE_ID
    assert get_all(scope["headers"], b"tracestate") == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"traceparent", b"nonsense")],
        [(b"traceparent", b"ff" + PARENT[2:])],
        [(b"traceparent", PARENT), (b"Traceparent", PARENT)],
        [(b"traceparent", b"x" * 10_000)],
    ],
)
async def test_without_a_valid_parent_a_trace_is_begun_and_no_state_believed(headers: Headers) -> None:
    scope = await seen_by_app([*headers, (b"tracestate", b"v=1")])
    [parent] = get_all(scope["headers"], b"traceparent")
    assert parse_traceparent(parent) == scope[TRACE]
    assert scope[TRACE].trace_id != TRACE_ID
    assert scope[TRACE].flags == 1
    assert get_all(scope["headers"], b"tracestate") == []


async def test_headers_of_the_same_length_are_none_of_ours() -> None:
    scope = await seen_by_app([(b"traceparents"[:10], b"1"), (b"x-forwarded"[:11], b"2")])
    assert (b"traceparen", b"1") in scope["headers"]
    assert (b"x-forwarded", b"2") in scope["headers"]


async def test_the_log_knows_the_trace_during_the_request_and_not_after() -> None:
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(trace_id_var.get())

    async def nothing(*message: object) -> dict[str, object]:
        return {"type": "http.request"}

    await TracingMiddleware(app)({"type": "http", "headers": [(b"traceparent", PARENT)]}, nothing, nothing)  # type: ignore[arg-type]
    assert seen == [TRACE_ID]
    assert trace_id_var.get() is None


async def test_a_websocket_takes_part() -> None:
    app = ScriptedApp(200)
    await request(TracingMiddleware(app), type="websocket", headers=[(b"traceparent", PARENT)])
    assert app.calls[0][TRACE].trace_id == TRACE_ID
