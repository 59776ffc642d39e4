"""The three ways of counting, held against what they promise and against the `limits` package.

Times are multiples of an eighth of a second, which floating point keeps exactly, so that a border is
a border.
"""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from limits import RateLimitItemPerHour
from limits.aio import strategies as oracle
from limits.aio.storage import MemoryStorage

from asgi_gateway.policies.limit import COUNTERS, Counter, hit_all
from asgi_gateway.policies.window import (
    FixedWindow,
    MovingWindow,
    SlidingWindow,
    Window,
    tightest,
)

EIGHTH = 0.125
LIMITS = st.integers(1, 12)
PERIODS = st.sampled_from([1, 2, 10, 60])
SCHEDULES = st.lists(
    st.tuples(st.integers(0, 200).map(lambda n: n * EIGHTH), st.integers(1, 3)), min_size=1, max_size=60
)
STARTS = st.sampled_from([0.0, 59.875, 1000.0, 12345678.125])
every_counter = pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS.keys())


def run(
    counter: Counter, limit: int, start: float, schedule: list[tuple[float, int]]
) -> list[tuple[float, int, Window]]:
    """Hits at the given gaps and costs; when each came, its cost, and what was said."""
    now = start
    history = []
    for gap, cost in schedule:
        now += gap
        history.append((now, cost, counter.hit(now, limit, cost)))
    return history


@every_counter
def test_a_burst_passes_up_to_the_limit(counter: type[Counter]):
    one = counter(60)
    windows = [one.hit(1000.0, 100) for _ in range(101)]
    assert [window.allowed for window in windows] == [True] * 100 + [False]
    assert [window.remaining for window in windows] == [*range(99, -1, -1), 0]


@every_counter
@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SCHEDULES)
def test_waiting_retry_after_succeeds_and_less_does_not(
    counter: type[Counter], limit: int, period: int, start: float, schedule: list[tuple[float, int]]
):
    one = counter(period)
    history = run(one, limit, start, schedule)
    for _, _, window in history:
        assert window.allowed == (window.retry_after == 0)
        assert window.allowed or window.retry_after > 0
    now, cost, window = history[-1]
    if window.allowed or cost > limit:
        return
    earlier = now + window.retry_after - 2e-6
    if earlier > now:
        assert not one.peek(earlier, limit, cost).allowed
    assert one.peek(now + window.retry_after, limit, cost).allowed
    assert one.hit(now + math.ceil(window.retry_after), limit, cost).allowed


@every_counter
@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SCHEDULES)
def test_after_reset_the_whole_limit_is_free(
    counter: type[Counter], limit: int, period: int, start: float, schedule: list[tuple[float, int]]
):
    one = counter(period)
    now, _, window = run(one, limit, start, schedule)[-1]
    assert window.reset_after >= 0
    assert window.reset_after >= window.retry_after - 2e-6 or window.retry_after == math.inf
    assert one.peek(now + window.reset_after + 2e-6, limit, limit).remaining == limit


@every_counter
@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SCHEDULES, cost=st.integers(1, 14))
def test_a_peek_says_what_the_hit_says_and_counts_nothing(
    counter: type[Counter],
    limit: int,
    period: int,
    start: float,
    schedule: list[tuple[float, int]],
    cost: int,
):
    one = counter(period)
    now = run(one, limit, start, schedule)[-1][0]
    first = one.peek(now, limit, cost)
    assert one.peek(now, limit, cost) == first
    assert one.fits(now, limit, cost) == first.allowed
    assert one.hit(now, limit, cost).allowed == first.allowed
    assert not first.allowed or one.peek(now, limit).remaining == max(0, first.remaining - cost)


