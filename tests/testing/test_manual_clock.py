import asyncio

import pytest

from asgi_gateway.testing import ManualClock, settle


async def test_time_stands_still_until_it_is_moved(clock: ManualClock) -> None:
    assert (clock.monotonic(), clock.wall()) == (1000.0, 1_700_000_000.0)
    await clock.advance(2.5)
    clock.shift(0.5)
    assert (clock.monotonic(), clock.wall()) == (1003.0, 1_700_000_003.0)


async def test_sleepers_wake_in_the_order_of_their_times(clock: ManualClock) -> None:
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(*pair)) for pair in (("late", 3.0), ("early", 1.0), ("never", 9.0))]
    await clock.advance(0.9)
    assert woken == []
    assert clock.pending == pytest.approx([0.1, 2.1, 8.1])
    await clock.advance(5)
    assert woken == [("early", 1001.0), ("late", 1003.0)]
    tasks[2].cancel()
    await settle()
    assert clock.pending == []


async def test_a_sleeper_that_sleeps_again_is_woken_within_one_advance(clock: ManualClock) -> None:
    async def twice() -> float:
        await clock.sleep(1)
        await clock.sleep(1)
        return clock.monotonic()

    task = asyncio.create_task(twice())
    await clock.advance(2)
    assert await task == 1002.0


async def test_no_time_at_all_only_yields(clock: ManualClock) -> None:
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.pending == []


async def test_calls_come_once_and_can_be_taken_back(clock: ManualClock) -> None:
    calls: list[str] = []
    clock.call_later(1, calls.append, "kept")
    clock.call_later(1, calls.append, "cancelled").cancel()
    await clock.advance(1)
    await clock.advance(1)
    assert calls == ["kept"]


async def test_a_timeout_cancels_its_block(clock: ManualClock) -> None:
    async def limited() -> None:
        async with clock.timeout(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(limited())
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.1)
    with pytest.raises(TimeoutError):
        await task


async def test_a_timeout_in_time_leaves_nothing_behind(clock: ManualClock) -> None:
    async with clock.timeout(5):
        pass
    assert clock.pending == []
    await clock.advance(10)


async def test_an_outer_cancellation_is_not_a_timeout(clock: ManualClock) -> None:
    async def limited() -> None:
        async with clock.timeout(5):
            await asyncio.Event().wait()

    task = asyncio.create_task(limited())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.pending == []
