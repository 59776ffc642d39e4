"""What layers keep alive while an answer streams: nothing of the request that they have passed on."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from options_needed import WITH_OPTIONS

from asgi_gateway.asgi.calls import direct
from asgi_gateway.context import EXCHANGE, Exchange
from asgi_gateway.middleware import (
    CircuitBreakerMiddleware,
    ClientAddressMiddleware,
    ConcurrencyLimitMiddleware,
    GatewayHeadersMiddleware,
    HealthMiddleware,
    HedgeMiddleware,
    LoadShedMiddleware,
    RateLimitMiddleware,
    RequestIdMiddleware,
    RetryMiddleware,
    TimeoutMiddleware,
    TracingMiddleware,
)
from asgi_gateway.testing import http_scope, settle
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

LAYERS = [
    CircuitBreakerMiddleware,
    ClientAddressMiddleware,
    ConcurrencyLimitMiddleware,
    GatewayHeadersMiddleware,
    HealthMiddleware,
    HedgeMiddleware,
    LoadShedMiddleware,
    RateLimitMiddleware,
    RequestIdMiddleware,
    RetryMiddleware,
    TimeoutMiddleware,
    TracingMiddleware,
    *WITH_OPTIONS,
]


class Watched(dict[str, Any]):
    """A scope whose end can be seen."""


class WatchedList(list[Any]):
    """Headers whose end can be seen."""


async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
    del scope
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    await asyncio.Event().wait()


async def receive() -> Message:
    return {"type": "http.request", "body": b"ab", "more_body": False}


async def send(message: Message) -> None: ...


@pytest.mark.parametrize("layer", LAYERS)
async def test_an_open_stream_keeps_no_scope_alive(layer: Callable[..., ASGIApp]) -> None:
    headers = WatchedList([(b"host", b"a"), (b"content-length", b"2")])
    scope = Watched(http_scope("PUT"), headers=headers, **{EXCHANGE: Exchange()})
    kept = [weakref.ref(scope), weakref.ref(headers)]
    task = asyncio.ensure_future(direct(layer(streaming))(scope, receive, send))  # type: ignore[arg-type]
    del scope, headers
    await settle()
    assert not task.done()
    assert [ref() for ref in kept] == [None, None]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("layer", [RetryMiddleware, TimeoutMiddleware])
async def test_before_the_answer_begins_it_is_kept_for_what_may_come(layer: Callable[..., ASGIApp]) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await asyncio.Event().wait()

    scope = Watched(http_scope(), **{EXCHANGE: Exchange()})
    kept = weakref.ref(scope)
    task = asyncio.ensure_future(layer(endless)(scope, receive, send))  # type: ignore[arg-type]
    del scope
    await settle()
    assert kept() is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
