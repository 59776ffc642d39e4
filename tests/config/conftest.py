from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from asgi_gateway.config import Config, ConfigError, parse_config
from asgi_gateway.registry import GROUP, Registry

TOYS = ("toy", "needy", "fussy", "opaque")


@pytest.fixture
def registry() -> Registry:
    """The built-in middlewares and the toys, whatever else is installed."""
    return Registry(EntryPoint(name, f"config_toys:{name.title()}Middleware", GROUP) for name in TOYS)


@pytest.fixture
def parse(registry: Registry) -> Callable[..., Config]:
    """`parse_config` with the toys, and no environment but what is given."""

    def parse(content: str | Mapping[str, Any], **environ: str) -> Config:
        return parse_config(content, source="g.yaml", registry=registry, environ=environ)

    return parse


@pytest.fixture
def mistakes(parse: Callable[..., Config]) -> Callable[..., list[str]]:
    """Every mistake of a configuration, as it is printed."""

    def mistakes(content: str | Mapping[str, Any], **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            parse(content, **environ)
        return [str(mistake) for mistake in caught.value.mistakes]

    return mistakes


@pytest.fixture
def options_mistakes(mistakes: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """What is wrong with the options of one toy, less the place."""

    def options_mistakes(options: str, name: str = "toy", **environ: str) -> list[str]:
        found = mistakes(f"version: 1\nmiddleware:\n  - {name}: {options}\n", **environ)
        return [text.partition(f"middleware[0].{name}")[2] for text in found]

    return options_mistakes
