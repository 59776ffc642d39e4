"""Whether a failed attempt is made again, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from asgi_gateway.errors import Failure
from asgi_gateway.policies.backoff import DEFAULT_BACKOFF, Backoff

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""RFC 9110 section 9.2.2."""

NoRetry: TypeAlias = Literal[
    "not_upstream",
    "outcome",
    "method",
    "attempts",
    "retry_after",
    "deadline",
    "body_too_large",
    "circuit_open",
    "budget",
]
"""Why an attempt is the last one. The policy itself says the first six."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Decides from an attempt's outcome whether there is another one.

    Only what is the service's doing is retried. Where the service cannot have seen the request, because
    no connection was made, the method does not matter. Anything else is retried when its status is in
    `statuses` (a failure counts as the status it is answered with, 502 or 504) and the method is in
    `methods`, or the request has an Idempotency-Key and `idempotency_key` allows to rely on it.
    """

    attempts: int = 4
    backoff: Backoff = DEFAULT_BACKOFF
    methods: frozenset[str] = IDEMPOTENT_METHODS
    statuses: frozenset[int] = frozenset({500, 502, 503, 504})
    max_retry_after: float = 30.0
    idempotency_key: bool = False

    def decide(
        self,
        *,
        attempt: int,
        method: str,
        status: int,
        failure: Failure | None,
        retry_after: float | None,
        time_left: float | None,
        random: float,
        previous: float = 0.0,
        keyed: bool = False,
    ) -> float | NoRetry:
        """Seconds to wait before the next attempt, or why there is none.

        `attempt` is the number of the one that just ended, `failure` is None where the answer is the
        service's own, `retry_after` what that answer asked for, `time_left` the seconds until the
        deadline; None where there is none. `previous` is how long was waited before this attempt, and
        `keyed` whether the request has an Idempotency-Key.
        """
        reason = self._forbidden(method, status, failure, keyed=keyed)
        if reason is not None:
            return reason
        if attempt >= self.attempts:
            return "attempts"
        delay = self.backoff.delay(attempt, random, previous)
        if retry_after is not None:
            if retry_after > self.max_retry_after:
                return "retry_after"
            delay = max(delay, retry_after)
        if time_left is not None and delay >= time_left:
            return "deadline"
        return delay

    def _forbidden(self, method: str, status: int, failure: Failure | None, *, keyed: bool) -> NoRetry | None:
        if failure is not None:
            if failure.source != "upstream":
                return "not_upstream"
            if not failure.request_sent:
                return None
        if status not in self.statuses:
            return "outcome"
        return None if method in self.methods or (keyed and self.idempotency_key) else "method"
