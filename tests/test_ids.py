import os
import re

import pytest

from asgi_gateway.ids import RandomHex, uuid4


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


def test_a_uuid_says_its_version_and_variant() -> None:
    assert uuid4("0" * 32) == "00000000-0000-4000-8000-000000000000"
    assert uuid4("f" * 32) == "ffffffff-ffff-4fff-bfff-ffffffffffff"
