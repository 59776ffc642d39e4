"""Which endpoint takes the next request: decided at once, from what is known of each.

Every way of balancing obeys weights. The share of an endpoint is its weight, less while it comes
back slowly; one without a share is never a candidate.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

Random: TypeAlias = Callable[[], float]
Key: TypeAlias = str | bytes

_MASK: Final = 2**64 - 1


class Member(Protocol):
    """What balancing knows of an endpoint."""

    share: float
    in_flight: int
    turn: float
    """Used by `RoundRobin` alone: when this endpoint's next turn comes, in turns of weight 1."""
    seed: int
    """A number of 64 bits that stays with the endpoint's name: see `fingerprint`."""


M = TypeVar("M", bound=Member)


class Candidates(Generic[M]):
    """The endpoints that may be chosen, at least one, each with a share above zero."""

    __slots__ = ("_cumulative", "_total", "equal", "members")

    def __init__(self, members: Sequence[M]) -> None:
        self.members = tuple(members)
        shares = [member.share for member in members]
        self.equal = len(set(shares)) == 1
        self._cumulative = list(accumulate(shares))
        self._total = self._cumulative[-1]

    def draw(self, random: Random) -> M:
        """One of them at random, each as likely as its share is large."""
        members = self.members
        if self.equal:
            return members[int(random() * len(members))]
        return members[bisect(self._cumulative, random() * self._total, hi=len(members) - 1)]

    def draw_two(self, random: Random) -> tuple[M, M]:
        """Two different ones, each drawn by share; there must be two."""
        members, cumulative = self.members, self._cumulative
        last = len(members) - 1
        if self.equal:
            first, second = int(random() * (last + 1)), int(random() * last)
            return members[first], members[last if second == first else second]
        first = bisect(cumulative, random() * self._total, 0, last)
        begin = cumulative[first - 1] if first else 0.0
        width = cumulative[first] - begin
        point = random() * (self._total - width)
        if point >= begin:  # past the place of the first
            point += width
        return members[first], members[bisect(cumulative, point, 0, last)]


class Balance(Protocol):
    """Chooses an endpoint for one request."""

    def choose(self, candidates: Candidates[M], random: Random, key: Key | None) -> M:
        """One of the candidates. `key` is what a consistent choice hangs on, None where there is none."""


class LeastInFlight:
    """Of two endpoints drawn by weight the one with fewer requests in flight for its share.

    Two random choices come close to the best of all at the cost of two, and unlike the best of all
    they do not send every worker's next request to the same endpoint (Mitzenmacher 2001). Where both
    are as busy the first draw stands, so weights hold when there is little to do.
    """

    def choose(self, candidates: Candidates[M], random: Random, key: Key | None) -> M:
        members = candidates.members
        if len(members) == 1:
            return members[0]
        first, second = candidates.draw_two(random)
        return second if second.in_flight * first.share < first.in_flight * second.share else first


class RoundRobin:
    """Each in turn, as often as its weight says, the turns of one spread among those of the others.

    Each turn taken puts the next one off by 1 / share. An endpoint that was away goes on from now
    and does not make up for the turns that it missed.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def choose(self, candidates: Candidates[M], random: Random, key: Key | None) -> M:
        member = min(candidates.members, key=_turn)
        self._now = max(self._now, member.turn)
        member.turn = self._now + 1 / member.share
        return member


class Weighted:
    """At random, each as likely as its weight is large."""

    def choose(self, candidates: Candidates[M], random: Random, key: Key | None) -> M:
        return candidates.draw(random)


class ConsistentHash:
    """The same key to the same endpoint, for as long as that may be chosen.

    By rendezvous: each endpoint has a score for the key, the highest wins. One that goes gives up only
    its own keys, in proportion to all others, one that comes takes only its share, and the next best is
    where a retry goes. There is no ring to build and weights are exact; the price is a fraction of a
    microsecond for each endpoint, which a ring would undercut from some dozens on. A request without a
    key is balanced at random.
    """

    def choose(self, candidates: Candidates[M], random: Random, key: Key | None) -> M:
        if key is None:
            return candidates.draw(random)
        hashed = fingerprint(key)
        return max(candidates.members, key=lambda member: _score(hashed, member))


def fingerprint(key: Key) -> int:
    """A number of 64 bits for a key or an endpoint's name, the same in every process."""
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _turn(member: Member) -> float:
    return member.turn


def _score(hashed: int, member: Member) -> float:
    """The share over an exponentially distributed number: the highest of such is theirs by weight."""
    mixed = ((hashed ^ member.seed) * 0xBF58476D1CE4E5B9) & _MASK  # the steps of splitmix64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    mixed ^= mixed >> 31
    return member.share / -math.log(((mixed >> 12) + 0.5) / 2**52)
