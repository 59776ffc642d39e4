from asgi_gateway.testing import ManualClock
from asgi_gateway.timers import EqualTimers


class Called:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


async def test_equal_timers_fire_once_each_in_time(clock: ManualClock) -> None:
    timers = EqualTimers(clock, 10)
    first, second = Called(), Called()
    timers.start(first)
    await clock.advance(4)
    timers.start(second)
    await clock.advance(5.9)
    assert (first.times, second.times) == (0, 0)
    await clock.advance(0.1)
    assert (first.times, second.times) == (1, 0)
    await clock.advance(4)
    assert (first.times, second.times) == (1, 1)
    await clock.advance(100)
    assert (first.times, second.times) == (1, 1)


async def test_cancelled_equal_timers_never_fire(clock: ManualClock) -> None:
    timers = EqualTimers(clock, 10)
    cancelled, kept = Called(), Called()
    timers.start(cancelled)
    timers.start(kept)
    timers.cancel(cancelled)
    timers.cancel(cancelled)
    await clock.advance(10)
    assert (cancelled.times, kept.times) == (0, 1)


async def test_equal_timers_need_one_timer_and_leave_none(clock: ManualClock) -> None:
    timers = EqualTimers(clock, 10)
    every = [Called() for _ in range(100)]
    for one in every:
        timers.start(one)
    assert len(clock.pending) == 1
    for one in every:
        timers.cancel(one)
    await clock.advance(10)
    assert clock.pending == []


async def test_an_equal_timer_may_start_the_next(clock: ManualClock) -> None:
    timers = EqualTimers(clock, 10)
    times: list[float] = []

    def again() -> None:
        times.append(clock.monotonic())
        timers.start(again)

    timers.start(again)
    await clock.advance(35)
    assert [time - times[0] for time in times] == [0, 10, 20]
