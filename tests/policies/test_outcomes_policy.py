"""The window of outcomes beside a list of all that happened."""

from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.outcomes import SLICES, Outcomes

WINDOW = 10.0

calls = st.lists(st.tuples(st.floats(0, 8), st.booleans(), st.booleans()), max_size=60)


@given(start=st.floats(0, 1e6), calls=calls)
def test_it_counts_what_a_list_of_all_calls_says(start: float, calls: list[tuple[float, bool, bool]]) -> None:
    outcomes, now, everything = Outcomes(WINDOW), start, []
    width = WINDOW / SLICES
    for passed, failed, slow in calls:
        now += passed
        outcomes.add(now, failed=failed, slow=slow)
        everything.append((int(now // width), failed, slow))
        recent = [call for call in everything if call[0] > int(now // width) - SLICES]
        assert outcomes.calls == len(recent)
        assert outcomes.failed == sum(failed for _, failed, _ in recent)
        assert outcomes.slow == sum(slow for _, _, slow in recent)


def test_all_is_forgotten_after_the_window() -> None:
    outcomes = Outcomes(WINDOW)
    outcomes.add(3.0, failed=True, slow=True)
    outcomes.roll(13.0)
    assert (outcomes.calls, outcomes.failed, outcomes.slow) == (0, 0, 0)
