"""The budget against a model that remembers every request and every retry."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from asgi_gateway.policies.retry_budget import SLICES, Budget, RetryBudget

HISTORY = st.lists(
    st.tuples(st.floats(0, 30) | st.integers(0, 12).map(float), st.booleans()), min_size=1, max_size=300
)
BUDGET = st.builds(
    Budget,
    ratio=st.floats(0, 1),
    window=st.sampled_from([1.0, 10.0, 60.0]),
    min_per_second=st.floats(0, 2),
)


class Naive:
    """Remembers everything. What lies at the very edge of a window may be counted or not: time is a float."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.requests: list[float] = []
        self.retries: list[float] = []

    def requests_within(self, now: float) -> int:
        return sum(1 for time in self.requests if time > now - self.budget.window - 1e-6)

    def retries_within(self, now: float) -> int:
        return sum(1 for time in self.retries if time > now - self.budget.window + 1e-6)


@given(budget=BUDGET, history=HISTORY)
def test_no_retry_is_allowed_past_the_ratio_and_the_floor(
    budget: Budget, history: list[tuple[float, bool]]
) -> None:
    tested, model = RetryBudget(budget), Naive(budget)
    now = 1000.0
    for pause, wants_retry in history:
        now += pause / 10
        if not wants_retry:
            tested.requested(now)
            model.requests.append(now)
        elif tested.spend(now):
            model.retries.append(now)
            allowed = budget.ratio * model.requests_within(now) + budget.min_per_second * budget.window
            assert model.retries_within(now) <= allowed + 1e-6


@given(budget=BUDGET, history=HISTORY)
def test_it_equals_a_model_that_counts_by_slices(budget: Budget, history: list[tuple[float, bool]]) -> None:
    """Time here is whole slices: then the edges of slices are exact, and so is the model."""
    tested = RetryBudget(budget)
    requests: list[int] = []
    retries: list[int] = []
    tick = 0
    for pause, wants_retry in history:
        tick += int(pause) if pause > 20 else 0
        now = 1000.0 + (tick + 0.5) * budget.window / SLICES
        if not requests and not retries:
            tested.requested(1000.0)
            requests.append(0)
        if not wants_retry:
            tested.requested(now)
            requests.append(tick)
            continue
        # after a silence of a whole window the slices begin anew, with nothing in them: the same counts
        counted = sum(1 for at in requests if at > tick - SLICES)
        spent = sum(1 for at in retries if at >= tick - SLICES)
        allowed = spent + 1 <= budget.ratio * counted + budget.min_per_second * budget.window
        quiet = all(at <= tick - SLICES for at in (*requests, *retries))
        if not quiet:
            assert tested.spend(now) == allowed
            if allowed:
                retries.append(tick)


def test_by_default_it_is_a_fifth_and_thirty_in_ten_seconds() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.requested(5.0)
    assert sum(budget.spend(5.0) for _ in range(1000)) == 230


def test_the_floor_is_there_without_any_request() -> None:
    budget = RetryBudget()
    assert [budget.spend(1.0) for _ in range(31)] == [True] * 30 + [False]


def test_what_was_spent_comes_back_when_the_window_has_passed() -> None:
    budget = RetryBudget(Budget(ratio=0, min_per_second=0.1))
    assert [budget.spend(now) for now in (0.0, 0.1, 9.9, 11.1, 11.2)] == [True, False, False, True, False]


def test_requests_of_long_ago_pay_for_nothing() -> None:
    budget = RetryBudget(Budget(ratio=1, min_per_second=0))
    budget.requested(0.0)
    assert not budget.spend(100.0)


@pytest.mark.parametrize("days", [1, 1000])
def test_a_long_silence_costs_nothing(days: int) -> None:
    budget = RetryBudget()
    budget.requested(0.0)
    budget.requested(days * 86400.0)
    assert budget.spend(days * 86400.0)


@pytest.mark.parametrize(
    "options", [{"ratio": 1.1}, {"ratio": -0.1}, {"window": 0}, {"min_per_second": -1}, {"raito": 0.1}]
)
def test_mistakes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Budget).validate_python(options)


def test_yaml_may_write_durations() -> None:
    assert TypeAdapter(Budget).validate_python({"window": "1m"}) == Budget(window=60.0)
