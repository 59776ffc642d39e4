"""Shares, faults and fallbacks, as plain functions."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.errors import Failure
from asgi_gateway.policies.fallback import DEFAULT_FAILURES, FallbackPolicy
from asgi_gateway.policies.fault import Abort, Delay, Fault
from asgi_gateway.policies.split import Split

WEIGHTS = st.lists(st.floats(0.1, 100), min_size=1, max_size=5)


def named(weights: list[float]) -> list[tuple[str, float]]:
    return [(f"service-{number}", weight) for number, weight in enumerate(weights)]


@given(WEIGHTS, st.integers(0, 1000), st.booleans())
def test_shares_are_as_the_weights_within_five_percent(weights: list[float], seed: int, sticky: bool) -> None:
    split = Split(named(weights))
    draw = random.Random(seed).random
    counts = [0] * len(weights)
    for number in range(4000):
        counts[split.choose(draw, f"{seed}-{number}" if sticky else None)] += 1
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count / 4000 - weight / sum(weights)) < 0.05


@given(WEIGHTS, st.text())
def test_a_key_always_gets_the_same_choice(weights: list[float], key: str) -> None:
    assert len({Split(named(weights)).choose(random.random, key) for _ in range(3)}) == 1


@given(WEIGHTS, st.floats(0.1, 100))
def test_keys_only_move_to_a_weight_that_grows(weights: list[float], more: float) -> None:
    before = Split(named(weights))
    after = Split(named([weights[0] + more, *weights[1:]]))
    for number in range(200):
        old, new = (split.choose(random.random, f"{number}") for split in (before, after))
        assert new in (old, 0)


@given(WEIGHTS, st.text())
def test_a_weight_of_zero_is_never_chosen(weights: list[float], key: str) -> None:
    assert Split(named([0.0, *weights])).choose(random.random, key) != 0


def test_a_name_has_one_weight() -> None:
    """With a key it would have the larger of two, without one their sum."""
    with pytest.raises(ValueError, match="'a' is there twice: give it the sum of both weights"):
        Split([("", 1.0), ("a", 1.0), ("b", 1.0), ("a", 2.0)])


def test_something_must_have_a_weight() -> None:
    with pytest.raises(ValueError, match="no weight is above 0"):
        Split([("a", 0)])


@given(st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_a_fault_happens_below_its_share(share: float, drawn: float) -> None:
    fault = Fault(Delay(2.0, share), Abort(share=share))
    assert (fault.seconds(lambda: drawn) == 2.0) == (drawn < share)
    assert fault.aborts(lambda: drawn) == (drawn < share)


def test_no_fault_draws_nothing() -> None:
    assert Fault().seconds(lambda: 1 / 0) == 0
    assert Fault().aborts(lambda: 1 / 0) is False


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"status": 200}, {"status": 503, "reset": True}])
def test_an_abort_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Abort(**wrong)  # type: ignore[arg-type]


KINDS = [*sorted(DEFAULT_FAILURES), "rate_limited", "client_disconnected", "bad_request"]
FAILURES = st.builds(Failure, st.sampled_from(KINDS), st.sampled_from(["client", "gateway", "upstream"]))


@given(st.integers(200, 599), st.none() | FAILURES, st.none() | st.floats(-10, 10))
def test_a_fallback_follows_its_table(status: int, failure: Failure | None, left: float | None) -> None:
    decided = FallbackPolicy(frozenset({500, 503})).falls_back(status, failure, left)
    if left is not None and left <= 0:
        assert not decided
    elif failure is None:
        assert decided == (status in (500, 503))
    elif failure.source == "client":
        assert not decided
    else:
        assert decided == (failure.kind in DEFAULT_FAILURES)
