"""The circuit breaker: a state machine that stops calling a service which keeps failing.

Three states, and what moves between them:

    closed      every call goes through; `failure_threshold` failures in a row open it
    open        no call goes through; `break_duration` seconds later it is half open
    half_open   `probes` calls go through; all must succeed to close it, one failure opens it anew

Its rules:

1. Everything that affects the state is in this file, is synchronous, and takes the time as an argument.
2. Each state entered is a new generation. A permit belongs to the generation that issued it, and what is
   reported on a permit of an earlier one changes nothing: slow calls from before an outage say nothing
   of the service after it.
3. A call is reported in up to two steps, because an answer may stream for minutes. `succeeded` or `failed`
   when the answer begins, which is what closes a half-open breaker; then `completed` or `broken` when it
   ends. Either kind of bad end counts towards the threshold, and only its own kind of good end forgives
   it: a service that always begins well and always breaks off would otherwise never be found out.
4. A call that ends without a verdict, because it was cancelled or because the client left, is released:
   its probe goes to the next caller.
5. Probes that say nothing for a whole `break_duration` no longer hold up the others: as many more are
   let through. What the slow ones report in the end still counts.
6. Transitions are returned, never published from here.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


class Permit:
    """Leave to make one call. A `transition` says that issuing it changed the breaker's state."""

    __slots__ = ("generation", "state", "transition")

    def __init__(self, generation: int, state: BreakerState, transition: BreakerState | None = None) -> None:
        self.generation: Final = generation
        self.state: Final = state
        self.transition: Final = transition

    def __repr__(self) -> str:
        return f"<Permit {self.state} generation={self.generation}>"


class Rejected(NamedTuple):
    """No call may be made; `retry_after` seconds are left of the open time, 0 while probes are out."""

    retry_after: float
    state: BreakerState


class CircuitBreaker:
    """Decides whether a service may be called.

    `failure_threshold` failures in a row (default 5) open it for `break_duration` seconds (default
    60), after which exactly `probes` calls (default 1) may try again.

        admission = breaker.acquire(now)
        if isinstance(admission, Rejected): ...
        try:
            ...
            breaker.succeeded(admission, now)
        finally:
            breaker.release(admission)

    `succeeded`, `failed` and `broken` return the state entered, None where it did not change.
    """

    def __init__(self, failure_threshold: int = 5, break_duration: float = 60.0, probes: int = 1) -> None:
        if failure_threshold < 1 or probes < 1 or break_duration <= 0:
            raise ValueError("failure_threshold, probes and break_duration must be above zero")
        self.failure_threshold = failure_threshold
        self.break_duration = break_duration
        self.probes = probes
        self._state: BreakerState = "closed"
        self._permit = Permit(0, "closed")
        self.untroubled: Permit | None = self._permit
        """The permit of a closed breaker that has nothing to forgive, None otherwise.

        `acquire` would give it, and as long as it is still here, no good answer, no good end and no release
        changes anything: nobody has to be told of them.
        """
        self._generation = 0
        self._failed = 0
        self._broken = 0
        self._turns_at = 0.0
        """When an open breaker becomes half open, and when a half-open one gives up on its probes."""
        self._probing: set[Permit] = set()
        self._passed = 0

    def state(self, now: float) -> BreakerState:
        """The state a caller would meet at `now`."""
        return "half_open" if self._state == "open" and now >= self._turns_at else self._state

    def acquire(self, now: float) -> Permit | Rejected:
        """Ask for one call."""
        if self._state == "closed":
            return self._permit
        if now >= self._turns_at:
            return self._first_probe(now)
        if self._state == "open":
            return Rejected(self._turns_at - now, "open")
        if len(self._probing) + self._passed < self.probes:
            return self._probe()
        return Rejected(0.0, "half_open")

    def succeeded(self, permit: Permit, now: float) -> BreakerState | None:
        """The answer began, and it is a good one."""
        if permit.generation != self._generation:
            return None
        self._failed = 0
        if self._state == "closed":
            self._forgive()
            return None
        self._probing.discard(permit)
        self._passed += 1
        return self._enter("closed", now) if self._passed >= self.probes else None

    def failed(self, permit: Permit, now: float) -> BreakerState | None:
        """There was no answer, or a bad one."""
        if permit.generation != self._generation:
            return None
        self._failed += 1
        return self._judge(now)

    def completed(self, permit: Permit) -> None:
        """An answer that had begun well came to its end."""
        if permit.generation == self._generation:
            self._broken = 0
            self._forgive()

    def broken(self, permit: Permit, now: float) -> BreakerState | None:
        """An answer that had begun well broke off: a failure in spite of its success."""
        if permit.generation != self._generation:
            return None
        self._broken += 1
        return self._judge(now)

    def release(self, permit: Permit) -> None:
        """The call is over, with or without a verdict; to be called for every permit, always."""
        self._probing.discard(permit)

    def _forgive(self) -> None:
        if self._state == "closed" and not self._failed + self._broken:
            self.untroubled = self._permit

    def _judge(self, now: float) -> BreakerState | None:
        self.untroubled = None
        if self._state == "half_open" or self._failed + self._broken >= self.failure_threshold:
            return self._enter("open", now)
        return None

    def _first_probe(self, now: float) -> Permit:
        """The open time is over, or the probes that are out have used up theirs."""
        transition = self._enter("half_open", now) if self._state == "open" else None
        self._probing.clear()
        self._turns_at = now + self.break_duration
        return self._probe(transition)

    def _probe(self, transition: BreakerState | None = None) -> Permit:
        probe = Permit(self._generation, "half_open", transition)
        self._probing.add(probe)
        return probe

    def _enter(self, state: BreakerState, now: float) -> BreakerState:
        self._state = state
        self._generation += 1
        self._permit = Permit(self._generation, state)
        self.untroubled = self._permit if state == "closed" else None
        self._failed = self._broken = self._passed = 0
        self._turns_at = now + self.break_duration
        return state

    def __repr__(self) -> str:
        failures = self._failed + self._broken
        return f"<CircuitBreaker {self._state} failures={failures} probing={len(self._probing)}>"
