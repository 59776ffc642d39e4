"""Places as clients see them: who waits, who is refused, and that none is ever lost."""

import asyncio
import contextlib
from typing import Any

import pytest
from pydantic import ValidationError

from asgi_gateway.context import EXCHANGE, ON_DISCONNECT, Exchange
from asgi_gateway.middleware.concurrency_limit import ConcurrencyLimitMiddleware
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Answer, ManualClock, ScriptedApp, request, settle
from asgi_gateway.types import Receive, Scope, Send


class Held:
    """An app whose answers begin at once and end when told."""

    def __init__(self) -> None:
        self.entered = 0
        self.ends = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.ends.wait()
        await send({"type": "http.response.body", "body": b"ok"})


def limited(app: Any, clock: ManualClock, **options: Any) -> ConcurrencyLimitMiddleware:
    return ConcurrencyLimitMiddleware(app, runtime=Runtime(clock=clock), **options)


def ask(app: Any, **scope: Any) -> "asyncio.Task[Answer]":
    return asyncio.ensure_future(request(app, **scope))


async def test_one_more_than_the_limit_is_refused_and_a_stream_holds_its_place(clock: ManualClock) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=2, retry_after=3)
    streams = [ask(limit) for _ in range(2)]
    await settle()
    refused = await request(limit)
    assert (refused.status, refused.header("retry-after")) == (503, "3")
    assert refused.header("x-gateway-error") == "overloaded"
    assert app.entered == 2
    app.ends.set()
    assert [(await stream).status for stream in streams] == [200, 200]
    assert (await request(limit)).status == 200
    assert limit.limit.in_flight == 0


async def test_an_abort_frees_its_place_at_once(clock: ManualClock) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1)
    first = ask(limit)
    await settle()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    app.ends.set()
    assert (await request(limit)).status == 200


@pytest.mark.parametrize(("order", "served"), [("fifo", [1, 2]), ("lifo", [2, 1])])
async def test_those_who_wait_are_served_in_order(order: str, served: list[int], clock: ManualClock) -> None:
    app, done = Held(), []
    limit = limited(app, clock, max_in_flight=1, queue=2, order=order)

    async def numbered(number: int) -> int:
        status = (await request(limit)).status
        done.append(number)
        return status

    tasks = [asyncio.ensure_future(numbered(0))]
    for number in (1, 2, 3):
        await settle()
        tasks.append(asyncio.ensure_future(numbered(number)))
    await settle()
    app.ends.set()
    assert await asyncio.gather(*tasks) == [200, 200, 200, 503]
    assert done == [3, 0, *served]


async def test_who_has_waited_too_long_is_refused(clock: ManualClock) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1, queue=1, queue_timeout=2)
    first, second = ask(limit), ask(limit)
    await settle()
    await clock.advance(2)
    assert (await second).status == 503
    assert limit.limit.waiting == 0
    app.ends.set()
    assert (await first).status == 200


async def test_a_cancelled_waiter_gives_way(clock: ManualClock) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1, queue=1)
    first, second = ask(limit), ask(limit)
    await settle()
    second.cancel()
    await settle()
    third = ask(limit)
    await settle()
    app.ends.set()
    assert [(await each).status for each in (first, third)] == [200, 200]


async def test_a_place_given_to_a_waiter_that_is_cancelled_at_the_same_moment_is_not_lost(
    clock: ManualClock,
) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1, queue=2)
    first, second, third = ask(limit), ask(limit), ask(limit)
    await settle()
    first.add_done_callback(lambda _: second.cancel())
    limit.limit.exceed()  # so that the release below is the one that hands the place on
    limit.limit.limit = 2
    limit._pass_on(limit.limit.release())
    limit._pass_on(limit.limit.admit())
    second.cancel()
    app.ends.set()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert (await third).status == 200
    assert limit.limit.in_flight == 0


