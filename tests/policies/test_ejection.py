"""Passive ejection as plain calls, time an argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.ejection import Ejection, Record


def fail(record: Record, now: float, times: int = 5, *, may_eject: bool = True) -> float | None:
    """The outcome of the last of so many failures."""
    outcome = None
    for _ in range(times):
        outcome = record.failed(record.generation, now, may_eject=may_eject)
    return outcome


def test_failures_in_a_row_eject() -> None:
    record = Record(Ejection())
    assert fail(record, 0.0, times=4) is None
    assert record.ejected_until is None
    assert fail(record, 0.0, times=1) == 30
    assert record.ejected_until == 30


def test_a_success_forgives_all_failures_before_it() -> None:
    record = Record(Ejection())
    fail(record, 0.0, times=4)
    assert not record.succeeded(record.generation, 0.0)
    assert fail(record, 0.0, times=4) is None
    assert fail(record, 0.0, times=1) == 30


def test_it_returns_when_its_time_is_over_and_not_before() -> None:
    record = Record(Ejection())
    fail(record, 0.0)
    assert not record.returns(29.9)
    assert record.returns(30.0)
    assert not record.returns(31.0)
    assert fail(record, 31.0, times=4) is None


def test_each_ejection_is_longer_up_to_a_cap() -> None:
    record = Record(Ejection(base_duration=30, max_duration=100))
    now, durations = 0.0, []
    for _ in range(5):
        duration = fail(record, now) or 0
        durations.append(duration)
        now += duration
        assert record.returns(now)
    assert durations == [30, 60, 90, 100, 100]


def test_time_without_an_ejection_makes_the_next_one_shorter() -> None:
    record = Record(Ejection())
    now = 0.0
    for _ in range(3):
        now += fail(record, now) or 0
        record.returns(now)
    assert fail(record, now + 65) == 60  # three, less two for 65 healthy seconds, and this one
    now += 65 + 60
    record.returns(now)
    assert fail(record, now + 3600) == 30


def test_calls_from_before_a_change_say_nothing_after_it() -> None:
    record = Record(Ejection(consecutive_failures=1))
    old = record.generation
    fail(record, 0.0, times=1)
    assert not record.succeeded(old, 1.0)
    assert record.ejected_until == 30
    record.returns(30.0)
    assert record.failed(old, 31.0, may_eject=True) is None


def test_an_ejected_endpoint_that_is_called_and_succeeds_is_back() -> None:
    record = Record(Ejection())
    fail(record, 0.0)
    assert fail(record, 1.0, times=9) is None
    assert record.succeeded(record.generation, 2.0)
    assert record.ejected_until is None


def test_where_no_more_may_be_ejected_the_failures_are_remembered() -> None:
    record = Record(Ejection())
    assert fail(record, 0.0, times=9, may_eject=False) is None
    assert fail(record, 0.0, times=1) == 30


@pytest.mark.parametrize(
    ("share", "endpoints", "allowed"),
    [(0.5, 1, 0), (0.5, 2, 1), (0.5, 3, 1), (0.5, 10, 5), (0.1, 3, 1), (1.0, 3, 3), (1.0, 1, 0), (0.0, 9, 0)],
)
def test_only_a_share_may_be_out_and_one_alone_never(share: float, endpoints: int, allowed: int) -> None:
    settings = Ejection(max_ejected=share)
    assert [settings.allows(ejected, endpoints) for ejected in range(endpoints + 1)] == [
        ejected < allowed for ejected in range(endpoints + 1)
    ]


@pytest.mark.parametrize(
    "options", [{"consecutive_failures": 0}, {"max_ejected": 1.1}, {"max_ejected": -0.1}]
)
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Ejection(**options)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=200))
def test_no_history_ejects_for_longer_than_allowed(history: list[tuple[bool, float]]) -> None:
    record = Record(Ejection(consecutive_failures=2))
    now = 0.0
    for good, seconds in history:
        now += seconds
        record.returns(now)
        if good:
            record.succeeded(record.generation, now)
        else:
            duration = record.failed(record.generation, now, may_eject=True)
            assert duration is None or 30 <= duration <= 300
        assert record.ejected_until is None or now < record.ejected_until <= now + 300
