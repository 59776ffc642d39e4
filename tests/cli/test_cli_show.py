"""``check``, ``routes`` and ``schema``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_gateway.cli import main
from asgi_gateway.cli.run import route_lines as start_lines
from asgi_gateway.config import json_schema, load_config, parse_config
from asgi_gateway.stores import embedded

Write = Callable[..., str]

GATEWAY = """\
version: 1
listen: {host: 127.0.0.1, port: 0}
middleware:
  - request_id
  - rate_limit: {limit: 100/minute}
services:
  ai:
    url: http://127.0.0.1:9
    routes:
      - {path: /api/ai/*, strip_prefix: /api/ai, methods: [GET, POST]}
    middleware:
      - circuit_breaker
      - retry: {attempts: 3}
"""

SIX_MISTAKES = """\
version: 1
listen: {port: 99999}
middelware: [request_id]
middleware:
  - rate_limt
  - rate_limit: {limit: often}
services:
  ai:
    url: http://127.0.0.1:9
    routes:
      - {path: /api/*, strip_prefx: /api}
    middleware:
      - circuit_breaker: {break_duration: -5s}
"""


def test_a_clean_file_is_one_line(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(GATEWAY)
    assert main(["check", path]) == 0
    assert capsys.readouterr() == (f"{path}: ok: 1 service, 1 route, 4 middlewares, 0 warnings\n", "")


def test_all_mistakes_are_told_at_once_with_line_and_column(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(SIX_MISTAKES)
    assert main(["check", path]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 6
    assert all(line.startswith(f"{path}:") for line in lines)
    assert [int(line.removeprefix(f"{path}:").partition(":")[0]) for line in lines] == [2, 3, 5, 6, 11, 13]
    assert "did you mean 'middleware'?" in lines[1]
    assert "did you mean 'rate_limit'?" in lines[2]
    assert "did you mean 'strip_prefix'?" in lines[4]


def test_an_order_that_cannot_work_is_a_warning(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        "version: 1\n"
        "middleware: [rate_limit, access_log]\n"
        "services: {ai: {url: 'http://127.0.0.1:9', routes: [{path: /*}]}}\n"
    )
    assert main(["check", path]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: ok: 1 service, 1 route, 2 middlewares, 1 warning\n"
    assert err.startswith("warning: ")
    assert "access_log" in err


def test_a_state_that_run_could_not_start_is_a_mistake(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    path = write(f"{GATEWAY}workers: 2\nadmin: {{socket: admin.sock}}\n")
    for command in ("check", "reload", "run"):
        assert main([command, path]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "state: an embedded state needs the extra 'embedded'" in err
    assert main(["check", write(GATEWAY)]) == 0


def test_workers_that_count_apart_are_a_warning(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(f"{GATEWAY}workers: 3\nstate: memory://\n")
    assert main(["check", path]) == 0
    out, err = capsys.readouterr()
    assert out.endswith(", 1 warning\n")
    assert err.startswith("warning: with state: memory:// each of the 3 workers counts its own")


def test_print_shows_a_configuration_that_can_be_read_again(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(GATEWAY)
    assert main(["check", path, "--print"]) == 0
    out, err = capsys.readouterr()
    assert err == f"{path}: ok: 1 service, 1 route, 4 middlewares, 0 warnings\n"
    breaker = parse_config(out).services["ai"].middleware[0]
    assert breaker.options["failure_threshold"] == 5


def test_secrets_are_shown_nowhere(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "hunter2")
    path = write(GATEWAY.replace("http://127.0.0.1:9", "http://127.0.0.1:9/${SERVICE_TOKEN}"))
    assert main(["check", path, "--print"]) == 0
    assert main(["routes", path]) == 0
    assert [line.split()[-1] for line in start_lines(load_config(path))] == ["***"]
    out, err = capsys.readouterr()
    assert "${SERVICE_TOKEN}" in out
    assert "hunter2" not in out + err


def test_routes_are_a_table(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes", write(GATEWAY)]) == 0
    assert capsys.readouterr().out == (
        "ROUTE      METHODS   SERVICE  CHAIN\n"
        "/api/ai/*  GET POST  ai       circuit_breaker > retry > http://127.0.0.1:9\n"
        "\n"
        "Before every route: request_id > rate_limit\n"
    )


def test_the_table_has_services_without_a_route(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    spare = "  spare: {url: 'http://127.0.0.1:8'}\n"
    text = GATEWAY.replace("      - retry: {attempts: 3}\n", "      - fallback: {targets: [spare]}\n") + spare
    assert main(["routes", write(text)]) == 0
    assert "-          -         spare    http://127.0.0.1:8\n" in capsys.readouterr().out


def test_the_table_keeps_to_80_columns(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    long = "/".join(["segment"] * 12)
    path = write(
        "version: 1\n"
        "middleware: [request_id, tracing, access_log, gateway_headers, health, client_address, rate_limit]\n"
        "services:\n"
        "  a_service_with_quite_a_long_name:\n"
        f"    url: http://localhost:8000/{long}\n"
        "    routes:\n"
        f"      - {{path: /{long}/*, host: api.example.com, methods: [DELETE, GET, HEAD, PATCH, PUT]}}\n"
        "    middleware: [rate_limit, circuit_breaker, retry, timeout]\n"
    )
    assert main(["routes", path]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    squeezed = "".join(out.split())
    for part in (long, "DELETE", "PUT", "circuit_breaker", "timeout", "gateway_headers"):
        assert part in squeezed or all(word in squeezed for word in part.split("/"))


def test_the_schema_is_json_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.parametrize("path", sorted(Path("config").glob("*.yaml")), ids=str)
def test_every_configuration_that_is_shipped_is_clean(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().err == ""
