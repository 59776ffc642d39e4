"""Thresholds and intervals of active checks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.health_check import Checked, HealthCheck

SETTINGS = HealthCheck(path="/up", healthy_threshold=2, unhealthy_threshold=3)


def test_an_endpoint_is_healthy_until_checks_show_otherwise() -> None:
    assert Checked(SETTINGS).healthy


def test_thresholds_are_in_a_row_and_each_change_is_told_once() -> None:
    state = Checked(SETTINGS)
    assert [state.failed(), state.failed(), state.passed(), state.failed(), state.failed()] == [False] * 5
    assert [state.failed(), state.failed()] == [True, False]
    assert not state.healthy
    assert [state.passed(), state.failed(), state.passed()] == [False] * 3
    assert [state.passed(), state.passed()] == [True, False]
    assert state.healthy


@given(st.floats(0, 1))
def test_jitter_moves_an_interval_by_its_part(number: float) -> None:
    settings = HealthCheck(path="/", interval=10, jitter=0.2)
    assert 8 <= settings.delay(number) <= 12
    assert 0 <= settings.first_delay(number) <= 2
    assert HealthCheck(path="/", interval=10, jitter=0).delay(number) == 10


@pytest.mark.parametrize(
    "options",
    [
        {"path": "up"},
        {"path": "/a b"},
        {"path": "/a#b"},
        {"path": "/a\nb"},
        {"path": "/é"},
        {"path": "/", "jitter": 1.5},
        {"path": "/", "healthy_threshold": 0},
        {"path": "/", "unhealthy_threshold": 0},
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        HealthCheck(**options)
