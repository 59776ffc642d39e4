"""The breaker's state machine as plain calls, time as an argument."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asgi_gateway.policies.break_rules import BreakDurations, BreakRules
from asgi_gateway.policies.circuit_breaker import CircuitBreaker, Permit, Rejected

MINUTE = 60.0


def admitted(breaker: CircuitBreaker, now: float) -> Permit:
    permit = breaker.acquire(now)
    assert isinstance(permit, Permit)
    return permit


def fail(breaker: CircuitBreaker, now: float, times: int = 1) -> str | None:
    transition = None
    for _ in range(times):
        transition = breaker.failed(admitted(breaker, now), now)
    return transition


def opened(failure_threshold: int = 5, probes: int = 1) -> CircuitBreaker:
    """A breaker that opened at 0."""
    breaker = CircuitBreaker(failure_threshold, MINUTE, probes)
    assert fail(breaker, 0.0, failure_threshold) == "open"
    return breaker


def test_it_opens_at_the_threshold_and_not_before():
    breaker = CircuitBreaker(failure_threshold=5)
    assert fail(breaker, 0.0, 4) is None
    assert breaker.state(0.0) == "closed"
    assert fail(breaker, 0.0) == "open"
    assert breaker.state(0.0) == "open"


def test_a_success_between_failures_starts_the_count_again():
    breaker = CircuitBreaker(failure_threshold=5)
    for _ in range(3):
        assert fail(breaker, 0.0, 4) is None
        breaker.succeeded(admitted(breaker, 0.0), 0.0)
    assert breaker.state(0.0) == "closed"


def test_open_it_says_how_long_is_left():
    breaker = opened()
    assert breaker.acquire(0.0) == Rejected(60.0, "open")
    assert breaker.acquire(59.5) == Rejected(0.5, "open")


def test_open_time_over_reads_half_open_before_anybody_asks():
    breaker = opened()
    assert breaker.state(59.9) == "open"
    assert breaker.state(60.0) == "half_open"


@pytest.mark.parametrize("probes", [1, 3])
def test_half_open_admits_exactly_the_probes(probes: int):
    breaker = opened(probes=probes)
    admissions = [breaker.acquire(60.0) for _ in range(100)]
    permits = [each for each in admissions if isinstance(each, Permit)]
    assert len(permits) == probes
    assert [permit.transition for permit in permits] == ["half_open"] + [None] * (probes - 1)
    assert admissions[probes:] == [Rejected(0.0, "half_open")] * (100 - probes)


def test_all_probes_must_succeed_to_close_it():
    breaker = opened(probes=2)
    first, second = admitted(breaker, 60.0), admitted(breaker, 60.0)
    assert breaker.succeeded(first, 61.0) is None
    assert breaker.acquire(61.0) == Rejected(0.0, "half_open")
    assert breaker.succeeded(second, 62.0) == "closed"
    assert breaker.state(62.0) == "closed"


def test_a_probe_that_has_succeeded_leaves_room_for_the_next():
    breaker = opened(probes=2)
    breaker.succeeded(admitted(breaker, 60.0), 60.0)
    assert isinstance(breaker.acquire(60.0), Permit)
    assert isinstance(breaker.acquire(60.0), Rejected)


def test_probes_of_an_earlier_trial_do_not_count():
    breaker = opened(probes=2)
    breaker.succeeded(admitted(breaker, 60.0), 60.0)
    breaker.failed(admitted(breaker, 60.0), 60.0)
    assert breaker.succeeded(admitted(breaker, 120.0), 120.0) is None


def test_a_failed_probe_opens_it_for_a_full_period():
    breaker = opened()
    probe = admitted(breaker, 90.0)
    assert breaker.failed(probe, 95.0) == "open"
    assert breaker.acquire(154.0) == Rejected(1.0, "open")
    assert isinstance(breaker.acquire(155.0), Permit)


def test_closed_again_it_takes_the_whole_threshold_to_open_it():
    breaker = opened()
    breaker.succeeded(admitted(breaker, 60.0), 60.0)
    assert fail(breaker, 60.0, 4) is None
    assert fail(breaker, 60.0) == "open"


def test_a_released_probe_goes_to_the_next_caller():
    breaker = opened()
    cancelled = admitted(breaker, 60.0)
    assert isinstance(breaker.acquire(60.0), Rejected)
    breaker.release(cancelled)
    assert isinstance(breaker.acquire(60.0), Permit)


def test_releasing_after_a_verdict_frees_no_second_place():
    breaker = opened(probes=2)
    first, _second = admitted(breaker, 60.0), admitted(breaker, 60.0)
    breaker.succeeded(first, 60.0)
    breaker.release(first)
    assert isinstance(breaker.acquire(60.0), Rejected)


@pytest.mark.parametrize(
    "report",
    [
        lambda breaker, permit: breaker.succeeded(permit, 60.0),
        lambda breaker, permit: breaker.failed(permit, 60.0),
        lambda breaker, permit: breaker.broken(permit, 60.0, 0.0),
    ],
    ids=["succeeded", "failed", "broken"],
)
def test_results_of_an_earlier_state_are_ignored(report: Any):
    breaker = CircuitBreaker(5, MINUTE)
    slow = admitted(breaker, 0.0)
    fail(breaker, 0.0, 5)
    probe = admitted(breaker, 60.0)
    assert report(breaker, slow) is None
    assert breaker.state(60.0) == "half_open"
    assert breaker.succeeded(probe, 60.0) == "closed"


def test_a_late_failure_does_not_count_towards_the_next_outage():
    breaker = CircuitBreaker(2, MINUTE)
    slow = admitted(breaker, 0.0)
    fail(breaker, 0.0, 2)
    breaker.succeeded(admitted(breaker, 60.0), 60.0)
    breaker.failed(slow, 61.0)
    assert fail(breaker, 61.0) is None


def test_answers_that_begin_well_and_break_off_open_it():
    breaker = CircuitBreaker(failure_threshold=5)
    for last in (False, False, False, False, True):
        permit = admitted(breaker, 0.0)
        assert breaker.succeeded(permit, 0.0) is None
        assert breaker.broken(permit, 0.0, 0.0) == ("open" if last else None)


def test_an_answer_that_ends_whole_forgives_the_broken_ones():
    breaker = CircuitBreaker(failure_threshold=2)
    for _ in range(3):
        broken, whole = admitted(breaker, 0.0), admitted(breaker, 0.0)
        assert breaker.broken(broken, 0.0, 0.0) is None
        breaker.completed(whole)
    assert breaker.state(0.0) == "closed"


def test_an_answer_that_only_began_does_not_forgive_broken_ones():
    breaker = CircuitBreaker(failure_threshold=2)
    breaker.broken(admitted(breaker, 0.0), 0.0, 0.0)
    breaker.succeeded(admitted(breaker, 0.0), 0.0)
    assert breaker.broken(admitted(breaker, 0.0), 0.0, 0.0) == "open"


def test_an_answer_from_before_an_outage_forgives_nothing_when_it_ends():
    breaker = CircuitBreaker(failure_threshold=2)
    slow = admitted(breaker, 0.0)
    fail(breaker, 0.0, 2)
    breaker.succeeded(admitted(breaker, 60.0), 60.0)
    breaker.broken(admitted(breaker, 60.0), 60.0, 60.0)
    breaker.completed(slow)
    assert breaker.broken(admitted(breaker, 60.0), 60.0, 60.0) == "open"


def test_broken_answers_of_an_earlier_outage_are_forgotten():
    breaker = CircuitBreaker(failure_threshold=2)
    for _ in range(2):
        breaker.broken(admitted(breaker, 0.0), 0.0, 0.0)
    breaker.succeeded(admitted(breaker, 60.0), 60.0)
    assert breaker.broken(admitted(breaker, 60.0), 60.0, 60.0) is None


def test_broken_answers_and_failures_count_together():
    breaker = CircuitBreaker(failure_threshold=2)
    assert breaker.broken(admitted(breaker, 0.0), 0.0, 0.0) is None
    assert fail(breaker, 0.0) == "open"


def test_a_probe_that_breaks_off_before_the_others_are_done_opens_it():
    breaker = opened(probes=2)
    first = admitted(breaker, 60.0)
    breaker.succeeded(first, 60.0)
    assert breaker.broken(first, 61.0, 60.0) == "open"


def test_probes_that_say_nothing_for_a_period_let_others_try():
    breaker = opened()
    admitted(breaker, 60.0)
    assert breaker.acquire(119.0) == Rejected(0.0, "half_open")
    second = admitted(breaker, 120.0)
    assert second.transition is None
    assert isinstance(breaker.acquire(120.0), Rejected)


def test_a_probe_slower_than_the_period_still_closes_it():
    breaker = opened()
    slow = admitted(breaker, 60.0)
    admitted(breaker, 120.0)
    assert breaker.succeeded(slow, 130.0) == "closed"


def test_releasing_a_probe_that_was_given_up_frees_no_place():
    breaker = opened()
    slow = admitted(breaker, 60.0)
    admitted(breaker, 120.0)
    breaker.release(slow)
    assert isinstance(breaker.acquire(120.0), Rejected)


def test_it_is_untroubled_until_something_fails_and_again_once_that_is_forgiven():
    breaker = CircuitBreaker(failure_threshold=3)
    permit = admitted(breaker, 0.0)
    assert breaker.untroubled is permit
    breaker.failed(permit, 0.0)
    breaker.broken(permit, 0.0, 0.0)
    assert breaker.untroubled is None
    breaker.succeeded(permit, 0.0)
    assert breaker.untroubled is None  # what broke off is only forgiven by an answer that ends whole
    breaker.completed(permit)
    assert breaker.untroubled is permit


def test_open_it_is_troubled_and_closed_again_it_has_a_new_permit():
    breaker = opened()
    assert breaker.untroubled is None
    probe = admitted(breaker, 60.0)
    assert breaker.untroubled is None
    breaker.succeeded(probe, 60.0)
    assert breaker.untroubled is admitted(breaker, 60.0)
    assert breaker.untroubled.generation > probe.generation


@pytest.mark.parametrize("options", [(0, 60.0, 1), (5, 0.0, 1), (5, 60.0, 0)])
def test_impossible_options_are_refused(options: tuple[int, float, int]):
    with pytest.raises(ValueError):
        CircuitBreaker(*options)


def test_its_repr_tells_an_operator_what_to_know():
    assert repr(opened()) == "<CircuitBreaker open failures=0 probing=0>"
    assert repr(Permit(3, "half_open")) == "<Permit half_open generation=3>"


class AnyHistory(RuleBasedStateMachine):
    """Calls begin, end well, end badly or are cancelled in any order; time passes in any steps."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(failure_threshold=3, break_duration=10.0, probes=2)
        self.now = 0.0
        self.calls: list[Permit] = []
        self.in_a_row = 0
        self.broken = 0
        self.opened_at: float | None = None

    def transition(self, state: str | None) -> None:
        if state is not None:
            self.in_a_row = self.broken = 0
            self.opened_at = self.now if state == "open" else None

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.875, 10.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        admission = self.breaker.acquire(self.now)
        if self.opened_at is not None:
            assert isinstance(admission, Permit) == (self.now - self.opened_at >= 10.0)
        if isinstance(admission, Rejected):
            assert (admission.retry_after > 0) == (admission.state == "open")
            return
        self.transition(admission.transition)
        self.calls.append(admission)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), good=st.booleans())
    def a_call_ends(self, data: st.DataObject, good: bool) -> None:
        permit = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        counted = permit.state == "closed" and permit.generation == self.breaker._generation
        if good:
            state = self.breaker.succeeded(permit, self.now)
            self.in_a_row = 0 if counted else self.in_a_row
            assert state in (None, "closed")
        else:
            state = self.breaker.failed(permit, self.now)
            self.in_a_row += counted
            if permit.state == "closed":
                assert (state == "open") == (counted and self.in_a_row + self.broken == 3)
        self.breaker.release(permit)
        self.transition(state)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_is_cancelled(self, data: st.DataObject) -> None:
        self.breaker.release(self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), report=st.sampled_from(["completed", "broken"]))
    def an_answer_that_had_begun_ends(self, data: st.DataObject, report: str) -> None:
        permit = data.draw(st.sampled_from(self.calls))
        counted = permit.state == "closed" and permit.generation == self.breaker._generation
        if report == "completed":
            self.breaker.completed(permit)
            self.broken = 0 if counted else self.broken
            return
        state = self.breaker.broken(permit, self.now, self.now)
        self.broken += counted
        if permit.state == "closed":
            assert (state == "open") == (counted and self.in_a_row + self.broken == 3)
        self.transition(state)

    @invariant()
    def untroubled_nothing_good_changes_anything(self) -> None:
        """So that whoever holds that permit need not report it."""
        permit = self.breaker.untroubled
        closed = self.breaker.state(self.now) == "closed"
        assert (permit is not None) == (closed and self.breaker._failed + self.breaker._broken == 0)
        if permit is not None:
            before = {name: copy.copy(value) for name, value in vars(self.breaker).items()}
            assert self.breaker.acquire(self.now) is permit
            assert self.breaker.succeeded(permit, self.now) is None
            self.breaker.completed(permit)
            self.breaker.release(permit)
            assert vars(self.breaker) == {**before, "_permit": permit, "untroubled": permit}

    @invariant()
    def no_more_probes_are_out_than_allowed(self) -> None:
        assert len(self.breaker._probing) <= 2

    @invariant()
    def it_is_never_open_for_longer_than_its_time(self) -> None:
        if self.breaker.state(self.now) == "open":
            assert self.opened_at is not None
            assert self.now - self.opened_at < 10.0


