from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from asgi_gateway.policies.backoff import Backoff

FRACTION = st.floats(0, 1, exclude_max=True)


def test_without_jitter_it_is_one_two_four():
    backoff = Backoff(jitter=0)
    assert [backoff.delay(n, 0.9) for n in (1, 2, 3)] == [1.0, 2.0, 4.0]


def test_the_delay_stops_growing_at_the_maximum():
    backoff = Backoff(max=3.0, jitter=0)
    assert [backoff.delay(n, 0.0) for n in (2, 3, 20)] == [2.0, 3.0, 3.0]


def test_jitter_reaches_as_far_down_as_up():
    backoff = Backoff(jitter=0.2)
    assert backoff.delay(1, 0.0) == pytest.approx(0.8)
    assert backoff.delay(1, 0.5) == 1.0
    assert backoff.delay(1, 1.0) == pytest.approx(1.2)


@given(
    initial=st.floats(0, 100),
    factor=st.floats(1, 10),
    longest=st.floats(0, 1000),
    jitter=st.floats(0, 1),
    attempt=st.integers(1, 20),
    random=FRACTION,
)
def test_a_delay_stays_within_its_jitter(
    initial: float, factor: float, longest: float, jitter: float, attempt: int, random: float
):
    scheduled = Backoff(initial, factor, longest, 0).delay(attempt, random)
    delay = Backoff(initial, factor, longest, jitter).delay(attempt, random)
    assert 0 <= scheduled <= longest
    assert scheduled * (1 - jitter) <= delay * (1 + 1e-9)
    assert delay <= scheduled * (1 + jitter) * (1 + 1e-9)


@given(factor=st.floats(1, 10), attempt=st.integers(1, 19))
def test_without_jitter_delays_never_shrink(factor: float, attempt: int):
    backoff = Backoff(factor=factor, jitter=0)
    assert backoff.delay(attempt, 0.5) <= backoff.delay(attempt + 1, 0.5)


def test_yaml_may_write_durations():
    backoff = TypeAdapter(Backoff).validate_python({"initial": "250ms", "factor": 3, "max": "1m"})
    assert backoff == Backoff(initial=0.25, factor=3, max=60.0)


@pytest.mark.parametrize(
    "options", [{"initail": 1}, {"initial": -1}, {"factor": 0.5}, {"jitter": 2}, {"jitter": -0.1}]
)
def test_mistakes_are_refused(options: dict[str, float]):
    with pytest.raises(ValidationError):
        TypeAdapter(Backoff).validate_python(options)


def test_a_constant_backoff_does_not_grow():
    backoff = Backoff(initial=3.0, jitter=0, kind="constant")
    assert [backoff.delay(n, 0.9, 3.0) for n in (1, 2, 20)] == [3.0, 3.0, 3.0]
    assert Backoff(initial=3.0, max=2.0, jitter=0, kind="constant").delay(1, 0.5) == 2.0


def test_a_decorrelated_delay_reaches_to_three_times_the_one_before():
    backoff = Backoff(initial=1.0, kind="decorrelated")
    assert [backoff.delay(1, random) for random in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]
    assert [backoff.delay(2, random, 3.0) for random in (0.0, 0.5, 1.0)] == [1.0, 5.0, 9.0]


@given(
    initial=st.floats(0, 100),
    longest=st.floats(0, 1000),
    previous=st.floats(0, 1000),
    kind=st.sampled_from(["exponential", "constant", "decorrelated"]),
    attempt=st.integers(1, 20),
    random=FRACTION,
)
def test_no_kind_waits_less_than_nothing_or_longer_than_the_maximum_and_jitter(
    initial: float, longest: float, previous: float, kind: Any, attempt: int, random: float
):
    delay = Backoff(initial, 2, longest, 0.2, kind).delay(attempt, random, previous)
    assert 0 <= delay <= longest * 1.2 * (1 + 1e-9)
    if kind == "decorrelated":
        assert min(initial, longest) <= delay <= min(3 * max(initial, previous), longest) * (1 + 1e-9)
