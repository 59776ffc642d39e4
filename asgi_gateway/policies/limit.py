"""Limits: so much in a period, counted in one of three ways, and several of them at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from asgi_gateway.policies.window import FixedWindow, MovingWindow, SlidingWindow, Window, tightest

Counter: TypeAlias = FixedWindow | SlidingWindow | MovingWindow

COUNTERS: Final[Mapping[str, type[Counter]]] = MappingProxyType(
    {"fixed_window": FixedWindow, "sliding_window": SlidingWindow, "moving_window": MovingWindow}
)
"""The ways of counting, by the names that the configuration gives them."""


Settle: TypeAlias = Callable[[int], None]
"""To be told once what a hit did cost for which a cost was reserved."""


class Limit(NamedTuple):
    """At most `amount` in `period` seconds, as `counter` counts."""

    counter: type[Counter]
    amount: int
    period: int


def hit_all(counters: Sequence[tuple[Counter, int]], now: float, cost: int = 1) -> Window:
    """Count `cost` with every counter if each one's limit allows, else with none; the tightest window."""
    if len(counters) == 1:
        counter, limit = counters[0]
        return counter.hit(now, limit, cost)
    if all(counter.fits(now, limit, cost) for counter, limit in counters):
        windows = [counter.hit(now, limit, cost) for counter, limit in counters]
    else:
        windows = [counter.peek(now, limit, cost) for counter, limit in counters]
    return functools.reduce(tightest, windows)
