"""What opens a circuit breaker beside failures in a row, and how long it stays open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from asgi_gateway.policies.outcomes import Outcomes


@dataclass(frozen=True, slots=True)
class BreakRules:
    """What opens a breaker beside failures in a row; `window` is in seconds.

    `failure_ratio` and `slow_call_ratio` are parts of 1, None where they are not looked at. Raises
    `ValueError` where one is outside of 0 to 1, or where one of `slow_call_ratio` and `slow_call_duration`
    is without the other.
    """

    failure_ratio: float | None = None
    slow_call_ratio: float | None = None
    slow_call_duration: float | None = None
    window: float = 30.0
    minimum_calls: int = 20

    def __post_init__(self) -> None:
        for ratio in (self.failure_ratio, self.slow_call_ratio):
            if ratio is not None and not 0 < ratio <= 1:
                raise ValueError("a ratio must be above 0 and at most 1")
        if (self.slow_call_ratio is None) != (self.slow_call_duration is None):
            raise ValueError("slow_call_ratio and slow_call_duration need each other")
        if self.window <= 0 or self.minimum_calls < 1:
            raise ValueError("window and minimum_calls must be above zero")

    @property
    def watch_window(self) -> bool:
        """Whether there is a rule that needs every call counted."""
        return self.failure_ratio is not None or self.slow_call_ratio is not None

    def is_slow(self, seconds: float) -> bool:
        """Whether an answer that took so long to begin is a slow one."""
        return self.slow_call_duration is not None and seconds >= self.slow_call_duration

    def met(self, outcomes: Outcomes) -> bool:
        """Whether what was counted opens the breaker."""
        calls = outcomes.calls
        if calls < self.minimum_calls:
            return False
        failures, slow = self.failure_ratio, self.slow_call_ratio
        return (failures is not None and outcomes.failed >= failures * calls) or (
            slow is not None and outcomes.slow >= slow * calls
        )


@dataclass(frozen=True, slots=True)
class BreakDurations:
    """How long a breaker stays open, in seconds, and how that grows while it does not help.

    The n-th opening in a row lasts ``min(first * growth ** (n - 1), longest)``, times a random number between
    ``1 - jitter`` and ``1 + jitter``. Raises `ValueError` unless `first` is above 0, `growth` at least 1,
    `longest` at least `first`, and `jitter` between 0 and 1.
    """

    first: float = 60.0
    growth: float = 1.0
    longest: float = 300.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.first <= 0 or self.growth < 1 or not 0 <= self.jitter <= 1:
            raise ValueError("break_duration must be above 0, growth at least 1, jitter between 0 and 1")
        if self.growth > 1 and self.longest < self.first:
            raise ValueError("max_break_duration must not be below break_duration")

    def of(self, opening: int, random: float) -> float:
        """Seconds that the opening of that number in a row lasts, for a random number between 0 and 1."""
        duration = self.first
        if self.growth > 1:
            for _ in range(opening - 1):
                duration *= self.growth
                if duration >= self.longest:
                    duration = self.longest
                    break
        return duration * (1 + self.jitter * (2 * random - 1))


NO_RULES: Final = BreakRules()
"""Only failures in a row open it."""
