"""The window of outcomes beside a list of all that happened."""

from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.outcomes import SLICES, Outcomes

WINDOW = 10.0

calls = st.lists(st.tuples(st.floats(0, 8), st.booleans(), st.booleans(), st.booleans()), max_size=60)


@given(start=st.floats(0, 1e6), calls=calls, data=st.data())
def test_it_counts_what_a_list_of_all_calls_says(
    start: float, calls: list[tuple[float, bool, bool, bool]], data: st.DataObject
) -> None:
    outcomes, now = Outcomes(WINDOW), start
    good: list[float] = []
    ended: list[float] = []
    failures: list[float] = []
    slow_ones: list[float] = []

    def recent(times: list[float]) -> int:
        width = WINDOW / SLICES
        return sum(time // width > now // width - SLICES for time in times)

    for passed, failed, slow, after_all in calls:
        now += passed
        if after_all and good:
            began = good.pop(data.draw(st.integers(0, len(good) - 1)))
            outcomes.fail(now, began)
            ended.remove(began)
            failures.append(now)
        else:
            outcomes.add(now, failed=failed, slow=slow)
            (failures if failed else good).append(now)
            slow_ones += [now] * slow
        ended.append(now)
        assert outcomes.calls == recent(ended)
        assert outcomes.failed == recent(failures) <= outcomes.calls
        assert outcomes.slow == recent(slow_ones)


def test_all_is_forgotten_after_the_window() -> None:
    outcomes = Outcomes(WINDOW)
    outcomes.add(3.0, failed=True, slow=True)
    outcomes.roll(13.0)
    assert (outcomes.calls, outcomes.failed, outcomes.slow) == (0, 0, 0)
