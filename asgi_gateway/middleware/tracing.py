"""Take part in the caller's distributed trace, or begin one."""

from __future__ import annotations

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.headers import names_of
from asgi_gateway.context import GONE, TRACE, trace_id_var
from asgi_gateway.ids import RandomHex, Ready
from asgi_gateway.trace import TraceContext, parse_traceparent, parse_tracestate
from asgi_gateway.types import ASGIApp, Header, Headers, Receive, Scope, Send, mypyc_attr

_TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})


@mypyc_attr(allow_interpreted_subclasses=True)
class TracingMiddleware:
    """Continue the trace of a valid ``traceparent``, else begin a new one, sampled (W3C Trace Context).

    The gateway is a span of its own: inner apps see it as their parent in ``traceparent``, and the
    proxy sends the service a child of it for each attempt. ``tracestate`` is passed on with a valid
    ``traceparent`` only. The trace id is in scope and in every log record of the request. There are
    no options.

        TracingMiddleware(app)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = direct(app)
        self._ids = RandomHex()
        self._begun = Ready(_begin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers: Headers = scope["headers"]
        if b"trace" in names_of(headers):
            headers, trace = self._continued(headers)
        else:
            trace, header = self._begun()
            headers = [*headers, header]
        token = trace_id_var.set(trace.trace_id)
        inner = self.app({**scope, TRACE: trace, "headers": headers}, receive, send)
        scope = GONE
        del headers
        await inner
        # Not in a `finally`: whoever catches an exception on its way out can still name the trace.
        trace_id_var.reset(token)

    def _continued(self, headers: Headers) -> tuple[Headers, TraceContext]:
        """The headers with this gateway as the parent, and its place in the trace."""
        found = [pair for pair in headers if pair[0].lower() in _TRACE_HEADERS]
        caller = _caller(found)
        trace = caller.child(self._ids) if caller else TraceContext.begin(self._ids)
        passed = [pair for pair in headers if pair not in found]
        passed.append((b"traceparent", trace.header()))
        if trace.state:
            passed.append((b"tracestate", trace.state))
        return passed, trace


def _begin(ids: RandomHex) -> tuple[TraceContext, Header]:
    trace = TraceContext.begin(ids)
    return trace, (b"traceparent", trace.header())


def _caller(found: Headers) -> TraceContext | None:
    parents = [value for name, value in found if len(name) == len(b"traceparent")]
    caller = parse_traceparent(parents[0]) if len(parents) == 1 else None
    if caller is None or len(found) == 1:
        return caller
    states = [value for name, value in found if len(name) == len(b"tracestate")]
    return caller._replace(state=parse_tracestate(states))
