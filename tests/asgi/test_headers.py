"""Header lists in all the shapes that ASGI allows, and in both ways that each function goes."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from asgi_gateway.asgi.headers import fields_of, get_all, get_header, names_of, replaced, without

PLAIN = [(b"host", b"h"), (b"x-a", b"1"), (b"x-b", b"2")]
MIXED = [(b"Host", b"h"), (b"X-A", b"1"), (b"x-a", b"3"), (b"X-B", b"2")]

as_they_may_come = pytest.mark.parametrize(
    "shape",
    [list, tuple, lambda pairs: [list(pair) for pair in pairs]],
    ids=["a list", "a tuple", "pairs that are lists"],
)
Shape = Callable[[Iterable[Any]], Any]


def pairs_of(headers: Iterable[Any]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers]


@as_they_may_come
def test_a_value_is_found_whatever_the_case_of_its_name(shape: Shape) -> None:
    for headers in (shape(PLAIN), shape(MIXED)):
        assert get_header(headers, b"x-a") == b"1"
        assert get_header(headers, b"x-c") is None
    assert get_all(shape(MIXED), b"x-a") == [b"1", b"3"]


@as_they_may_come
def test_headers_are_taken_out_and_put_in_anew(shape: Shape) -> None:
    assert pairs_of(without(shape(PLAIN), frozenset({b"x-a"}))) == [PLAIN[0], PLAIN[2]]
    assert pairs_of(without(shape(MIXED), frozenset({b"x-a"}))) == [MIXED[0], MIXED[3]]
    assert pairs_of(without(shape(PLAIN), frozenset({b"x-c"}))) == PLAIN
    assert pairs_of(replaced(shape(PLAIN), b"x-c", b"new")) == [*PLAIN, (b"x-c", b"new")]
    assert pairs_of(replaced(shape(MIXED), b"x-a", b"new")) == [MIXED[0], MIXED[3], (b"x-a", b"new")]


def test_an_iterator_is_read_once() -> None:
    assert without(iter(PLAIN), frozenset({b"x-a"})) == [PLAIN[0], PLAIN[2]]
    assert replaced(iter(PLAIN), b"x-a", b"new") == [PLAIN[0], PLAIN[2], (b"x-a", b"new")]


def test_only_plain_headers_are_a_dictionary() -> None:
    assert fields_of(PLAIN) == dict(PLAIN)
    assert fields_of(MIXED) is None
    assert fields_of([*PLAIN, (b"x-a", b"2")]) is None


def test_all_names_are_searched_at_once() -> None:
    assert names_of([(b"Host", b"h"), (b"X_Real_IP", b"1")]) == b"host\nx-real-ip"
