"""How much of the load to refuse, by how late the event loop is."""

from __future__ import annotations


class LoadShed:
    """Refuses a growing part of what comes while the event loop is later than `max_lag` seconds.

    At `max_lag` nothing is refused yet, at twice as much everything. A larger lag is believed at once, a
    smaller one by half with each look, so that the load does not swing.
    """

    __slots__ = ("_max_lag", "lag")

    def __init__(self, max_lag: float) -> None:
        self._max_lag = max_lag
        self.lag = 0.0

    def observed(self, lag: float) -> None:
        """The loop was so late, in seconds."""
        self.lag = lag if lag > self.lag else (self.lag + lag) / 2

    def sheds(self, random: float) -> bool:
        """Whether to refuse a request, for a random number from 0 to below 1."""
        return self.lag > self._max_lag and random < self.lag / self._max_lag - 1
