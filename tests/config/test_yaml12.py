import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from yaml.nodes import MappingNode, ScalarNode

from asgi_gateway.config.yaml12 import MAX_DEPTH, compose, scalar_value


def read(text: str) -> Any:
    node = compose(f"key: {text}\n")
    assert isinstance(node, MappingNode)
    value = node.value[0][1]
    assert isinstance(value, ScalarNode)
    return scalar_value(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("-7", -7),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("5s", "5s"),
        ("100/minute", "100/minute"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("~", None),
        ("null", None),
        ("", None),
        ("'true'", "true"),
        ('"12"', "12"),
        ("''", ""),
        ("|-\n  12", "12"),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(read(".nan"))


def test_a_number_too_long_for_python_is_text() -> None:
    assert read("1" * 5000) == "1" * 5000


@given(st.integers())
def test_every_integer_is_read(number: int) -> None:
    assert read(str(number)) == number


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!str", "!!int", "!own", "!"])
def test_tags_are_refused_where_they_stand(tag: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match="tags") as caught:
        compose(f"a: 1\nb: {tag} x\n")
    assert caught.value.problem_mark is not None
    assert (caught.value.problem_mark.line, caught.value.problem_mark.column) == (1, 3)


def test_nesting_is_bounded() -> None:
    assert compose("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)) is not None
    with pytest.raises(yaml.MarkedYAMLError, match="deep"):
        compose("[" * 100_000)


def test_nothing_is_no_node() -> None:
    assert compose("# only a comment\n") is None
