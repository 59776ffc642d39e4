from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from asgi_gateway.types import (
    MethodSet,
    PositiveSeconds,
    Seconds,
    Size,
    StatusSet,
    parse_duration,
    parse_size,
    parse_statuses,
    write_duration,
    write_size,
    write_statuses,
)

SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)
POSITIVE: TypeAdapter[float] = TypeAdapter(PositiveSeconds)
SIZE: TypeAdapter[int] = TypeAdapter(Size)
STATUSES: TypeAdapter[frozenset[int]] = TypeAdapter(StatusSet)
METHODS: TypeAdapter[frozenset[str]] = TypeAdapter(MethodSet)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("2m", 120),
        ("1h", 3600),
        ("1d", 86400),
        ("1.5 s", 1.5),
        ("7", 7),
        (7, 7),
        (0, 0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert SECONDS.validate_python(text) == seconds


@pytest.mark.parametrize(
    "value", ["", "s", "-1s", -1, "1w", "1s2", "soon", True, False, None, [], float("nan"), float("inf")]
)
def test_what_is_no_duration(value: object) -> None:
    for adapter in (SECONDS, POSITIVE):
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_a_positive_duration_is_not_zero() -> None:
    assert POSITIVE.validate_python("1ms") == 0.001
    for value in (0, "0s", 0.0):
        with pytest.raises(ValidationError):
            POSITIVE.validate_python(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250ms"),
        (5.0, "5s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (7200.0, "2h"),
        (1.5, "1500ms"),
        (0.0, "0s"),
        (0.0005, "0.0005s"),
    ],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert write_duration(seconds) == text


@given(st.integers(0, 10**13).map(lambda microseconds: microseconds / 10**6))
def test_a_written_duration_reads_as_the_same(seconds: float) -> None:
    assert parse_duration(write_duration(seconds)) == pytest.approx(seconds, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("1MB", 10**6),
        ("1 MiB", 2**20),
        ("2GiB", 2**31),
        ("512", 512),
        (512, 512),
        ("0B", 0),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert SIZE.validate_python(text) == size


@pytest.mark.parametrize("value", ["", "1.5MB", "-1", -1, "1kb", True, 1.5, None])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValidationError):
        SIZE.validate_python(value)


@given(st.integers(0, 2**60))
def test_a_written_size_reads_as_the_same(size: int) -> None:
    assert parse_size(write_size(size)) == size


@pytest.mark.parametrize(
    ("value", "statuses"),
    [
        ([500, "502-504"], {500, 502, 503, 504}),
        (["4xx"], set(range(400, 500))),
        ("5xx", set(range(500, 600))),
        (503, {503}),
        ({500, 502}, {500, 502}),
        (frozenset({500}), {500}),
        ([], set()),
    ],
)
def test_status_sets(value: object, statuses: set[int]) -> None:
    assert STATUSES.validate_python(value) == statuses


@pytest.mark.parametrize(
    "value", [[99], [600], ["5x"], ["504-502"], [True], [None], [500.0], {500: 1}, True, None, 1.5]
)
def test_what_is_no_status_set(value: object) -> None:
    with pytest.raises(ValidationError):
        STATUSES.validate_python(value)


@given(st.frozensets(st.integers(100, 599)))
def test_a_written_status_set_reads_as_the_same(statuses: frozenset[int]) -> None:
    assert parse_statuses(write_statuses(statuses)) == statuses


def test_runs_of_statuses_are_ranges() -> None:
    assert write_statuses(frozenset({504, 500, 502, 503})) == [500, "502-504"]


@pytest.mark.parametrize(
    ("value", "methods"), [(["GET", "POST"], {"GET", "POST"}), ("GET", {"GET"}), ({"M-SEARCH"}, {"M-SEARCH"})]
)
def test_method_sets(value: object, methods: set[str]) -> None:
    assert METHODS.validate_python(value) == methods


@pytest.mark.parametrize("value", [["get"], ["GET "], [""], [1], {"GET": 1}, None, 5])
def test_what_is_no_method_set(value: object) -> None:
    with pytest.raises(ValidationError):
        METHODS.validate_python(value)


@pytest.mark.parametrize(
    ("adapter", "value", "written"),
    [
        (SECONDS, 90.0, "90s"),
        (POSITIVE, 0.25, "250ms"),
        (SIZE, 65536, "64KiB"),
        (STATUSES, frozenset({500, 501}), ["500-501"]),
        (METHODS, frozenset({"PUT", "GET"}), ["GET", "PUT"]),
    ],
)
def test_for_json_each_is_written_in_the_notation_of_the_file(adapter: Any, value: Any, written: Any) -> None:
    assert adapter.dump_python(value, mode="json") == written
    assert adapter.dump_python(value) == value


def test_the_schema_says_what_is_read_and_an_option_its_own_words() -> None:
    class Options(BaseModel):
        wait: Annotated[Seconds, Field(description="How long.")]

    schema = Options.model_json_schema()["properties"]["wait"]
    assert schema["description"] == "How long."
    assert {choice["type"] for choice in schema["anyOf"]} == {"number", "string"}
