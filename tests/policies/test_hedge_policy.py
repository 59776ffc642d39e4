from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.hedge import ENOUGH, HedgeDelay, Percentile


@given(
    percentile=st.floats(0.1, 99.9),
    size=st.integers(1, 30),
    values=st.lists(st.floats(0, 100) | st.integers(0, 3).map(float), min_size=1, max_size=200),
)
def test_a_running_percentile_is_that_of_the_latest_values(
    percentile: float, size: int, values: list[float]
) -> None:
    running = Percentile(percentile, size)
    for count, value in enumerate(values, 1):
        running.add(value)
        latest = sorted(values[max(0, count - size) : count])
        assert len(running) == len(latest)
        assert running.value == latest[max(0, ceil(percentile / 100 * len(latest)) - 1)]


@pytest.mark.parametrize(("percentile", "value"), [(1, 1), (50, 50), (95, 95), (99.5, 100)])
def test_of_a_hundred_it_is_the_one_of_that_rank(percentile: float, value: float) -> None:
    running = Percentile(percentile)
    for number in range(100, 0, -1):
        running.add(number)
    assert running.value == value


def test_until_enough_is_known_the_fixed_delay_holds() -> None:
    delay = HedgeDelay(2.0, 95)
    for _ in range(ENOUGH - 1):
        delay.answered(0.1)
    assert delay.seconds == 2.0
    delay.answered(0.1)
    assert delay.seconds == 0.1


def test_without_a_percentile_it_is_always_the_fixed_one() -> None:
    delay = HedgeDelay(2.0)
    for _ in range(ENOUGH * 2):
        delay.answered(0.1)
    assert delay.seconds == 2.0