@every_counter
@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SCHEDULES)
def test_a_hit_says_what_a_peek_right_after_it_says(
    counter: type[Counter], limit: int, period: int, start: float, schedule: list[tuple[float, int]]
):
    """A hit that leaves room is worked out by itself; whoever looks is told by the general rule."""
    one = counter(period)
    now = start
    for gap, cost in schedule:
        now += gap
        said = one.hit(now, limit, cost)
        after = one.peek(now, limit, 1)
        assert (said.limit, said.remaining) == (after.limit, after.remaining)
        assert said.reset_after == pytest.approx(after.reset_after, abs=1e-6)


@every_counter
def test_a_refused_hit_is_not_counted(counter: type[Counter]):
    one = counter(60)
    one.hit(1000.0, 10, 8)
    assert not one.hit(1000.0, 10, 3).allowed
    assert one.hit(1000.0, 10, 2).allowed


@every_counter
def test_a_cost_above_the_limit_never_passes(counter: type[Counter]):
    window = counter(60).hit(1000.0, 10, 11)
    assert not window.allowed
    assert window.retry_after == math.inf


@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SCHEDULES)
def test_a_fixed_window_never_holds_more_than_the_limit(
    limit: int, period: int, start: float, schedule: list[tuple[float, int]]
):
    begun, count = -math.inf, 0
    for now, cost, window in run(FixedWindow(period), limit, start, schedule):
        if now >= begun + period:
            count = 0
        assert window.allowed == (count + cost <= limit)
        if window.allowed:
            begun = begun if count else now
            count += cost
        assert window.remaining == limit - count


@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SCHEDULES)
def test_no_period_holds_more_than_a_moving_window_allows(
    limit: int, period: int, start: float, schedule: list[tuple[float, int]]
):
    passed: list[tuple[float, int]] = []
    for now, cost, window in run(MovingWindow(period), limit, start, schedule):
        recent = sum(cost for at, cost in passed if at > now - period)
        assert window.allowed == (recent + cost <= limit)
        if window.allowed:
            passed.append((now, cost))


@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SCHEDULES)
@example(limit=1, period=1, start=0.0, schedule=[(0.0, 1), (1.0, 1)])
@example(limit=3, period=60, start=1000.0, schedule=[(0.0, 3), (60.0, 1), (20.0, 1)])
def test_a_sliding_window_decides_by_the_formula_of_limits(
    limit: int, period: int, start: float, schedule: list[tuple[float, int]]
):
    counts: dict[int, int] = {}
    for now, cost, window in run(SlidingWindow(period), limit, start, schedule):
        index = int(now // period)
        left = Fraction((index + 1) * period) - Fraction(now)
        weighted = counts.get(index - 1, 0) * left / period + counts.get(index, 0)
        assert window.allowed == (math.floor(weighted) + cost <= limit)
        if window.allowed:
            counts[index] = counts.get(index, 0) + cost
            weighted += cost
        assert window.remaining == max(0, limit - math.floor(weighted))


def test_at_the_border_itself_a_sliding_window_still_weighs_in_full():
    one = SlidingWindow(60)
    one.hit(0.0, 1)
    assert not one.fits(60.0, 1)
    assert not one.peek(60.0, 1).allowed
    assert not one.hit(60.0, 1).allowed
    assert one.fits(60.125, 1)


@pytest.mark.parametrize(
    ("counter", "limiter"),
    [
        (FixedWindow, oracle.FixedWindowRateLimiter),
        (SlidingWindow, oracle.SlidingWindowCounterRateLimiter),
        (MovingWindow, oracle.MovingWindowRateLimiter),
    ],
)
@pytest.mark.parametrize("cost", [1, 3])
async def test_a_burst_is_decided_as_limits_decides_it(
    counter: type[Counter], limiter: type[oracle.RateLimiter], cost: int
):
    theirs = limiter(MemoryStorage())
    item = RateLimitItemPerHour(10)
    one = counter(3600)
    expected = [await theirs.hit(item, "key", cost=cost) for _ in range(12)]
    assert {True, False} == set(expected)
    assert [one.hit(7200.0, 10, cost).allowed for _ in range(12)] == expected


SETTLED = st.lists(
    st.tuples(
        st.just(0.0) | st.integers(0, 200).map(lambda n: n * EIGHTH),
        st.integers(1, 3),
        st.none() | st.tuples(st.integers(0, 4), st.integers(0, 30)),
    ),
    min_size=1,
    max_size=60,
)
"""The gap to the hit before, its cost, and after it perhaps how many hits ago one is settled, and at what."""

Settlements = list[tuple[float, int, tuple[int, int] | None]]


class Books:
    """What is counted, kept as a list of when what counts was taken, and how much of it."""

    def __init__(self, counter: Counter, limit: int) -> None:
        self.counter = counter
        self.limit = limit
        self.entries: list[tuple[float, int]] = []
        self.reserved: list[tuple[float, int]] = []

    def hit(self, now: float, cost: int) -> None:
        if self.counter.hit(now, self.limit, cost).allowed:
            self.entries.append((now, cost))
            self.reserved.append((now, cost))

    def settle(self, now: float, ago: int, actual: int) -> None:
        if ago >= len(self.reserved):
            return
        taken_at, cost = self.reserved.pop(-1 - ago)
        self.counter.settle(now, actual - cost, taken_at)
        self.entries.append((now if actual > cost else taken_at, actual - cost))

    def since(self, moment: float) -> int:
        return sum(cost for at, cost in self.entries if at >= moment)


def settled(counter: Counter, limit: int, start: float, schedule: Settlements) -> tuple[float, Books]:
    now, books = start, Books(counter, limit)
    for gap, cost, settlement in schedule:
        now += gap
        books.hit(now, cost)
        if settlement is not None:
            now += gap
            books.settle(now, *settlement)
    return now, books


@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SETTLED)
@example(limit=12, period=10, start=0.0, schedule=[(0.0, 1, None), (0.0, 3, (0, 0))])
def test_a_moving_window_counts_what_was_settled_in_the_last_period(
    limit: int, period: int, start: float, schedule: Settlements
):
    counter = MovingWindow(period)
    now, books = settled(counter, limit, start, schedule)
    assert counter.count(now) == sum(cost for at, cost in books.entries if at + period > now)


