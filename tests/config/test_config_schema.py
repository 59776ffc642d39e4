import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from asgi_gateway.config import Config, json_schema
from asgi_gateway.config.yaml12 import compose
from asgi_gateway.registry import Registry

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted(CONFIG.glob("*.yaml"))


@pytest.fixture
def validator(registry: Registry) -> Draft202012Validator:
    return Draft202012Validator(json_schema(registry))


def errors(validator: Draft202012Validator, data: Any) -> list[str]:
    return [error.message for error in validator.iter_errors(data)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())


def test_the_kept_file_is_fresh() -> None:
    kept = json.loads((CONFIG / "gateway.schema.json").read_text())
    assert kept == json_schema(Registry(())), "run: asgi-gateway schema > config/gateway.schema.json"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_projects_configurations_satisfy_it_as_they_are_written(file: Path) -> None:
    text = file.read_text()
    assert text.startswith("# yaml-language-server: $schema=gateway.schema.json\n")
    data = _data(compose(text))
    assert errors(Draft202012Validator(json_schema(Registry(()))), data) == []


def test_there_are_configurations() -> None:
    assert {"gateway.yaml", "minimal.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize(
    "data",
    [
        {"listen": {"port": "${PORT:-3000}"}},
        {"logging": {"level": "${LOG_LEVEL:-info}"}},
        {"middleware": ["toy", {"toy": None}, {"toy": {"count": "${N}", "wait": "${W}", "flag": "${F}"}}]},
        {"middleware": [{"toy": {"statuses": [500, "502-504", "4xx", "${S}"], "backoff": {"initial": 1}}}]},
        {"middleware": [{"use": "a:B"}, {"use": "a:B", "options": {"x": 1}}, {"needy": {"limit": 3}}]},
        {"services": {"a": {"url": "${URL}", "routes": [{"path": "${P}", "methods": ["GET", "${M}"]}]}}},
    ],
)
def test_references_are_accepted_wherever_they_are_read(validator: Draft202012Validator, data: Any) -> None:
    assert errors(validator, {"version": 1, **data}) == []


@pytest.mark.parametrize(
    "data",
    [
        {"version": 2},
        {"version": "${V}"},
        {"listen": {"port": "many"}},
        {"listen": {"prot": 1}},
        {"logging": {"level": "loud"}},
        {"middleware": ["toyy"]},
        {"middleware": ["needy"]},
        {"middleware": [{"needy": None}]},
        {"middleware": [{"toy": {"cuont": 1}}]},
        {"middleware": [{"toy": {"wait": "soon"}}]},
        {"middleware": [{"toy": {"backoff": {"factr": 1}}}]},
        {"middleware": [{"toy": {}, "needy": {}}]},
        {"middleware": [{"use": "a:B", "option": {}}]},
        {"services": {"a b": {"url": "http://x", "routes": [{"path": "/"}]}}},
        {"services": {"a": {"url": "x", "routes": [{"path": "/"}]}}},
        {"services": {"a": {"url": "http://x", "routes": [{"path": "x"}]}}},
        {"services": {"a": {"url": "http://x", "routes": [{"path": "/", "methods": ["get"]}]}}},
    ],
)
def test_mistakes_are_seen_in_the_editor(validator: Draft202012Validator, data: Any) -> None:
    assert errors(validator, {"version": 1, **data})


def test_whatever_loads_satisfies_it(validator: Draft202012Validator, parse: Callable[..., Config]) -> None:
    data = {"version": 1, "middleware": [{"toy": {"names": ["a"], "ratio": 0.5, "size": "64KiB"}}]}
    assert parse(data)
    assert errors(validator, data) == []


def test_options_are_described_with_their_defaults_in_the_notation_of_the_file(registry: Registry) -> None:
    schema = json_schema(registry)
    named = schema["$defs"]["Middleware"]["anyOf"][1]["properties"]
    toy = named["toy"]["anyOf"][0]
    assert toy["description"] == "A toy."
    assert toy["properties"]["wait"]["description"] == "How long."
    assert toy["properties"]["wait"]["default"] == "90s"
    assert toy["properties"]["size"]["default"] == "64KiB"
    assert toy["properties"]["statuses"]["default"] == [500, "502-503"]
    assert "runtime" not in toy["properties"]
    assert set(named) == set(registry.names)


def test_every_built_in_option_is_described() -> None:
    schema = json_schema(Registry(()))
    for name, entry in schema["$defs"]["Middleware"]["anyOf"][1]["properties"].items():
        described = next((choice for choice in entry.get("anyOf", [entry]) if "properties" in choice), entry)
        for option, text in described["properties"].items():
            assert text.get("description"), f"{name}.{option}"


def _data(node: Any) -> Any:
    """The data of a node, references left as they are."""
    from yaml.nodes import MappingNode, SequenceNode

    from asgi_gateway.config.yaml12 import scalar_value

    if isinstance(node, MappingNode):
        return {key.value: _data(value) for key, value in node.value}
    return [_data(item) for item in node.value] if isinstance(node, SequenceNode) else scalar_value(node)
