from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_gateway.config import Config, effective_yaml, load_config, parse_config
from asgi_gateway.registry import Registry

Parse = Callable[..., Config]

TEXT = """\
version: 1
listen: {port: "${PORT:-4000}"}
middleware:
  - toy: {statuses: [500, 502-504], mode: "${MODE:-slow}", backoff: {factor: 3}}
  - needy: {limit: 3, anything: {on: [no, '012', "0o7", '${X:-1e3}']}}
  - use: config_toys:OpaqueMiddleware
    options: {price: '$${USD}', deep: [{token: "${TOKEN}"}]}
services:
  ai:
    url: http://localhost:8000
    routes: [{path: /ai/*}]
  app:
    app: json:dumps
    routes: [{path: /app, methods: [GET]}]
    middleware: [request_id]
"""


def test_every_default_is_filled_in_and_what_is_written_stays(parse: Parse) -> None:
    assert (
        effective_yaml(parse(TEXT, TOKEN="hunter2"))
        == """\
version: 1
listen: {host: 127.0.0.1, port: 4000}
logging: {level: info}
workers: 1
reload: {watch: true, interval: 1s, drain_timeout: 5m}
shutdown: {accept_grace: 0s, drain_timeout: 25s}
admin: {}
middleware:
- toy:
    count: 3
    wait: 90s
    size: 64KiB
    statuses: [500, 502-504]
    mode: slow
    names: x
    deep: x
    either: all
    choice: 1KiB
    flag: false
    backoff: {initial: 1s, factor: 3}
- needy:
    limit: 3
    anything:
      'on': ['no', '012', '0o7', '1e3']
- use: config_toys:OpaqueMiddleware
  options:
    price: $${USD}
    deep:
    - {token: '${TOKEN}'}
services:
  ai:
    url: http://localhost:8000
    required: false
    transport: http1
    preserve_host: false
    forwarded: x_forwarded
    timeouts: {connect: 5s, first_byte: 30s, idle: 1m}
    connections: {max: 256, max_pending: 1024, idle_expiry: 4s, max_age: 1h, warm: 0}
    websocket: {max_message: 16MiB}
    routes:
    - {path: /ai/*}
    middleware: []
  app:
    app: json:dumps
    required: false
    routes:
    - path: /app
      methods: [GET]
    middleware:
    - request_id: {header: X-Request-ID}
"""
    )


def test_it_loads_to_an_equal_configuration(parse: Parse) -> None:
    config = parse(TEXT, TOKEN="hunter2")
    again = parse(effective_yaml(config), TOKEN="hunter2")
    assert again == config
    assert effective_yaml(again) == effective_yaml(config)


def test_secrets_are_shown_as_what_they_came_from(parse: Parse, tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("hunter2")
    config = parse(
        {
            "version": 1,
            "middleware": [
                {"opaque": {"a": "${API_KEY:-hunter2}", "b": f"${{file:{tmp_path}/dsn}}"}},
                {"opaque": {"c": "redis://me:hunter2@host/0", "d": "see http://x/@y"}},
                {
                    "opaque": {
                        "e": "http://x:80/?a@b http://[::1]/@c",
                        "f": "db://me:hunter/2@x db://:7/hunter2@y",
                    }
                },
                {"toy": {"names": ["${MY_TOKEN}"]}},
            ],
        },
        MY_TOKEN="hunter2",
    )
    text = effective_yaml(config)
    assert "hunter2" not in text
    assert "hunter2" not in repr(config)
    for shown in (
        "${API_KEY:-***}",
        f"${{file:{tmp_path}/dsn}}",
        "redis://***@host/0",
        "http://x/@y",
        "http://x:80/?a@b http://[::1]/@c",
        "db://***@x db://***@y",
        "${MY_TOKEN}",
    ):
        assert shown in text
    assert config.middleware[0].options["a"] == "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "listen: {port: '${SECRET}'}",
        "listen: {host: ['${SECRET}']}",
        "listen: {'port': 1, '${SECRET}': 1}",
        "logging: {level: '${SECRET}'}",
        "middleware: ['${SECRET}']",
        "middleware: [{use: '${SECRET}'}]",
        "middleware: [{use: '${SECRET}:X'}]",
        "middleware: [{fussy: {secret: '${SECRET}'}}]",
        "middleware: [{toy: {wait: '${SECRET}'}}]",
        "middleware: [{toy: {mode: '${SECRET}'}}]",
        "middleware: [{toy: {names: {x: '${SECRET}'}}}]",
        "middleware: [{toy: {statuses: ['${SECRET}']}}]",
        "middleware: [{toy: '${SECRET}'}]",
        "services: {x: {url: '${SECRET}', routes: [{path: /}]}}",
        "services: {x: {url: 'http://${SECRET}@x', routes: [{path: /}]}}",
        "services: {x: {app: 'a:${SECRET}:', routes: [{path: '${SECRET}'}]}}",
        "services: {x: {app: 'json:dumps', routes: [{path: '/x', methods: ['${SECRET}']}]}}",
    ],
)
def test_no_message_quotes_a_secret(mistakes: Callable[..., list[str]], text: str) -> None:
    found = mistakes(f"version: 1\n{text}\n", SECRET="hunter2")
    assert found
    assert "hunter2" not in "".join(found)


def test_a_reason_that_may_quote_a_secret_is_withheld(mistakes: Callable[..., list[str]]) -> None:
    text = "version: 1\nmiddleware: [{fussy: {secret: '%s'}}]\n"
    assert "I do not like plain" in mistakes(text % "plain")[0]
    assert "may quote a secret" in mistakes(text % "${SECRET}", SECRET="plain")[0]


def test_a_builder_cannot_quote_a_secret_either(parse: Parse) -> None:
    config = parse("version: 1\nmiddleware: [{opaque: {a: '${A_KEY}'}}]\n", A_KEY="hunter2")
    assert "hunter2" not in str(config.mistake(("middleware", 0), "bad value hunter2"))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
DATA = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(DATA)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_an_option_is_it_survives(registry: Registry, data: Any) -> None:
    def parse(content: Any) -> Config:
        return parse_config(content, registry=registry, environ={})

    escaped = _escaped(data)
    config = parse({"version": 1, "middleware": [{"needy": {"limit": 1, "anything": escaped}}]})
    assert config.middleware[0].options["anything"] == data
    assert parse(effective_yaml(config)) == config


def _escaped(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _escaped(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_escaped(item) for item in data]
    return data.replace("${", "$${") if isinstance(data, str) else data


def test_it_is_yaml_for_others_too(parse: Parse) -> None:
    data = yaml.safe_load(effective_yaml(parse(TEXT, TOKEN="x")))
    assert data["middleware"][1]["needy"]["anything"] == {"on": ["no", "012", "0o7", "1e3"]}


@pytest.mark.parametrize("name", ["gateway", "minimal"])
def test_the_configurations_of_the_project_survive(name: str) -> None:
    config = load_config(
        Path(__file__).parents[2] / "config" / f"{name}.yaml", registry=Registry(()), environ={}
    )
    assert parse_config(effective_yaml(config), registry=Registry(()), environ={}) == config
