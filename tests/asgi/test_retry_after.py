import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.asgi.retry_after import parse_retry_after, retry_after_header

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("seconds", "value"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.01, b"2"), (60.0, b"60")]
)
def test_seconds_are_rounded_up_and_at_least_one(seconds: float, value: bytes):
    assert retry_after_header(seconds) == (b"retry-after", value)


@given(seconds=st.floats(0, 1e6))
def test_who_obeys_the_header_has_waited_long_enough(seconds: float):
    waited = parse_retry_after(retry_after_header(seconds)[1], NOW)
    assert waited is not None
    assert waited >= max(1, seconds)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b" 120 ", 120.0),
        (b"9" * 5000, float("inf")),
        (b"Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        (b"Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        (b"Sun Nov  6 08:49:47 1994", 10.0),
        (b"Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
    ],
)
def test_seconds_and_every_form_of_date_are_read(value: bytes, seconds: float):
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value", [b"", b"soon", b"-1", b"1.5", "²".encode(), b"Sun, 99 Nov 1994 08:49:47 GMT", b"\xff"]
)
def test_anything_else_is_nothing(value: bytes):
    assert parse_retry_after(value, NOW) is None


@given(value=st.binary(max_size=40))
def test_no_value_makes_it_raise(value: bytes):
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
