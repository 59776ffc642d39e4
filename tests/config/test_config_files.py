"""The configurations that ship with the project do what they say."""

import re
from pathlib import Path

import pytest
from least_options import least
from pydantic import TypeAdapter

from asgi_gateway.config import (
    Admin,
    Config,
    Connections,
    Ejection,
    EndpointSpec,
    HealthCheck,
    Listen,
    Logging,
    Reload,
    Route,
    Service,
    Shutdown,
    State,
    Timeouts,
    Tls,
    WebSocketOptions,
    load_config,
    parse_config,
    warnings_of,
)
from asgi_gateway.config.schema import Generator
from asgi_gateway.gateway import Gateway
from asgi_gateway.options import accepts_runtime
from asgi_gateway.registry import Registry
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, parse_duration, parse_size

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted(CONFIG.glob("*.yaml"))


def load(name: str, **environ: str) -> Config:
    return load_config(CONFIG / name, registry=Registry(()), environ=environ)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_configuration_loads_without_a_warning(file: Path) -> None:
    assert warnings_of(load(file.name)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_chain_can_be_built(file: Path) -> None:
    async def inner(scope: object, receive: object, send: object) -> None: ...

    for _, chain in load(file.name).chains():
        app: ASGIApp = inner  # type: ignore[assignment]
        for spec in reversed(chain):
            gateways = {"runtime": Runtime(chains={})} if accepts_runtime(spec.factory) else {}
            app = spec.factory(app, **spec.options, **gateways)


def test_the_gateway_is_the_seed_in_full() -> None:
    config = load("gateway.yaml")
    assert (config.listen.host, config.listen.port, config.logging.level) == ("127.0.0.1", 3000, "info")
    assert {name: service.url for name, service in config.services.items()} == {
        "ai": "http://localhost:8000",
        "data": "http://localhost:8001",
        "rag": "http://localhost:8002",
    }
    for name, (first_byte, open_for) in {"ai": (30, 60), "data": (10, 30), "rag": (20, 60)}.items():
        service = config.services[name]
        options = {spec.name: spec.options for spec in service.middleware}
        assert [(route.path, route.strip_prefix) for route in service.routes] == [
            (f"/api/{name}/*", f"/api/{name}")
        ]
        assert service.timeouts.first_byte == first_byte
        assert options["circuit_breaker"]["failure_threshold"] == 5
        assert options["circuit_breaker"]["break_duration"] == open_for
        assert options["retry"]["attempts"] == 4
        assert [options["retry"]["backoff"].delay(n, 0.5) for n in (1, 2, 3)] == [1, 2, 4]
        assert ("POST" in options["retry"]["methods"]) == (name == "ai")
    limits = {
        name: spec.options["limit"]
        for name, chain in config.chains()
        for spec in chain
        if spec.name == "rate_limit"
    }
    assert limits == {None: "100/minute", "ai": "10/minute", "data": "100/minute", "rag": "100/minute"}


def test_the_seeds_environment_is_obeyed() -> None:
    config = load(
        "gateway.yaml",
        HOST="0.0.0.0",
        PORT="8080",
        LOG_LEVEL="DEBUG",
        AI_SERVICE_URL="http://ai:1",
        DATA_SERVICE_URL="http://data:2",
        RAG_SERVICE_URL="http://rag:3",
        RATE_LIMIT_MAX_REQUESTS="7",
    )
    assert (config.listen.host, config.listen.port, config.logging.level) == ("0.0.0.0", 8080, "debug")
    assert [service.url for service in config.services.values()] == [
        "http://ai:1",
        "http://data:2",
        "http://rag:3",
    ]
    assert config.middleware[-1].options["limit"] == "7/minute"


def test_the_minimal_one_is_a_dozen_lines() -> None:
    assert len((CONFIG / "minimal.yaml").read_text().splitlines()) <= 12
    assert list(load("minimal.yaml").services) == ["hello"]


DOCUMENTATION = (CONFIG.parent / "docs" / "configuration.md").read_text()


def test_the_documented_example_loads_without_a_warning() -> None:
    example = next(
        block for block in re.findall(r"```yaml\n(.*?)```", DOCUMENTATION, re.DOTALL) if "services" in block
    )
    config = parse_config(example, registry=Registry(()), environ={})
    assert warnings_of(config) == []


def test_the_documented_order_is_free_of_warnings() -> None:
    sentence = DOCUMENTATION.partition("This order is\nfree of warnings:")[2].partition("\n\n")[0]
    names = [re.findall(r"`(\w+)`", part) for part in sentence.split(";")]
    chain, service_chain = ([least(name) for name in part] for part in names)
    service = {"url": "http://one", "routes": [{"path": "/*"}], "middleware": service_chain}
    services = {"one": service, "x": {"url": "http://x"}}
    config = parse_config(
        {"version": 1, "middleware": chain, "services": services}, registry=Registry(()), environ={}
    )
    assert set(names[0] + names[1]) == set(Registry(()).names)
    assert warnings_of(config) == []


@pytest.mark.parametrize(
    ("part", "prefix"),
    [
        (Config, ""),
        (Listen, "listen."),
        (Logging, "logging."),
        (State, "state."),
        (Reload, "reload."),
        (Shutdown, "shutdown."),
        (Admin, "admin."),
        (Service, ""),
        (EndpointSpec, ""),
        (Route, ""),
        (Timeouts, "timeouts."),
        (Connections, "connections."),
        (Tls, "tls."),
        (WebSocketOptions, "websocket."),
        (Ejection, "ejection."),
        (HealthCheck, "health_check."),
    ],
)
def test_every_key_and_default_is_documented(part: type, prefix: str) -> None:
    documented = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", DOCUMENTATION, re.MULTILINE))
    for name, described in TypeAdapter(part).json_schema(schema_generator=Generator)["properties"].items():
        if "$ref" in described:
            continue  # documented key by key
        cell = documented[prefix + name].strip("`")
        default = described.get("default")
        if prefix in ("timeouts.", "connections.") and isinstance(default, str):
            assert parse_duration(cell) == parse_duration(default)
        elif name == "max_message":
            assert parse_size(cell) == default
        elif isinstance(default, bool | int | str):
            assert cell == str(default).lower()


@pytest.mark.parametrize("name", Registry(()).names)
def test_every_middleware_can_be_built_from_yaml_with_its_defaults(name: str) -> None:
    service = {"url": "http://127.0.0.1:9", "routes": [{"path": "/one/*"}], "middleware": [least(name)]}
    other = {"url": "http://127.0.0.1:9", "routes": [{"path": "/x/*"}]}
    Gateway({"version": 1, "services": {"one": service, "x": other}})
