"""When another service is tried in place of one that failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from asgi_gateway.errors import Failure, FailureKind

DEFAULT_FAILURES: Final[frozenset[FailureKind]] = frozenset(
    {"connect", "timeout", "reset", "protocol", "circuit_open", "overloaded", "no_endpoint", "internal"}
)
"""Every way in which a service, or what guards it, cannot answer. A rate limit's refusal is meant."""


@dataclass(frozen=True, slots=True)
class FallbackPolicy:
    """Decides on an answer that has not begun. What the client did is never a reason."""

    statuses: frozenset[int]
    failures: frozenset[FailureKind] = DEFAULT_FAILURES

    def falls_back(self, status: int, failure: Failure | None, time_left: float | None = None) -> bool:
        """Whether another is to be tried; `failure` goes before the status where there is one."""
        if time_left is not None and time_left <= 0:
            return False
        if failure is None:
            return status in self.statuses
        return failure.source != "client" and failure.kind in self.failures
