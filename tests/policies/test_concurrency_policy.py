"""Places, who waits for them, and a limit that finds itself."""

import heapq
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.adaptive_limit import Adaptive, AdaptiveLimit
from asgi_gateway.policies.concurrency import ConcurrencyLimit
from asgi_gateway.policies.load_shed import LoadShed


def test_no_more_than_the_limit_get_a_place() -> None:
    limit = ConcurrencyLimit(2)
    assert [limit.acquire() for _ in range(3)] == [True, True, False]
    assert limit.release() == []
    assert limit.acquire()


@pytest.mark.parametrize(("order", "served"), [("fifo", ["a", "b"]), ("lifo", ["b", "a"])])
def test_those_who_wait_are_served_in_order(order: Any, served: list[str]) -> None:
    limit = ConcurrencyLimit(1, 2, order)
    limit.acquire()
    assert [limit.enqueue(waiter) for waiter in "abc"] == [True, True, False]
    assert not limit.acquire()
    assert [*limit.release(), *limit.release()] == served


def test_a_higher_limit_lets_those_in_who_wait_and_a_lower_one_nobody() -> None:
    limit = ConcurrencyLimit(1, 3)
    limit.acquire()
    for waiter in "abc":
        limit.enqueue(waiter)
    limit.limit = 3
    assert limit.admit() == ["a", "b"]
    limit.limit = 1
    assert limit.release() == []
    assert limit.release() == []
    assert limit.release() == ["c"]


@given(
    limit=st.integers(1, 4),
    queue=st.integers(0, 3),
    order=st.sampled_from(["fifo", "lifo"]),
    steps=st.lists(st.tuples(st.sampled_from("callend abandon".split()), st.integers(0, 9)), max_size=60),  # noqa: SIM905
)
def test_any_history_keeps_the_limit_and_loses_no_place(
    limit: int, queue: int, order: Any, steps: list[tuple[str, int]]
) -> None:
    places = ConcurrencyLimit(limit, queue, order)
    inside: list[int] = []
    waiting: list[int] = []
    for name, (step, pick) in enumerate(steps):
        if step == "callend":
            if pick < 5 or not inside:
                if places.acquire():
                    inside.append(name)
                elif places.enqueue(name):
                    waiting.append(name)
            else:
                inside.pop(pick % len(inside))
                for admitted in places.release():
                    assert admitted == (waiting[0] if order == "fifo" else waiting[-1])
                    waiting.remove(admitted)  # type: ignore[arg-type]
                    inside.append(admitted)  # type: ignore[arg-type]
        elif waiting:
            assert places.abandon(waiting.pop(pick % len(waiting)))
        assert places.in_flight == len(inside) <= limit
        assert places.waiting == len(waiting) <= queue
        assert not waiting or len(inside) == limit  # nobody waits beside a free place


def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    limit = ConcurrencyLimit(1, 2)
    limit.acquire()
    limit.enqueue("first")
    limit.limit = 2  # free, and not given yet
    assert not limit.acquire()
    assert limit.admit() == ["first"]


def test_it_tells_what_the_queue_could_not_have_held() -> None:
    limit = ConcurrencyLimit(1, 2)
    limit.acquire()
    assert [limit.exceed() for _ in range(3)] == [False, False, True]


def test_a_waiter_that_has_its_place_cannot_abandon_it() -> None:
    limit = ConcurrencyLimit(1, 1)
    limit.acquire()
    limit.enqueue("late")
    assert limit.release() == ["late"]
    assert not limit.abandon("late")
    assert limit.in_flight == 1


# The adaptive limit


def a_round(
    limit: AdaptiveLimit, now: float, *, bad: int = 0, seconds: float = 0.1, in_flight: int | None = None
) -> int:
    """Tell of as many calls as the limit, all begun at `now`; `bad` of them failed."""
    for number in range(limit.limit):
        limit.answered(
            began_at=now, now=now + seconds, failed=number < bad, in_flight=in_flight or limit.limit
        )
    return limit.limit


def adaptive(**bounds: Any) -> AdaptiveLimit:
    return AdaptiveLimit(Adaptive(**{"latency": 0.2, "initial": 10, **bounds}))


def test_it_grows_by_one_a_round_in_which_it_was_used_up() -> None:
    limit = adaptive()
    assert [a_round(limit, now) for now in (0.0, 1.0)] == [11, 12]


def test_it_does_not_grow_where_it_was_not_used_up() -> None:
    limit = adaptive()
    assert [a_round(limit, float(now), in_flight=9) for now in range(20)] == [10] * 20


def test_more_than_a_tenth_of_a_round_takes_a_part_of_it_and_a_tenth_does_not() -> None:
    assert a_round(adaptive(), 0.0, bad=1) == 11
    assert a_round(adaptive(), 0.0, bad=2) == 9
    assert a_round(adaptive(), 0.0, seconds=0.3) == 9