AnyHistory.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_any_history = AnyHistory.TestCase


# By a share of calls, by slow calls


def by_ratio(ratio: float = 0.5, **rules: float) -> CircuitBreaker:
    options = {"window": 10.0, "minimum_calls": 4, **rules}
    return CircuitBreaker(None, MINUTE, rules=BreakRules(ratio, **options))  # type: ignore[arg-type]


def call(breaker: CircuitBreaker, now: float, *, good: bool = True, seconds: float = 0.0) -> str | None:
    permit = admitted(breaker, now)
    report = breaker.succeeded if good else breaker.failed
    return report(permit, now, seconds)


def test_a_share_of_failures_opens_it_from_the_minimum_of_calls_on():
    breaker = by_ratio(0.5)
    assert [call(breaker, 1.0, good=good) for good in (False, False, True)] == [None] * 3
    assert call(breaker, 1.0, good=True) == "open"


def test_failures_in_a_row_do_not_open_a_breaker_without_a_threshold():
    breaker = by_ratio(1.0, minimum_calls=100)
    assert [call(breaker, 1.0, good=False) for _ in range(99)] == [None] * 99
    assert call(breaker, 1.0, good=False) == "open"


def test_what_is_older_than_the_window_does_not_count():
    breaker = by_ratio(0.5)
    assert [call(breaker, 1.0, good=False) for _ in range(3)] == [None] * 3
    assert call(breaker, 12.0, good=False) is None


