"""Refusals by how late the event loop is, the loop's timers moved by hand."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from asgi_gateway.context import EXCHANGE, Exchange
from asgi_gateway.middleware.load_shed import INTERVAL, LoadShedMiddleware
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import ManualClock, ScriptedApp, request


async def late(clock: ManualClock, seconds: float) -> None:
    """Let the loop's next look come so much later than it should."""
    clock.shift(INTERVAL + seconds)
    await clock.advance(0)


def shedding(clock: ManualClock, random: float = 0.5, **options: Any) -> LoadShedMiddleware:
    runtime = Runtime(clock=clock, random=lambda: random)
    return LoadShedMiddleware(ScriptedApp(200), max_lag=0.2, runtime=runtime, **options)


async def test_a_loop_in_time_refuses_nobody(clock: ManualClock) -> None:
    shed = shedding(clock, random=0.0)
    for _ in range(5):
        assert (await request(shed)).status == 200
        await clock.advance(INTERVAL)


async def test_a_late_loop_refuses_a_part_that_grows(clock: ManualClock) -> None:
    shed = shedding(clock, random=0.5)
    await request(shed)
    await late(clock, 0.25)  # a quarter
    assert (await request(shed)).status == 200
    await late(clock, 0.4)  # all
    refused = await request(shed)
    assert (refused.status, refused.header("retry-after")) == (503, "1")
    assert refused.header("x-gateway-error") == "overloaded"


async def test_health_is_never_refused(clock: ManualClock) -> None:
    shed = shedding(clock, random=0.0)
    await request(shed)
    await late(clock, 5)
    assert [(await request(shed, path=path)).status for path in ("/health", "/health/live", "/x")] == [
        200,
        200,
        503,
    ]


async def test_a_spelling_of_health_that_leads_elsewhere_is_refused(clock: ManualClock) -> None:
    shed = shedding(clock, random=0.0)
    await request(shed)
    await late(clock, 5)
    assert (await request(shed, path="/health/../api")).status == 503


async def test_the_lag_is_forgotten_when_nobody_asks(clock: ManualClock) -> None:
    shed = shedding(clock, random=0.0)
    await request(shed)
    await late(clock, 5)
    await clock.advance(INTERVAL)
    assert shed.policy.lag == 0
    assert (await request(shed)).status == 200


async def test_in_shadow_mode_nothing_is_refused(clock: ManualClock) -> None:
    shed = shedding(clock, random=0.0, mode="shadow")
    await request(shed)
    await late(clock, 5)
    exchange = Exchange()
    assert (await request(shed, **{EXCHANGE: exchange})).status == 200
    assert exchange.would_reject == ("load_shed",)


async def test_refusals_are_counted(clock: ManualClock) -> None:
    runtime = Runtime(clock=clock, random=lambda: 0.0)
    shed = LoadShedMiddleware(ScriptedApp(200), runtime=runtime)
    await request(shed)
    await late(clock, 5)
    await request(shed)
    assert runtime.counter("load_shed_rejected_total").value == 1


@pytest.mark.parametrize("options", [{"max_lag": 0}, {"exempt": ["health"]}, {"mode": "off"}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoadShedMiddleware(ScriptedApp(200), **options)


def test_it_looks_at_the_loop_that_serves_when_that_is_another() -> None:
    shed = LoadShedMiddleware(ScriptedApp(200))
    asyncio.run(request(shed))
    shed.policy.lag = 10.0  # as late as the loop before was when it ended

    async def in_another_loop() -> int:
        status = (await request(shed)).status
        shed.policy.lag = 10.0
        async with asyncio.timeout(5):
            while shed.policy.lag:
                await asyncio.sleep(0.01)
        return status

    assert asyncio.run(in_another_loop()) == 200
