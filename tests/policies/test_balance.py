"""Balancing as plain functions: shares, ties, and how little a change moves."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.policies.balance import (
    Balance,
    Candidates,
    ConsistentHash,
    LeastInFlight,
    RoundRobin,
    Weighted,
    fingerprint,
)


@dataclass(eq=False)
class Member:
    name: str
    share: float = 1.0
    in_flight: int = 0
    turn: float = 0.0

    @property
    def seed(self) -> int:
        return fingerprint(self.name)


def members(*shares: float) -> list[Member]:
    return [Member(f"10.0.0.{number}:80", share) for number, share in enumerate(shares)]


def chosen(
    balance: Balance, among: list[Member], times: int = 20_000, key: Callable[[int], str | None] | None = None
) -> list[float]:
    """The part of the choices that fell on each."""
    candidates = Candidates(among)
    chance = random.Random(1).random
    counts = Counter(
        balance.choose(candidates, chance, None if key is None else key(n)).name for n in range(times)
    )
    return [counts[member.name] / times for member in among]


EVERY = pytest.mark.parametrize("balance", [LeastInFlight, RoundRobin, Weighted, ConsistentHash])


@EVERY
@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (1, 2, 3, 4), (0.05, 1, 1), (7,)])
def test_weights_are_kept_within_five_percent(balance: type[Balance], shares: tuple[float, ...]) -> None:
    found = chosen(balance(), members(*shares), times=40_000)
    assert found == pytest.approx([share / sum(shares) for share in shares], rel=0.05, abs=0.003)


def test_keys_are_spread_by_weight() -> None:
    found = chosen(ConsistentHash(), members(1, 2, 3, 4), key=lambda n: f"user-{n}")
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=0.05)


@EVERY
@given(
    shares=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8),
    numbers=st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2),
    in_flight=st.lists(st.integers(0, 1000), min_size=8, max_size=8),
    key=st.none() | st.text() | st.binary(),
)
def test_one_of_the_candidates_is_always_chosen(
    balance: type[Balance],
    shares: list[float],
    numbers: list[float],
    in_flight: list[int],
    key: str | bytes | None,
) -> None:
    among = members(*shares)
    for member, count in zip(among, in_flight, strict=False):
        member.in_flight = count
    remaining = list(numbers)
    assert balance().choose(Candidates(among), remaining.pop, key) in among


def test_round_robin_takes_turns_in_order() -> None:
    among = members(1, 1, 1)
    balance, candidates = RoundRobin(), Candidates(among)
    taken = [among.index(balance.choose(candidates, random.random, None)) for _ in range(7)]
    assert taken == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_spreads_the_turns_of_a_heavy_one() -> None:
    among = members(3, 1)
    balance, candidates = RoundRobin(), Candidates(among)
    taken = [among.index(balance.choose(candidates, random.random, None)) for _ in range(12)]
    assert taken.count(1) == 3
    assert [1, 1] not in [taken[n : n + 2] for n in range(11)]


def test_round_robin_does_not_make_up_for_the_turns_that_one_missed() -> None:
    among = members(1, 1)
    balance = RoundRobin()
    for _ in range(100):
        balance.choose(Candidates(among[:1]), random.random, None)
    both = Candidates(among)
    taken = [among.index(balance.choose(both, random.random, None)) for _ in range(10)]
    assert 4 <= taken.count(1) <= 6


def test_the_less_busy_of_two_is_chosen() -> None:
    among = members(1, 1)
    among[0].in_flight = 1
    assert chosen(LeastInFlight(), among) == [0, 1]


def test_being_busy_is_measured_against_the_share() -> None:
    among = members(4, 1)
    among[0].in_flight, among[1].in_flight = 3, 1
    assert chosen(LeastInFlight(), among) == [1, 0]


def test_the_busiest_of_many_is_never_chosen() -> None:
    among = members(1, 1, 1, 1)
    among[3].in_flight = 9
    assert chosen(LeastInFlight(), among) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], rel=0.05)


def test_a_light_one_that_is_idle_is_not_drawn_as_often_as_a_heavy_one() -> None:
    """One that comes back slowly would else get a tenth of all requests from the first moment on."""
    among = members(0.1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    for member in among[1:]:
        member.in_flight = 5
    twice_drawn = 0.1 / 9.1 + 9 / 9.1 * 0.1 / 8.1
    assert chosen(LeastInFlight(), among)[0] == pytest.approx(twice_drawn, rel=0.15)


def test_requests_that_stay_fill_endpoints_by_weight() -> None:
    among = members(1, 2, 5)
    candidates, chance = Candidates(among), random.Random(2).random
    for _ in range(800):
        LeastInFlight().choose(candidates, chance, None).in_flight += 1
    assert [member.in_flight for member in among] == pytest.approx([100, 200, 500], rel=0.05)


def owners(among: list[Member], keys: range = range(5000)) -> dict[int, Member]:
    candidates = Candidates(among)
    return {key: ConsistentHash().choose(candidates, random.random, f"key-{key}") for key in keys}


def test_the_same_key_goes_to_the_same_endpoint_in_every_process() -> None:
    among = members(1, 1, 1)
    assert [
        ConsistentHash().choose(Candidates(among), random.random, key).name for key in ("a", "b", "c")
    ] == [
        ConsistentHash().choose(Candidates(list(reversed(among))), random.random, key).name
        for key in (b"a", b"b", b"c")
    ]
    assert fingerprint("a") == 0x40F89E395B66422F


def test_an_endpoint_that_goes_gives_up_its_own_keys_and_no_others() -> None:
    among = members(1, 1, 1, 1)
    before, after = owners(among), owners(among[:-1])
    assert all(after[key] is owner for key, owner in before.items() if owner is not among[-1])
    moved = Counter(after[key].name for key, owner in before.items() if owner is among[-1])
    assert sum(moved.values()) / len(before) == pytest.approx(1 / 4, rel=0.1)
    assert min(moved.values()) / max(moved.values()) > 0.75


def test_an_endpoint_that_comes_takes_its_share_and_no_more() -> None:
    among = members(1, 1, 1, 1, 1)
    before, after = owners(among[:-1]), owners(among)
    moved = [key for key in before if before[key] is not after[key]]
    assert all(after[key] is among[-1] for key in moved)
    assert len(moved) / len(before) == pytest.approx(1 / 5, rel=0.1)


def test_a_growing_share_only_attracts_keys() -> None:
    among = members(1, 1, 0.1)
    before = owners(among)
    among[2].share = 0.5
    after = owners(among)
    assert all(after[key] is among[2] for key in before if before[key] is not after[key])