def test_a_threshold_and_a_ratio_each_open_it():
    rules = BreakRules(0.5, window=10.0, minimum_calls=4)
    breaker = CircuitBreaker(2, MINUTE, rules=rules)
    assert [call(breaker, 1.0, good=False) for _ in range(2)] == [None, "open"]
    breaker = CircuitBreaker(3, MINUTE, rules=rules)
    assert [call(breaker, 1.0, good=good) for good in (False, True, False, True)][-1] == "open"


def test_closed_again_it_counts_from_nothing():
    breaker = by_ratio(0.5)
    for _ in range(4):
        call(breaker, 1.0, good=False)
    assert call(breaker, 61.0) == "closed"
    assert [call(breaker, 61.0, good=False) for _ in range(3)] == [None] * 3


def slow_watching(minimum_calls: int = 2, **options: float) -> CircuitBreaker:
    rules = BreakRules(None, 0.5, 2.0, window=10.0, minimum_calls=minimum_calls)
    return CircuitBreaker(None, MINUTE, rules=rules, **options)  # type: ignore[arg-type]


def test_a_share_of_slow_calls_opens_it():
    breaker = slow_watching()
    assert call(breaker, 1.0, seconds=1.9) is None
    assert call(breaker, 1.0, seconds=2.0) == "open"


