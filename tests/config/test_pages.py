"""Every piece of YAML and of Python in docs/ is valid, once what it leaves out is added."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from asgi_gateway.config import Config, ConfigError, parse_config, warnings_of
from asgi_gateway.registry import Registry

ROOT = Path(__file__).parents[2]
BLOCKS = [
    pytest.param(language, text, id=f"{page.stem}:{text.splitlines()[0]}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    if language in ("yaml", "python")
]


def loaded(document: dict[str, Any]) -> Config:
    return parse_config(document, registry=Registry(()), environ={"STORE_PASSWORD": "secret"})


def mistakes(document: dict[str, Any]) -> list[str]:
    """What is wrong with a piece of a configuration beside files that are not here."""
    services = {"one": {"url": "http://one"}} | document.get("services", {})
    for name, service in services.items():
        place = {} if {"url", "endpoints", "app"} & service.keys() else {"url": f"http://{name}"}
        services[name] = {"routes": [{"path": f"/{name}"}], **place, **service}
    whole = {"version": 1, **document, "services": services}
    try:
        return [*map(str, warnings_of(loaded(whole)))]
    except ConfigError as error:
        told = [mistake.message for mistake in error.mistakes if "No such file" not in mistake.message]
    missing = {name for message in told for name in re.findall(r"there is no service '([\w-]+)'", message)}
    if missing:
        return mistakes({**document, "services": services | {name: {} for name in missing}})
    return told


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_it_is_valid(language: str, text: str) -> None:
    if language == "python":
        compile(text, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    else:
        assert mistakes(yaml.safe_load(text) or {}) == []


def test_a_piece_that_is_wrong_is_seen() -> None:
    assert mistakes({"middleware": ["health", {"rate_limit": {"limits": "1/minute"}}]})
    assert mistakes({"services": {"ai": {"middleware": ["retry", "circuit_breaker"]}}})
