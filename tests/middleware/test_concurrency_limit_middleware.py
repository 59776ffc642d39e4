"""Places as clients see them: who waits, who is refused, and that none is ever lost."""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from asgi_gateway.context import EXCHANGE, ON_DISCONNECT, Exchange
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.middleware.concurrency_limit import ConcurrencyLimitMiddleware
from asgi_gateway.problem import Problem
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


@pytest.mark.parametrize("released_first", [True, False])
async def test_a_place_given_to_a_waiter_that_is_cancelled_at_the_same_moment_is_not_lost(
    released_first: bool, clock: ManualClock
) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1, queue=2)
    first, second, third = ask(limit), ask(limit), ask(limit)
    await settle()
    # Nothing runs between the two: the waiter learns of both at once.
    for task in (first, second) if released_first else (second, first):
        if task is first:
            task.cancel()
            await asyncio.sleep(0)  # it unwinds and gives its place to the second
        else:
            task.cancel()
    await settle()
    assert second.cancelled()
    assert (limit.limit.in_flight, limit.limit.waiting, app.entered) == (1, 0, 2)
    app.ends.set()
    assert (await third).status == 200
    assert limit.limit.in_flight == 0


async def test_a_place_given_at_the_moment_when_the_time_is_up_is_taken(clock: ManualClock) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1, queue=1, queue_timeout=2)
    first, second = ask(limit), ask(limit)
    await settle()
    clock.call_later(2, first.cancel)
    clock.shift(2)
    for due, _, timer in sorted(clock._timers, key=lambda each: each[:2]):
        assert due == clock.monotonic()
        timer.callback(*timer.args)  # all in one turn of the loop
    clock._timers.clear()
    app.ends.set()
    status = (await second).status
    assert status in (200, 503)
    assert limit.limit.in_flight == limit.limit.waiting == 0
    assert (await request(limit)).status == 200


