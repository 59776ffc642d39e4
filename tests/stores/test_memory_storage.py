"""The storage by its own call, and under the strategies of `limits`."""

import limits.storage
import pytest
from limits import RateLimitItemPerMinute
from limits.aio import strategies

from asgi_gateway.policies.limit import COUNTERS, Limit
from asgi_gateway.policies.window import FixedWindow, MovingWindow, SlidingWindow
from asgi_gateway.stores.memory import BoundedMemoryStorage
from asgi_gateway.testing import ManualClock

MINUTE = RateLimitItemPerMinute(3)
LIMITERS = [
    strategies.FixedWindowRateLimiter,
    strategies.SlidingWindowCounterRateLimiter,
    strategies.MovingWindowRateLimiter,
]
every_limiter = pytest.mark.parametrize("limiter", LIMITERS)
every_kind = pytest.mark.parametrize("kind", COUNTERS.values(), ids=COUNTERS.keys())


@pytest.fixture
def storage(clock: ManualClock) -> BoundedMemoryStorage:
    return BoundedMemoryStorage(clock=clock)


def test_keys_are_counted_apart(storage: BoundedMemoryStorage):
    limit = [Limit(SlidingWindow, 1, 60)]
    assert storage.hit(limit, "a").allowed
    assert not storage.hit(limit, "a").allowed
    assert storage.hit(limit, "b").allowed


def test_limits_on_one_key_are_counted_apart(storage: BoundedMemoryStorage):
    assert storage.hit([Limit(FixedWindow, 1, 60)], "a").allowed
    assert storage.hit([Limit(FixedWindow, 2, 60)], "a").allowed
    assert storage.hit([Limit(FixedWindow, 1, 30)], "a").allowed
    assert storage.hit([Limit(MovingWindow, 1, 60)], "a").allowed
    assert not storage.hit([Limit(FixedWindow, 1, 60)], "a").allowed


def test_of_several_limits_the_tightest_is_reported(storage: BoundedMemoryStorage):
    both = [Limit(MovingWindow, 100, 60), Limit(MovingWindow, 2, 1)]
    assert [storage.hit(both, "a").limit for _ in range(3)] == [2, 2, 2]
    assert storage.hit(both[:1], "a").remaining == 97


@every_kind
@pytest.mark.parametrize("amounts", [[2], [2, 3], [3, 2]], ids=str)
def test_counting_says_and_keeps_what_hit_does(
    kind: type[FixedWindow], amounts: list[int], storage: BoundedMemoryStorage, clock: ManualClock
):
    limits = [Limit(kind, amount, 60) for amount in amounts]
    other = BoundedMemoryStorage(clock=clock)
    count = storage.counting(limits, cost=2)
    for seconds in (1, 1, 50, 30, 60):
        assert count("a") == other.hit(limits, "a", 2)
        assert count("b") == other.hit(limits, "b", 2)
        clock.shift(seconds)
    assert len(storage) == len(other) == 2 * len(limits)
    assert count("a") == other.hit(limits, "a", 2)
    storage.hit(limits, "a", 2)
    assert not count("a").allowed  # one counter, whichever way it is asked


def test_time_frees_what_it_counted(storage: BoundedMemoryStorage, clock: ManualClock):
    limit = [Limit(FixedWindow, 1, 60)]
    storage.hit(limit, "a")
    assert storage.hit(limit, "a").retry_after == 60.0
    clock.shift(60)
    assert storage.hit(limit, "a").allowed


def test_a_million_addresses_are_held_in_bounded_memory():
    storage = BoundedMemoryStorage(max_keys=10_000)
    limit = [Limit(SlidingWindow, 100, 60)]
    for address in range(1_000_000):
        storage.hit(limit, address)
    assert len(storage) == 10_000


@every_kind
def test_the_least_recently_used_key_is_forgotten(kind: type[FixedWindow], clock: ManualClock):
    storage = BoundedMemoryStorage(max_keys=2, clock=clock)
    limit = [Limit(kind, 1, 60)]
    count = storage.counting(limit)
    for key in ("a", "b", "a", "c"):
        count(key)
    assert not storage.hit(limit, "a").allowed
    assert storage.hit(limit, "b").allowed


def test_limits_finds_it_by_its_scheme():
    storage = limits.storage.storage_from_string("async+bounded-memory://", max_keys=7)
    assert isinstance(storage, BoundedMemoryStorage)
    assert storage.max_keys == 7


@every_limiter
async def test_a_strategy_of_limits_allows_what_the_limit_says(
    limiter: type[strategies.RateLimiter], storage: BoundedMemoryStorage
):
    minute = limiter(storage)
    assert [await minute.hit(MINUTE, "a") for _ in range(4)] == [True, True, True, False]
    assert not await minute.test(MINUTE, "a")
    assert await minute.test(MINUTE, "b")


@every_limiter
async def test_a_strategy_of_limits_reports_what_remains(
    limiter: type[strategies.RateLimiter], storage: BoundedMemoryStorage
):
    minute = limiter(storage)
    assert (await minute.get_window_stats(MINUTE, "a")).remaining == 3
    await minute.hit(MINUTE, "a", cost=2)
    assert (await minute.get_window_stats(MINUTE, "a")).remaining == 1


@every_limiter
async def test_a_strategy_of_limits_allows_again_after_two_periods(
    limiter: type[strategies.RateLimiter], storage: BoundedMemoryStorage, clock: ManualClock
):
    minute = limiter(storage)
    await minute.hit(MINUTE, "a", cost=3)
    clock.shift(120)
    assert await minute.hit(MINUTE, "a", cost=3)


@every_limiter
async def test_a_strategy_of_limits_can_clear_a_key(
    limiter: type[strategies.RateLimiter], storage: BoundedMemoryStorage
):
    minute = limiter(storage)
    await minute.hit(MINUTE, "a", cost=3)
    await minute.clear(MINUTE, "a")
    assert await minute.hit(MINUTE, "a", cost=3)


@pytest.mark.parametrize("limiter", [strategies.FixedWindowRateLimiter, strategies.MovingWindowRateLimiter])
async def test_reset_times_are_dates(
    limiter: type[strategies.RateLimiter], storage: BoundedMemoryStorage, clock: ManualClock
):
    minute = limiter(storage)
    await minute.hit(MINUTE, "a")
    hit_at = clock.wall()
    clock.shift(20)
    assert (await minute.get_window_stats(MINUTE, "a")).reset_time == pytest.approx(hit_at + 60)


async def test_an_unknown_key_has_nothing_to_wait_for(storage: BoundedMemoryStorage, clock: ManualClock):
    assert await storage.get("nobody") == 0
    assert await storage.get_expiry("nobody") == clock.wall()
    assert await storage.get_moving_window("nobody", 1, 60) == (clock.wall(), 0)


async def test_reset_forgets_everything(storage: BoundedMemoryStorage):
    await storage.incr("a", 60)
    storage.hit([Limit(MovingWindow, 1, 60)], "a")
    assert await storage.check()
    assert await storage.reset() == 2
    assert len(storage) == 0


def test_a_settlement_outlives_the_counter_that_it_was_reserved_from(clock: ManualClock):
    storage = BoundedMemoryStorage(max_keys=2, clock=clock)
    reserve = storage.reserving([Limit(MovingWindow, 10, 60)], 4)
    (_, more), (_, less) = reserve("a"), reserve("a")
    for other in ("b", "c"):
        reserve(other)
    clock.shift(1)
    more(9)
    less(0)
    assert len(storage) == 2
    window, _ = reserve("a")
    assert (window.allowed, window.remaining) == (True, 1)
