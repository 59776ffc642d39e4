"""Which of many like messages are worth a line."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.repeats import AGAIN_AFTER, OTHER_AFTER, Repeats

HISTORIES = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100)), max_size=50)


def test_the_same_is_told_at_once_and_again_after_a_minute() -> None:
    repeats = Repeats()
    assert repeats.tell("a", 5.0) == 0
    assert repeats.tell("a", 5.0 + AGAIN_AFTER - 0.1) is None
    assert repeats.tell("a", 5.0 + AGAIN_AFTER) == 1


def test_another_is_told_after_a_second() -> None:
    repeats = Repeats()
    repeats.tell("a", 0.0)
    assert repeats.tell("b", OTHER_AFTER / 2) is None
    assert repeats.tell("b", OTHER_AFTER) == 1


@given(HISTORIES)
def test_no_more_than_one_line_a_second_and_none_is_uncounted(history: list[tuple[str, float]]) -> None:
    repeats = Repeats()
    now = 0.0
    lines: list[float] = []
    told = left = 0
    for reason, pause in history:
        now += pause
        unlogged = repeats.tell(reason, now)
        left += unlogged is None
        if unlogged is not None:
            lines.append(now)
            told += 1 + unlogged
            left -= unlogged
    assert all(later - earlier >= OTHER_AFTER for earlier, later in itertools.pairwise(lines))
    assert told + left == len(history)
    assert bool(lines) == bool(history)
