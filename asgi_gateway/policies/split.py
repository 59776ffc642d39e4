"""Which of several services takes a request, by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asgi_gateway.policies.balance import Candidates, ConsistentHash, Key, Random, fingerprint


@dataclass(slots=True)
class _Branch:
    index: int
    share: float
    seed: int
    in_flight: int = 0
    turn: float = 0.0


class Split:
    """Chooses by weight, at random or by a key.

    The same key gets the same choice, in every process and after a restart, and for as long as the
    weights stay. Where a weight changes, only as many keys move as the shares changed by: each key goes
    to the name with the highest score (rendezvous hashing). Raises `ValueError` where no weight is above 0
    or a name is there twice.
    """

    def __init__(self, weights: Sequence[tuple[str, float]]) -> None:
        names = [name for name, _ in weights]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is there twice: give it the sum of both weights")
        branches = [
            _Branch(index, weight, fingerprint(name))
            for index, (name, weight) in enumerate(weights)
            if weight
        ]
        if not branches:
            raise ValueError("no weight is above 0")
        self._candidates = Candidates(branches)
        self._hash = ConsistentHash()

    def choose(self, random: Random, key: Key | None = None) -> int:
        """The place of the choice among the weights; at random where there is no key."""
        return self._hash.choose(self._candidates, random, key).index
