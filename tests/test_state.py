"""Which state a configuration gets for its workers."""

import os
from typing import Any

import pytest

from asgi_gateway.config import parse_config
from asgi_gateway.state import STATE_VARIABLE, counted_apart, needs_state, state_for_workers


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, "")  # what is put there is taken away again


def config(*middleware: Any, **more: Any) -> Any:
    service = {"url": "http://127.0.0.1:9", "routes": [{"path": "/*"}], "middleware": list(middleware)}
    return parse_config({"version": 1, "services": {"one": service}, **more}, environ={})


def test_workers_have_one_though_nothing_counts_yet() -> None:
    """A reload may bring the first limit, which must not then be counted in each of them."""
    server = state_for_workers(config(), 2)
    assert server is not None
    assert os.environ[STATE_VARIABLE] == server.url
    server.stop()


@pytest.mark.parametrize(("workers", "more"), [(1, {}), (2, {"state": "memory://"})])
def test_nobody_else_does(workers: int, more: dict[str, str]) -> None:
    assert state_for_workers(config("rate_limit", **more), workers) is None


@pytest.mark.parametrize(
    ("middleware", "needed"),
    [("rate_limit", True), ("circuit_breaker", False), ({"circuit_breaker": {"shared": True}}, True)],
)
def test_limits_and_shared_breakers_need_one(middleware: Any, needed: bool) -> None:
    assert needs_state(config(middleware)) is needed


def test_who_counts_apart_what_is_for_all_is_told() -> None:
    limits, none = config("rate_limit"), config()
    assert "without the extra 'embedded'" in counted_apart(limits, 2)
    assert "with state: memory:// each of the 2" in counted_apart(config("rate_limit", state="memory://"), 2)
    assert counted_apart(none, 2) == counted_apart(config("rate_limit", state="valkey://a"), 2) == ""


def test_with_the_state_of_their_parent_workers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, "valkey+unix:///run/state.sock")
    assert counted_apart(config("rate_limit"), 2) == ""