@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SETTLED)
def test_a_sliding_window_counts_what_was_settled_in_each_window(
    limit: int, period: int, start: float, schedule: Settlements
):
    counter = SlidingWindow(period)
    now, books = settled(counter, limit, start, schedule)
    begun = now // period * period
    previous, _, current, _ = counter.counts(now)
    assert current == books.since(begun)
    assert previous == books.since(begun - period) - books.since(begun)


@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SETTLED)
def test_a_fixed_window_counts_what_was_settled_in_it(
    limit: int, period: int, start: float, schedule: Settlements
):
    counter = FixedWindow(period)
    now, books = settled(counter, limit, start, schedule)
    left = counter.seconds_left(now)
    assert counter.count(now) == (books.since(now + left - period) if left else 0)


@every_counter
@given(limit=LIMITS, period=PERIODS, start=STARTS, schedule=SETTLED)
def test_what_is_told_after_a_settlement_is_as_true_as_before(
    counter: type[Counter], limit: int, period: int, start: float, schedule: Settlements
):
    one = counter(period)
    now, _ = settled(one, limit, start, schedule)
    window = one.peek(now, limit)
    assert 0 <= window.remaining <= limit
    assert window.allowed == (window.retry_after == 0)
    earlier = now + window.retry_after - 2e-6
    assert earlier <= now or not one.peek(earlier, limit).allowed
    assert one.peek(now + window.retry_after, limit).allowed
    assert one.peek(now + window.reset_after + 2e-6, limit, limit).remaining == limit


