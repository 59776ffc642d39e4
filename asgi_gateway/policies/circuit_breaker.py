"""The circuit breaker: a state machine that stops calling a service which keeps failing.

Three states, and what moves between them:

    closed      every call goes through; a rule that is met opens it
    open        no call goes through; when its time is over it is half open
    half_open   `probes` calls go through; enough good ones close it, too many bad ones open it anew

Its rules:

1. Everything that changes the state is in this file, is synchronous, and takes the time as an argument.
2. Each state entered is a new generation. A permit belongs to the generation that issued it, and what is
   reported on a permit of an earlier one changes nothing: slow calls from before an outage say nothing
   of the service after it.
3. A call is reported in up to two steps, because an answer may stream for minutes. `succeeded` or `failed`
   when the answer begins, which is what closes a half-open breaker; then `completed` or `broken` when it
   ends. Either kind of bad end counts towards the threshold, and only its own kind of good end forgives
   it: a service that always begins well and always breaks off would otherwise never be found out. In a
   window both steps are one call.
4. A call that ends without a verdict, because it was cancelled or because the client left, is released:
   its probe goes to the next caller.
5. Probes that say nothing for `max_half_open` no longer hold up the others: as many more are let through.
   What the slow ones report in the end still counts.
6. Three rules may open it, each on its own: failures in a row, a share of failures in a window, a share
   of slow calls in it. A share is looked at from `minimum_calls` on. Where slow calls count, a slow probe
   is a bad one.
7. Each opening that follows another within as long as that one lasted is longer by `growth`, up to
   `max_break_duration`. A breaker that stays closed for longer begins anew.
8. Transitions are returned, never published from here.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from asgi_gateway.policies.break_rules import NO_RULES, BreakDurations, BreakRules
from asgi_gateway.policies.outcomes import Outcomes

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

    `failure_threshold` failures in a row (default 5, None never) or one of the `rules` (default none) open
    it for `break_duration`, seconds or `BreakDurations` (default 60 s), after which exactly `probes` calls
    (default 1) may try again. `probes_to_close` of them (default all) close it.

        admission = breaker.acquire(now)
        if isinstance(admission, Rejected): ...
        try:
            ...
            breaker.succeeded(admission, now)
        finally:
            breaker.release(admission)

    `succeeded`, `failed` and `broken` return the state entered, None where it did not change. `seconds` is
    how long the answer took to begin, `random` a number between 0 and 1 for the jitter.
    """

    def __init__(
        self,
        failure_threshold: int | None = 5,
        break_duration: float | BreakDurations = 60.0,
        probes: int = 1,
        *,
        rules: BreakRules = NO_RULES,
        probes_to_close: int | None = None,
        max_half_open: float | None = None,
    ) -> None:
        if probes < 1 or (failure_threshold is not None and failure_threshold < 1):
            raise ValueError("failure_threshold and probes must be above zero")
        if probes_to_close is not None and not 1 <= probes_to_close <= probes:
            raise ValueError("probes_to_close must be between 1 and probes")
        if failure_threshold is None and not rules.watch_window:
            raise ValueError("nothing opens it: give failure_threshold, failure_ratio or slow_call_ratio")
        self.failure_threshold = failure_threshold
        self.rules = rules
        self.durations = (
            break_duration if isinstance(break_duration, BreakDurations) else BreakDurations(break_duration)
        )
        self.probes = probes
        self._to_close = probes_to_close or probes
        self._max_half_open = max_half_open
        self.break_duration = self.durations.first
        """How long the last opening lasts, or the first will."""
        self._outcomes = Outcomes(rules.window) if rules.watch_window else None
        self._state: BreakerState = "closed"
        self._permit = Permit(0, "closed")
        self.untroubled: Permit | None = None if rules.watch_window else self._permit
        """The permit of a closed breaker that has nothing to forgive and counts no calls, None otherwise.

        `acquire` would give it, and as long as it is still here, no good answer, no good end and no release
        changes anything: nobody has to be told of them.
        """
        self._generation = 0
        self._failed = 0
        self._broken = 0
        self._openings = 0
        self._entered_at = 0.0
        self._turns_at = 0.0
        """When an open breaker becomes half open, and when a half-open one gives up on its probes."""
        self._probing: set[Permit] = set()
        self._passed: set[Permit] = set()

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
        if len(self._probing) + len(self._passed) + self._failed + self._broken < self.probes:
            return self._probe()
        return Rejected(0.0, "half_open")

    def succeeded(
        self, permit: Permit, now: float, seconds: float = 0.0, random: float = 0.5
    ) -> BreakerState | None:
        """The answer began, and it is a good one."""
        if permit.generation != self._generation:
            return None
        slow = self.rules.is_slow(seconds)
        if self._state == "closed":
            self._failed = 0
            self._forgive()
            if self._outcomes is None:
                return None
            self._outcomes.add(now, failed=False, slow=slow)
            return self._judge(now, random)
        self._probing.discard(permit)
        if slow:
            self._failed += 1
            return self._judge_probes(now, random)
        self._passed.add(permit)
        return self._enter("closed", now) if len(self._passed) >= self._to_close else None

    def failed(
        self, permit: Permit, now: float, seconds: float = 0.0, random: float = 0.5
    ) -> BreakerState | None:
        """There was no answer, or a bad one."""
        if permit.generation != self._generation:
            return None
        self._failed += 1
        if self._state == "half_open":
            self._probing.discard(permit)
            return self._judge_probes(now, random)
        if self._outcomes is not None:
            self._outcomes.add(now, failed=True, slow=self.rules.is_slow(seconds))
        return self._judge(now, random)

    def completed(self, permit: Permit) -> None:
        """An answer that had begun well came to its end."""
        if permit.generation == self._generation and self._state == "closed":
            self._broken = 0
            self._forgive()

    def broken(self, permit: Permit, now: float, began_at: float, random: float = 0.5) -> BreakerState | None:
        """An answer that had begun well, at `began_at`, broke off: a failure in spite of its success."""
        if permit.generation != self._generation:
            return None
        if self._state == "half_open":
            if permit not in self._passed:  # a slow one was a bad one from the beginning
                return None
            self._passed.discard(permit)
            self._broken += 1
            return self._judge_probes(now, random)
        self._broken += 1
        if self._outcomes is not None:
            self._outcomes.fail(now, began_at)
        return self._judge(now, random)

    def release(self, permit: Permit) -> None:
        """The call is over, with or without a verdict; to be called for every permit, always."""
        self._probing.discard(permit)

    def open_until(self, until: float, now: float) -> BreakerState | None:
        """Somebody else found the service failing: let it be until then, unless that is already so."""
        if until <= now or (self._state == "open" and until <= self._turns_at):
            return None
        changed = self._state != "open"
        self._enter("open", now)
        self._turns_at = until
        self.break_duration = until - now
        return "open" if changed else None

    @property
    def opens_until(self) -> float:
        """When an open breaker becomes half open."""
        return self._turns_at

    def _forgive(self) -> None:
        if self._outcomes is None and not self._failed + self._broken:
            self.untroubled = self._permit

    def _judge(self, now: float, random: float) -> BreakerState | None:
        """Open a closed one where a rule is met."""
        self.untroubled = None
        threshold, outcomes = self.failure_threshold, self._outcomes
        in_a_row = threshold is not None and self._failed + self._broken >= threshold
        if in_a_row or (outcomes is not None and self.rules.met(outcomes)):
            return self._open(now, random)
        return None

    def _judge_probes(self, now: float, random: float) -> BreakerState | None:
        """Open it where too few probes are left to close it."""
        if self._failed + self._broken > self.probes - self._to_close:
            return self._open(now, random)
        return None

    def _open(self, now: float, random: float) -> BreakerState:
        stayed_well = self._state == "closed" and now - self._entered_at > self.break_duration
        self._openings = 1 if stayed_well else self._openings + 1
        self.break_duration = self.durations.of(self._openings, random)
        return self._enter("open", now)

    def _first_probe(self, now: float) -> Permit:
        """The open time is over, or the probes that are out have used up theirs."""
        transition = self._enter("half_open", now) if self._state == "open" else None
        self._probing.clear()
        self._turns_at = now + (self._max_half_open or self.durations.first)
        return self._probe(transition)

    def _probe(self, transition: BreakerState | None = None) -> Permit:
        probe = Permit(self._generation, "half_open", transition)
        self._probing.add(probe)
        return probe

    def _enter(self, state: BreakerState, now: float) -> BreakerState:
        self._state = state
        self._generation += 1
        self._permit = Permit(self._generation, state)
        self.untroubled = self._permit if state == "closed" and self._outcomes is None else None
        self._failed = self._broken = 0
        self._passed.clear()
        self._entered_at = now
        self._turns_at = now + self.break_duration
        if self._outcomes is not None and state == "closed":
            self._outcomes.clear()
        return state

    def __repr__(self) -> str:
        failures = self._failed + self._broken
        return f"<CircuitBreaker {self._state} failures={failures} probing={len(self._probing)}>"