def test_a_slow_probe_is_a_bad_one_where_slow_calls_count():
    breaker = slow_watching()
    call(breaker, 1.0, seconds=3.0)
    call(breaker, 1.0, seconds=3.0)
    assert call(breaker, 61.0, seconds=3.0) == "open"
    assert call(breaker, 121.0, seconds=1.0) == "closed"


def broken_off(breaker: CircuitBreaker, began: float, ended: float, seconds: float = 0.0) -> str | None:
    permit = admitted(breaker, began)
    assert breaker.succeeded(permit, began, seconds) is None
    return breaker.broken(permit, ended, began)


def test_a_slow_probe_that_breaks_off_is_one_bad_probe():
    breaker = slow_watching(probes=5, probes_to_close=2)
    call(breaker, 1.0, seconds=3.0)
    call(breaker, 1.0, seconds=3.0)
    slow = admitted(breaker, 61.0)
    assert breaker.succeeded(slow, 64.0, 3.0) is None
    assert breaker.broken(slow, 65.0, 64.0) is None
    assert [call(breaker, 65.0, good=False) for _ in range(2)] == [None] * 2  # three of five
    assert [call(breaker, 65.0) for _ in range(2)] == [None, "closed"]


def test_an_answer_that_breaks_off_is_one_call_that_failed():
    breaker = by_ratio(1.0)
    assert [broken_off(breaker, 1.0, 1.0) for _ in range(4)] == [None, None, None, "open"]
    breaker = by_ratio(0.6)
    assert [call(breaker, 1.0) for _ in range(2)] == [None] * 2
    assert [broken_off(breaker, 1.0, 1.0) for _ in range(3)] == [None, None, "open"]  # three of five