@every_counter
@given(start=STARTS, gaps=st.tuples(*[st.integers(0, 200).map(lambda n: n * EIGHTH)] * 2))
def test_what_is_given_back_comes_from_no_other_window_and_leaves_nothing_below_zero(
    counter: type[Counter], start: float, gaps: tuple[float, float]
):
    one = counter(10)
    one.hit(start, 100, 5)
    later = start + gaps[0]
    one.hit(later, 100, 3)
    now = later + gaps[1]
    before = one.peek(now, 100).remaining
    one.settle(now, -5, start)
    after = one.peek(now, 100).remaining
    assert before <= after <= min(100, before + 5)
    one.settle(now, -1000, start - 1000)
    assert one.peek(now, 100).remaining == after
    one.settle(now, -1000, later)
    one.settle(now, -1000, start)
    assert one.peek(now, 100).remaining == 100


@every_counter
def test_after_more_than_the_limit_was_settled_later_hits_wait(counter: type[Counter]):
    one = counter(60)
    assert one.hit(1000.0, 10).allowed
    one.settle(1001.0, 24, 1000.0)
    refused = one.hit(1002.0, 10)
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert one.hit(1002.0 + refused.retry_after, 10).allowed


def test_a_moving_window_forgets_a_hit_that_cost_nothing():
    one = MovingWindow(60)
    for at in (1.0, 2.0, 3.0):
        one.hit(at, 10)
    one.settle(4.0, -1, 2.0)
    one.settle(4.0, -1, 3.0)
    assert (one.count(4.0), one.peek(4.0, 10).reset_after) == (1, 57.0)


def test_a_window_says_what_it_would_have_said_of_another_cost():
    said = Window(10, 4, 60.0)
    said.settle(-3)
    assert said.remaining == 7
    said.settle(9)
    assert said.remaining == 0


@given(now=st.floats(1.7e9, 1.8e9), previous=st.integers(0, 50), current=st.integers(0, 50))
async def test_a_sliding_window_weighs_as_limits_weighs(now: float, previous: int, current: int):
    theirs = MemoryStorage()
    await theirs.incr("previous", 7200, previous)
    await theirs.incr("current", 7200, current)
    expected = await theirs._get_sliding_window_info("previous", "current", 3600, now)
    ours = SlidingWindow(3600)
    ours.hit(now - 3600, 50, previous)
    ours.hit(now, 200, current)
    assert ours.counts(now) == pytest.approx(expected, abs=1e-3)


def window(*, remaining: int = 5, reset: float = 10.0, retry: float = 0.0) -> Window:
    return Window(10, remaining, reset, retry)


@pytest.mark.parametrize(
    ("looser", "tighter"),
    [
        (window(remaining=6), window(remaining=5)),
        (window(reset=10.0), window(reset=11.0)),
        (window(remaining=0), window(remaining=3, retry=1.0)),
        (window(retry=1.0), window(retry=2.0)),
    ],
)
def test_the_window_that_binds_is_the_tightest(looser: Window, tighter: Window):
    assert tightest(looser, tighter) is tighter
    assert tightest(tighter, looser) is tighter


def test_several_limits_count_only_where_all_allow():
    small, large = FixedWindow(1), FixedWindow(60)
    counters = [(small, 2), (large, 100)]
    for _ in range(5):
        hit_all(counters, 1000.0)
    assert small.count(1000.0) == 2
    assert large.count(1000.0) == 2


@given(schedule=SCHEDULES, limits=st.lists(LIMITS, min_size=1, max_size=3))
def test_several_limits_allow_what_each_allows(schedule: list[tuple[float, int]], limits: list[int]):
    counters: list[tuple[Counter, int]] = [(MovingWindow(n + 1), limit) for n, limit in enumerate(limits)]
    now = 1000.0
    for gap, cost in schedule:
        now += gap
        each = [counter.peek(now, limit, cost) for counter, limit in counters]
        together = hit_all(counters, now, cost)
        assert together.allowed == all(window.allowed for window in each)
        if not together.allowed:
            assert together.retry_after == max(window.retry_after for window in each)
            assert together.retry_after == math.inf or all(
                counter.fits(now + together.retry_after, limit, cost) for counter, limit in counters
            )
