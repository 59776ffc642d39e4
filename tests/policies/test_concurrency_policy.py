"""Places, who waits for them, and a limit that finds itself."""

import heapq
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


def test_a_waiter_that_has_its_place_cannot_abandon_it() -> None:
    limit = ConcurrencyLimit(1, 1)
    limit.acquire()
    limit.enqueue("late")
    assert limit.release() == ["late"]
    assert not limit.abandon("late")
    assert limit.in_flight == 1


# The adaptive limit


def told(limit: AdaptiveLimit, times: int, *, seconds: float = 0.1, failed: bool = False) -> int:
    for number in range(times):
        limit.ended(
            began_at=float(number), now=float(number), seconds=seconds, failed=failed, in_flight=limit.limit
        )
    return limit.limit


def test_it_grows_by_one_a_round_in_which_it_was_used_up() -> None:
    assert told(AdaptiveLimit(Adaptive(initial=10)), 11) == 11


def test_it_does_not_grow_where_it_was_not_used_up() -> None:
    limit = AdaptiveLimit(Adaptive(initial=10))
    for _ in range(100):
        limit.ended(began_at=0, now=0, seconds=0.1, failed=False, in_flight=9)
    assert limit.limit == 10


def test_a_failure_and_a_late_answer_take_a_part_of_it() -> None:
    assert told(AdaptiveLimit(Adaptive(initial=10)), 1, failed=True) == 9
    assert told(AdaptiveLimit(Adaptive(initial=10, latency=0.2)), 1, seconds=0.3) == 9


def test_one_round_takes_a_part_once() -> None:
    limit = AdaptiveLimit(Adaptive(initial=10))
    for _ in range(10):  # all began before the first of them failed
        limit.ended(began_at=0.0, now=1.0, seconds=0.1, failed=True, in_flight=10)
    assert limit.limit == 9


@given(calls=st.lists(st.tuples(st.floats(0.001, 10), st.booleans()), max_size=200))
def test_it_stays_within_its_bounds(calls: list[tuple[float, bool]]) -> None:
    limit = AdaptiveLimit(Adaptive(min=3, initial=5, max=8))
    for number, (seconds, failed) in enumerate(calls):
        assert 3 <= limit.limit <= 8
        now = float(number)
        limit.ended(began_at=now, now=now, seconds=seconds, failed=failed, in_flight=limit.limit)


def useful_share(
    limited: bool, *, capacity: int = 10, service_time: float = 0.1, patience: float = 0.5
) -> float:
    """The part of a service's capacity that answers clients in time, under twice the load it can take.

    The service works on `capacity` calls at once and keeps all others waiting, so without a limit each one
    waits longer than the one before, its client has left, and the work is for nothing.
    """
    adaptive = AdaptiveLimit(Adaptive(initial=50))
    places = ConcurrencyLimit(adaptive.limit if limited else 10**9)
    busy: list[float] = [0.0] * capacity  # when each part of the service is free
    ends: list[tuple[float, float]] = []
    rate, seconds = 2 * capacity / service_time, 60.0
    useful = 0
    for number in range(int(rate * seconds)):
        now = number / rate
        while ends and ends[0][0] <= now:
            ended_at, began_at = heapq.heappop(ends)
            took = ended_at - began_at
            useful += took <= patience and ended_at > seconds / 6
            in_flight = places.in_flight
            places.release()
            if limited:
                places.limit = adaptive.ended(
                    began_at=began_at, now=ended_at, seconds=took, failed=took > patience, in_flight=in_flight
                )
        if places.acquire():
            ends_at = max(now, heapq.heappop(busy)) + service_time
            heapq.heappush(busy, ends_at)
            heapq.heappush(ends, (ends_at, now))
    return useful / (capacity / service_time * seconds * 5 / 6)


def test_under_twice_the_capacity_useful_work_stays_at_nine_tenths_of_it() -> None:
    assert useful_share(limited=True) >= 0.9
    assert useful_share(limited=False) < 0.1


@pytest.mark.parametrize(
    "options", [{"min": 0}, {"initial": 2000}, {"decrease": 1.0}, {"tolerance": 1.0}, {"min": 30}]
)
def test_bounds_that_cannot_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must lie"):
        Adaptive(**options)


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