def test_what_began_before_the_last_step_does_not_count() -> None:
    limit = adaptive()
    assert a_round(limit, 0.0, bad=10) == 9
    for _ in range(100):
        assert limit.answered(began_at=0.05, now=9.0, failed=True, in_flight=10) == 9
    assert a_round(limit, 10.0) == 10


@given(calls=st.lists(st.tuples(st.floats(0.001, 10), st.booleans()), max_size=200))
def test_it_stays_within_its_bounds(calls: list[tuple[float, bool]]) -> None:
    limit = adaptive(min=3, initial=5, max=8)
    for number, (seconds, failed) in enumerate(calls):
        assert 3 <= limit.limit <= 8
        now = float(number)
        limit.answered(began_at=now, now=now + seconds, failed=failed, in_flight=limit.limit)


@given(st.lists(st.tuples(st.floats(0.001, 10), st.booleans()), max_size=200))
def test_from_any_history_it_comes_back_once_the_service_does(calls: list[tuple[float, bool]]) -> None:
    limit = adaptive(max=50)
    for number, (seconds, failed) in enumerate(calls):
        limit.answered(began_at=float(number), now=number + seconds, failed=failed, in_flight=limit.limit)
    for number in range(51):
        a_round(limit, 1000.0 + number)
    assert limit.limit == 50


CAPACITY, USUAL, PATIENCE = 50, 0.1, 1.0

SERVICES: dict[str, Callable[[Random], float]] = {
    "always the same": lambda random: USUAL,
    "anything from 20 to 180 ms": lambda random: random.uniform(0.02, 0.18),
    "exponential": lambda random: random.expovariate(1 / USUAL),
    "heavy tail": lambda random: random.lognormvariate(math.log(USUAL) - 0.5, 1.0),
    "some at once, as a 404": lambda random: 0.0005 if random.random() < 0.1 else USUAL / 0.9,
}


def useful_share(draw: Callable[[Random], float], limit: AdaptiveLimit | None) -> float:
    """The part of a service's capacity that answers clients in time, under twice the load it can take.

    The service works on `CAPACITY` calls at once and keeps all others waiting, so without a limit each one
    waits longer than the one before, its client has left, and the work is for nothing.
    """
    random = Random(1)
    places = ConcurrencyLimit(10**9 if limit is None else limit.limit)
    busy = [0.0] * CAPACITY  # when each part of the service is free
    ends: list[tuple[float, float, float]] = []
    now, useful, begins, seconds = 0.0, 0.0, 10.0, 40.0
    while now < seconds:
        now += random.expovariate(2 * CAPACITY / USUAL)
        while ends and ends[0][0] <= now:
            ended_at, began_at, work = heapq.heappop(ends)
            waited = ended_at - began_at - work
            useful += work if waited <= PATIENCE and ended_at > begins else 0.0
            if limit is not None:
                places.limit = limit.answered(
                    began_at=began_at, now=ended_at, failed=False, in_flight=places.in_flight
                )
            places.release()
        if places.acquire():
            work = draw(random)
            ends_at = max(now, heapq.heappop(busy)) + work
            heapq.heappush(busy, ends_at)
            heapq.heappush(ends, (ends_at, now, work))
    return useful / (CAPACITY * (seconds - begins))


@pytest.mark.parametrize("service", SERVICES)
def test_under_twice_the_capacity_useful_work_stays_at_nine_tenths_of_it(service: str) -> None:
    assert useful_share(SERVICES[service], adaptive(latency=0.4, initial=20)) >= 0.9


def test_without_a_limit_next_to_nothing_is_useful() -> None:
    assert useful_share(SERVICES["always the same"], None) < 0.1


@pytest.mark.parametrize(("bounds", "first"), [({}, 20), ({"max": 10}, 10), ({"min": 30}, 30)])
def test_bounds_alone_are_enough(bounds: dict[str, int], first: int) -> None:
    assert AdaptiveLimit(Adaptive(latency=1.0, **bounds)).limit == first


@pytest.mark.parametrize(
    "options",
    [{"min": 0}, {"initial": 2000}, {"decrease": 1.0}, {"min": 30, "max": 20}, {"initial": 30, "max": 20}],
)
def test_bounds_that_cannot_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must lie"):
        Adaptive(latency=1.0, **options)


# Load shedding


def test_nothing_is_refused_up_to_the_lag_that_is_allowed() -> None:
    shed = LoadShed(0.2)
    shed.observed(0.2)
    assert not shed.sheds(0.0)


@given(lag=st.floats(0.2001, 10), random=st.floats(0, 1, exclude_max=True))
def test_the_part_that_is_refused_grows_with_the_lag(lag: float, random: float) -> None:
    shed = LoadShed(0.2)
    shed.observed(lag)
    assert shed.sheds(random) == (random < lag / 0.2 - 1)


def test_a_smaller_lag_is_believed_by_half() -> None:
    shed = LoadShed(0.2)
    for lag in (0.8, 0.0, 0.0):
        shed.observed(lag)
    assert shed.lag == pytest.approx(0.2)