def test_an_answer_that_breaks_off_is_one_call_towards_the_minimum():
    breaker = by_ratio(0.95, minimum_calls=10)
    assert [broken_off(breaker, 1.0, 1.0) for _ in range(10)] == [None] * 9 + ["open"]


def test_a_slow_answer_that_breaks_off_is_one_slow_call():
    breaker = slow_watching(minimum_calls=4)
    assert broken_off(breaker, 1.0, 1.0, 3.0) is None
    assert [call(breaker, 1.0) for _ in range(2)] == [None] * 2
    assert call(breaker, 1.0, seconds=3.0) == "open"  # two of four


def test_answers_that_break_off_long_after_they_began_are_calls_of_now():
    breaker = by_ratio(0.5)
    streams = [admitted(breaker, 1.0) for _ in range(4)]
    for permit in streams:
        breaker.succeeded(permit, 1.0)
    for _ in range(5):
        call(breaker, 60.0)
    assert [breaker.broken(permit, 60.0, 1.0) for permit in streams] == [None] * 4  # four of nine
    assert call(breaker, 61.0, good=False) == "open"


# How many probes, for how long


def test_enough_good_probes_close_it_though_one_failed():
    breaker = CircuitBreaker(1, MINUTE, 3, probes_to_close=2)
    fail(breaker, 0.0)
    first, second, third = (admitted(breaker, 60.0) for _ in range(3))
    assert breaker.failed(first, 60.0) is None
    assert breaker.succeeded(second, 60.0) is None
    assert isinstance(breaker.acquire(60.0), Rejected)  # a failed probe is not tried anew
    assert breaker.succeeded(third, 60.0) == "closed"


