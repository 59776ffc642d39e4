from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from asgi_gateway.config import Config, Connections, Listen, Timeouts, load_config

Parse = Callable[..., Config]

TEXT = """\
version: 1
listen: {host: "::1", port: "${PORT:-3000}"}
logging: {level: "${LOG_LEVEL:-info}"}
services:
  ai:
    url: ${AI_URL:-http://localhost:8000/base}
    required: yes
    transport: httpx
    preserve_host: "${KEEP_HOST:-no}"
    timeouts: {connect: 250ms, first_byte: 2m}
    connections: {max: 3}
    routes:
      - {path: /ai/*, strip_prefix: /ai, methods: [GET, POST], host: AI.Example.com.}
      - {path: /exact}
  app:
    app: json:decoder.JSONDecoder
    routes: [{path: /}]
"""


def test_a_file_becomes_typed_values(parse: Parse) -> None:
    config = parse(TEXT, PORT="4000", LOG_LEVEL="WARNING")
    assert config.listen == Listen(host="::1", port=4000)
    assert config.logging.level == "warning"
    ai = config.services["ai"]
    assert ai.url == "http://localhost:8000/base"
    assert ai.required is True
    assert ai.preserve_host is False
    assert ai.transport == "httpx"
    assert ai.timeouts == Timeouts(connect=0.25, first_byte=120, idle=60)
    assert ai.connections == Connections(max=3)
    route, exact = ai.routes
    assert (route.path, route.strip_prefix, route.methods) == ("/ai/*", "/ai", {"GET", "POST"})
    assert route.host == "ai.example.com"
    assert (exact.host, exact.methods, exact.strip_prefix) == (None, None, None)
    assert config.services["app"].app == "json:decoder.JSONDecoder"


def test_a_version_is_a_configuration(parse: Parse) -> None:
    config = parse("version: 1")
    assert config.listen == Listen(host="127.0.0.1", port=3000)
    assert config.logging.level == "info"
    assert config.services == {}
    assert config.middleware == ()


def test_the_defaults_of_a_service(parse: Parse) -> None:
    config = parse({"version": 1, "services": {"x": {"url": "http://x", "routes": [{"path": "/*"}]}}})
    service = config.services["x"]
    assert not service.required
    assert not service.preserve_host
    assert service.transport == "http1"
    assert service.timeouts == Timeouts(connect=5, first_byte=30, idle=60)
    assert service.connections == Connections(max=256, max_pending=1024, idle_expiry=4)


def test_a_configuration_cannot_be_changed(parse: Parse) -> None:
    config = parse(TEXT)
    with pytest.raises(ValidationError):
        config.listen.port = 1


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "https://ai_service:8443/v1/",
        "http://[::1]:8000",
        "http://10.0.0.1:8000/a%20b",
    ],
)
def test_urls_of_services(parse: Parse, url: str) -> None:
    config = parse({"version": 1, "services": {"x": {"url": url, "routes": [{"path": "/*"}]}}})
    assert config.services["x"].url == url


@pytest.mark.parametrize("host", ["a", "a.example.com", "*.example.com", "[::1]", "my_host", "10.0.0.1"])
def test_hosts_of_routes(parse: Parse, host: str) -> None:
    service = {"url": "http://x", "routes": [{"path": "/*", "host": host}]}
    assert parse({"version": 1, "services": {"x": service}}).services["x"].routes[0].host == host


@pytest.mark.parametrize(
    ("path", "prefix"),
    [("/api/ai/*", "/api/ai"), ("/api/ai/*", "/api"), ("/api/ai", "/api/ai"), ("/a/b", "/a")],
)
def test_prefixes_end_where_a_segment_ends(parse: Parse, path: str, prefix: str) -> None:
    service = {"url": "http://x", "routes": [{"path": path, "strip_prefix": prefix}]}
    assert parse({"version": 1, "services": {"x": service}}).services["x"].routes[0].strip_prefix == prefix


def test_relative_secrets_stand_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("4001\n")
    (tmp_path / "g.yaml").write_text('version: 1\nlisten: {port: "${file:port}"}\n')
    assert load_config(tmp_path / "g.yaml", environ={}).listen.port == 4001


def test_the_environment_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_GATEWAY_PORT", "4002")
    (tmp_path / "g.yaml").write_text('version: 1\nlisten: {port: "${TEST_GATEWAY_PORT}"}\n')
    assert load_config(tmp_path / "g.yaml").listen.port == 4002


def test_whoever_builds_a_part_can_say_where_it_failed(parse: Parse) -> None:
    config = parse("version: 1\nmiddleware:\n  - toy\n")
    mistake = config.mistake(("middleware", 0), "would not start at redis://me:pw@host")
    assert str(mistake) == "g.yaml:3:5: middleware[0]: would not start at redis://***@host"
