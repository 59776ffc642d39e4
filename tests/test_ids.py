import os
import re
import uuid
from itertools import count

import pytest

from asgi_gateway.ids import RandomHex, Ready, uuid4


def test_digits_are_hexadecimal_and_never_given_twice() -> None:
    ids = RandomHex()
    given = [ids(32) for _ in range(1000)]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in given)
    assert len(set(given)) == 1000


def test_as_many_digits_as_are_asked_for_come_however_many_are_left() -> None:
    ids = RandomHex()
    assert [len(ids(count)) for count in (1, 16, 4095, 10_001, 32)] == [1, 16, 4095, 10_001, 32]


def test_one_draw_serves_many_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    monkeypatch.setattr(os, "urandom", lambda count: draws.append(count) or bytes(count))
    ids = RandomHex()
    assert draws == []
    for _ in range(100):
        ids(32)
    assert len(draws) == 1


def test_what_is_ready_is_made_on_first_use_and_handed_out_once() -> None:
    numbers = count()
    ready = Ready(lambda ids: (next(numbers), ids(8)))
    assert next(numbers) == 0
    given = [ready() for _ in range(100)]
    assert len({number for number, _ in given}) == 100
    assert len({digits for _, digits in given}) == 100


@pytest.mark.parametrize(
    ("digits", "made"),
    [
        ("0" * 32, "00000000-0000-4000-8000-000000000000"),
        ("f" * 32, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
        ("0123456789abcdef0123456789abcdef", "01234567-89ab-4def-8123-456789abcdef"),
    ],
)
def test_a_uuid_says_its_version_and_variant(digits: str, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: bytes.fromhex(digits) * (count // 16))
    assert uuid4(RandomHex()) == made
    assert str(uuid.UUID(made)) == made