@settings(max_examples=150, deadline=None)
@given(
    order=st.sampled_from(["fifo", "lifo"]),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "end", "cancel", "time", "turn"]), st.integers(0, 9)), max_size=40
    ),
)
def test_whatever_comes_together_no_place_is_lost(order: Any, steps: list[tuple[str, int]]) -> None:
    async def history() -> None:
        clock = ManualClock()
        ends: list[asyncio.Event] = []
        running = most = 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal running, most
            running, end = running + 1, asyncio.Event()
            most = max(most, running)
            ends.append(end)
            try:
                await end.wait()
                await ScriptedApp(200)(scope, receive, send)
            finally:
                running -= 1

        limit = limited(app, clock, max_in_flight=2, queue=3, order=order, queue_timeout=1)
        tasks: list[asyncio.Task[Answer]] = []
        for step, pick in steps:
            if step == "ask":
                tasks.append(ask(limit))
            elif step == "end" and ends:
                ends[pick % len(ends)].set()
            elif step == "cancel" and tasks:
                tasks[pick % len(tasks)].cancel()
            elif step == "time":
                await clock.advance(pick / 5)
            elif step == "turn":
                await asyncio.sleep(0)
        await clock.advance(2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 2
        assert limit.limit.in_flight == limit.limit.waiting == running == 0

    asyncio.run(history())


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


async def test_each_combination_of_keys_has_places_of_its_own(clock: ManualClock) -> None:
    app = Held()
    limit = limited(app, clock, max_in_flight=1, key=["header:X-User", "path"])
    one, two = (ask(limit, headers=[(b"x-user", b"one")], path=path) for path in ("/a", "/b"))
    await settle()
    assert (await request(limit, headers=[(b"x-user", b"one")], path="/b")).status == 503
    app.ends.set()
    assert [(await each).status for each in (one, two)] == [200, 200]


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


async def test_in_shadow_mode_the_queue_counts_as_room(clock: ManualClock) -> None:
    app, runtime = Held(), Runtime(clock=clock)
    limit = ConcurrencyLimitMiddleware(app, max_in_flight=1, queue=2, mode="shadow", runtime=runtime)
    exchanges = [Exchange() for _ in range(4)]
    tasks = [ask(limit, **{EXCHANGE: exchange}) for exchange in exchanges]
    await settle()
    app.ends.set()
    assert [(await task).status for task in tasks] == [200] * 4
    assert [exchange.would_reject for exchange in exchanges] == [(), (), (), ("concurrency_limit",)]


async def test_a_raised_limit_lets_those_in_who_wait(clock: ManualClock) -> None:
    held, begins = Held(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begins.wait()
        await held(scope, receive, send)

    limit = limited(app, clock, adaptive={"latency": 1, "initial": 1}, queue=1)
    streams = [ask(limit), ask(limit)]
    await settle()
    assert limit.limit.waiting == 1
    begins.set()
    await settle()
    assert held.entered == 2  # the first still streams, but its answer began in time
    held.ends.set()
    assert [(await stream).status for stream in streams] == [200, 200]


OPEN = Problem(503, Failure("circuit_open", "gateway"), "open")
LEFT = Problem(400, Failure("client_disconnected", "client"), "left")
UNREACHABLE = Problem(502, Failure("connect", "upstream"), "unreachable")


@pytest.mark.parametrize(
    ("answer", "limit_then"),
    [
        (500, 1),
        (429, 1),
        (UNREACHABLE, 1),
        (RuntimeError("a bug"), 1),
        (OPEN, 2),
        (LEFT, 2),
        (ResponseAborted(Failure("reset", "upstream")), 1),
        (ResponseAborted(Failure("draining", "gateway")), 2),
        (ClientDisconnected(), 2),
        (404, 2),
    ],
    ids=repr,
)
async def test_what_is_the_services_failure_lowers_an_adaptive_limit(
    answer: Any, limit_then: int, clock: ManualClock
) -> None:
    limit = limited(ScriptedApp(answer), clock, adaptive={"latency": 1, "initial": 2, "decrease": 0.5})
    for _ in range(2):
        clock.shift(0.1)
        with contextlib.suppress(RuntimeError, ResponseAborted, ClientDisconnected):
            await request(limit, **{EXCHANGE: Exchange()})
    assert limit.limit.limit == limit_then  # never 3: one at a time does not use two up


async def test_a_failure_without_an_answer_lowers_it_and_a_cancellation_does_not(clock: ManualClock) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def after_cancelling(failure: Failure | None) -> int:
        limit = limited(endless, clock, adaptive={"latency": 1, "initial": 2, "decrease": 0.5})
        for _ in range(2):
            exchange = Exchange()
            task = ask(limit, **{EXCHANGE: exchange})
            await settle()
            exchange.failure = failure  # as a time limit further out says before it cancels
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return limit.limit.limit

    assert await after_cancelling(Failure("timeout", "upstream")) == 1
    assert await after_cancelling(None) == 2


async def test_late_answers_lower_an_adaptive_limit_while_they_still_stream(clock: ManualClock) -> None:
    ends = asyncio.Event()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        clock.shift(2)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await ends.wait()
        await send({"type": "http.response.body", "body": b""})

    limit = limited(late, clock, adaptive={"latency": "1s", "initial": 2, "decrease": 0.5})
    tasks = [ask(limit) for _ in range(2)]
    await settle()
    assert limit.limit.limit == 1
    ends.set()
    await asyncio.gather(*tasks)


async def test_a_long_stream_that_began_in_time_is_not_late(clock: ManualClock) -> None:
    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        clock.shift(600)
        await send({"type": "http.response.body", "body": b""})

    limit = limited(long, clock, adaptive={"latency": 1, "initial": 2})
    for _ in range(10):
        await request(limit)
    assert limit.limit.limit == 2


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
    [
        {"max_in_flight": 0},
        {"queue": -1},
        {"order": "random"},
        {"key": "nothing"},
        {"key": ["path", "nothing"]},
        {"adaptive": {}},
        {"adaptive": {"latency": 1, "min": 0}},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConcurrencyLimitMiddleware(ScriptedApp(200), **options)


def test_an_adaptive_limit_has_no_fixed_one_beside_it() -> None:
    with pytest.raises(ValueError, match=r"give adaptive\.max"):
        ConcurrencyLimitMiddleware(ScriptedApp(200), adaptive={"latency": 1}, max_in_flight=5)  # type: ignore[arg-type]


def test_without_either_it_is_a_hundred() -> None:
    assert ConcurrencyLimitMiddleware(ScriptedApp(200)).limit.limit == 100


def test_an_adaptive_limit_has_no_key() -> None:
    with pytest.raises(ValueError, match="cannot have a key"):
        ConcurrencyLimitMiddleware(ScriptedApp(200), adaptive={"latency": 1}, key="path")  # type: ignore[arg-type]


def gauges(runtime: Runtime) -> dict[tuple[str, str | None], float]:
    """What each gauge says, by name and the label ``key``."""
    return {(gauge.name, dict(gauge.labels).get("key")): gauge.value for gauge in runtime.metrics.gauges}


async def test_gauges_tell_the_limit_as_it_moves_and_what_is_in_flight(clock: ManualClock) -> None:
    runtime = Runtime(clock=clock, service="ai")
    app = Held()
    adaptive = {"latency": 1, "initial": 10}
    limit = ConcurrencyLimitMiddleware(app, adaptive=adaptive, runtime=runtime)  # type: ignore[arg-type]
    assert {gauge.labels for gauge in runtime.metrics.gauges} == {(("service", "ai"),)}
    tasks = [ask(limit) for _ in range(3)]
    await settle()
    assert gauges(runtime) == {("concurrency_limit", None): 10, ("concurrency_in_flight", None): 3}
    limit.adapt(7)
    app.ends.set()
    await asyncio.gather(*tasks)
    assert gauges(runtime) == {("concurrency_limit", None): 7, ("concurrency_in_flight", None): 0}


async def test_a_limit_by_key_has_one_gauge_for_all_keys(clock: ManualClock) -> None:
    runtime = Runtime(clock=clock)
    app = Held()
    limit = ConcurrencyLimitMiddleware(app, max_in_flight=2, key="path", runtime=runtime)
    tasks = [ask(limit, path=path) for path in ("/a", "/a", "/b")]
    await settle()
    assert gauges(runtime) == {("concurrency_limit", "path"): 2, ("concurrency_in_flight", "path"): 3}
    app.ends.set()
    await asyncio.gather(*tasks)