def test_it_opens_as_soon_as_too_few_probes_are_left():
    breaker = CircuitBreaker(1, MINUTE, 3, probes_to_close=2)
    fail(breaker, 0.0)
    probes = [admitted(breaker, 60.0) for _ in range(3)]
    assert breaker.failed(probes[0], 60.0) is None
    assert breaker.failed(probes[1], 60.0) == "open"


def test_silent_probes_hold_up_others_for_the_maximum_age_of_half_open():
    breaker = CircuitBreaker(1, MINUTE, max_half_open=5.0)
    fail(breaker, 0.0)
    admitted(breaker, 60.0)
    assert isinstance(breaker.acquire(64.9), Rejected)
    assert isinstance(breaker.acquire(65.0), Permit)


# How long it stays open


def openings(breaker: CircuitBreaker, times: int) -> list[float]:
    """How long each opening lasts of a breaker whose probes all fail."""
    now, seconds = 0.0, []
    for _ in range(times):
        assert breaker.failed(admitted(breaker, now), now) == "open"
        seconds.append(breaker.break_duration)
        now += breaker.break_duration
    return seconds


def test_the_time_open_grows_up_to_its_cap_while_probes_fail():
    breaker = CircuitBreaker(1, BreakDurations(10.0, 2.0, 60.0))
    assert openings(breaker, 5) == [10.0, 20.0, 40.0, 60.0, 60.0]


def test_without_growth_it_is_always_the_same():
    assert openings(CircuitBreaker(1, 400.0), 3) == [400.0] * 3


def test_it_begins_anew_once_it_stayed_closed_for_longer_than_it_was_open():
    breaker = CircuitBreaker(1, BreakDurations(10.0, 2.0, 60.0))
    openings(breaker, 2)
    assert call(breaker, 30.0) == "closed"
    call(breaker, 40.0, good=False)
    assert breaker.break_duration == 40.0
    assert call(breaker, 80.0) == "closed"
    call(breaker, 121.0, good=False)
    assert breaker.break_duration == 10.0


@given(opening=st.integers(1, 10_000), random=st.floats(0, 1), growth=st.floats(1, 10))
def test_no_opening_is_longer_than_the_cap_and_the_jitter(opening: int, random: float, growth: float):
    durations = BreakDurations(10.0, growth, 60.0, 0.5)
    assert 5.0 <= durations.of(opening, random) <= 90.0


# Told from outside


def test_it_can_be_told_that_the_service_fails():
    breaker = CircuitBreaker(5, MINUTE)
    slow = admitted(breaker, 0.0)
    assert breaker.open_until(7.0, 0.0) == "open"
    assert breaker.untroubled is None
    assert breaker.acquire(1.0) == Rejected(6.0, "open")
    assert breaker.succeeded(slow, 1.0) is None
    assert breaker.open_until(6.0, 1.0) is None  # it knows better
    assert breaker.open_until(9.0, 1.0) is None  # it is open already, but for longer
    assert breaker.acquire(8.0) == Rejected(1.0, "open")
    assert isinstance(breaker.acquire(9.0), Permit)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CircuitBreaker(0),
        lambda: CircuitBreaker(None),
        lambda: CircuitBreaker(probes=0),
        lambda: CircuitBreaker(probes=2, probes_to_close=3),
        lambda: BreakRules(failure_ratio=0),
        lambda: BreakRules(failure_ratio=1.1),
        lambda: BreakRules(slow_call_ratio=0.5),
        lambda: BreakRules(slow_call_duration=1.0),
        lambda: BreakRules(window=0),
        lambda: BreakDurations(0),
        lambda: BreakDurations(growth=0.9),
        lambda: BreakDurations(60.0, 2.0, 59.0),
        lambda: BreakDurations(jitter=2),
    ],
)
def test_what_cannot_work_is_refused(make: Any):
    with pytest.raises(ValueError, match=r"must|need|nothing"):
        make()