async def test_a_client_that_leaves_waits_no_longer(clock: ManualClock) -> None:
    app, callbacks = Held(), []

    def on_disconnect(callback: Any) -> Any:
        callbacks.append(callback)
        return callbacks.clear

    limit = limited(app, clock, max_in_flight=1, queue=1)
    first = ask(limit)
    await settle()
    exchange = Exchange()
    second = asyncio.ensure_future(request_unanswered(limit, exchange, on_disconnect))
    await settle()
    callbacks[0]()
    await second
    assert exchange.failure is not None
    assert exchange.failure.kind == "client_disconnected"
    assert (limit.limit.waiting, app.entered, callbacks) == (0, 1, [])
    app.ends.set()
    await first


async def request_unanswered(app: Any, exchange: Exchange, on_disconnect: Any) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    scope = {
        "type": "http", "method": "GET", "path": "/", "headers": [],
        EXCHANGE: exchange, ON_DISCONNECT: on_disconnect,
    }  # fmt: skip
    await app(scope, nothing, nothing)


async def test_each_key_has_places_of_its_own_and_idle_ones_are_forgotten(clock: ManualClock) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1, key="header:X-User")
    one = ask(limit, headers=[(b"x-user", b"one")])
    two = ask(limit, headers=[(b"x-user", b"two")])
    await settle()
    assert (await request(limit, headers=[(b"x-user", b"one")])).status == 503
    app.ends.set()
    assert [(await each).status for each in (one, two)] == [200, 200]
    assert limit._keyed == {}


async def test_a_websocket_holds_a_place(clock: ManualClock) -> None:
    ends = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ends.wait()

    limit = limited(app, clock, max_in_flight=1)
    task = asyncio.ensure_future(limit({"type": "websocket", "path": "/", "headers": []}, None, None))  # type: ignore[arg-type]
    await settle()
    assert (await request(limit)).status == 503
    ends.set()
    await task


async def test_in_shadow_mode_nothing_is_refused(clock: ManualClock) -> None:
    app, runtime = Held(), Runtime(clock=clock)
    limit = ConcurrencyLimitMiddleware(app, max_in_flight=1, mode="shadow", runtime=runtime)
    exchange = Exchange()
    tasks = [ask(limit), ask(limit, **{EXCHANGE: exchange})]
    await settle()
    app.ends.set()
    assert [(await task).status for task in tasks] == [200, 200]
    assert exchange.would_reject == ("concurrency_limit",)
    assert limit.limit.in_flight == 0


async def test_an_adaptive_limit_goes_down_with_failures_and_up_with_use(clock: ManualClock) -> None:
    app = ScriptedApp(500, 500, 200)
    limit = limited(app, clock, adaptive={"initial": 2, "min": 1, "decrease": 0.5})
    await request(limit)
    assert limit.limit.limit == 1
    clock.shift(1)
    for _ in range(4):
        await request(limit)
    assert limit.limit.limit == 2  # which one request at a time does not use up


async def test_late_answers_lower_an_adaptive_limit(clock: ManualClock) -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        clock.shift(2)
        await ScriptedApp(200)(scope, receive, send)

    limit = limited(late, clock, adaptive={"initial": 10, "latency": "1s"})
    await request(limit)
    assert limit.limit.limit == 9


async def test_refusals_are_counted(clock: ManualClock) -> None:
    runtime = Runtime(clock=clock, service="ai")
    app = Held()
    limit = ConcurrencyLimitMiddleware(app, max_in_flight=1, runtime=runtime)
    task = ask(limit)
    await settle()
    await request(limit)
    assert runtime.counter("concurrency_rejected_total").value == 1
    app.ends.set()
    await task


@pytest.mark.parametrize(
    "options",
    [{"max_in_flight": 0}, {"queue": -1}, {"order": "random"}, {"key": "nothing"}, {"adaptive": {"min": 0}}],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConcurrencyLimitMiddleware(ScriptedApp(200), **options)


def test_an_adaptive_limit_has_no_key() -> None:
    with pytest.raises(ValueError, match="cannot have a key"):
        ConcurrencyLimitMiddleware(ScriptedApp(200), adaptive={}, key="path")  # type: ignore[arg-type]
