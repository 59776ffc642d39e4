"""Several endpoints in the file: what it says, and what is wrong with it, at its place."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_gateway.config import (
    Config,
    ConsistentHashing,
    Ejection,
    EndpointSpec,
    HealthCheck,
    effective_yaml,
    parse_config,
    warnings_of,
)
from asgi_gateway.registry import Registry

Parse = Callable[..., Config]
Mistakes = Callable[..., list[str]]

TEXT = """\
version: 1
services:
  ai:
    endpoints:
      - {url: "http://10.0.0.1:8000", weight: 3}
      - url: http://10.0.0.2:8000
    balance: {consistent_hash: "header:X-User"}
    health_check: {path: /up, interval: 5s, expected_statuses: [200, 401]}
    ejection: {consecutive_failures: 3, base_duration: 1m}
    slow_start: 30s
    panic: no
    routes: [{path: /ai/*}]
"""


def test_endpoints_become_typed_values(parse: Parse) -> None:
    ai = parse(TEXT).services["ai"]
    assert ai.endpoints == (
        EndpointSpec(url="http://10.0.0.1:8000", weight=3),
        EndpointSpec(url="http://10.0.0.2:8000", weight=1),
    )
    assert ai.balance == ConsistentHashing(consistent_hash="header:X-User")
    assert ai.health_check == HealthCheck(path="/up", interval=5, expected_statuses=frozenset({200, 401}))
    assert ai.ejection == Ejection(consecutive_failures=3, base_duration=60)
    assert (ai.slow_start, ai.panic, ai.resolve) == (30, False, "first")


def test_the_effective_form_loads_to_the_same(parse: Parse) -> None:
    config = parse(TEXT)
    text = effective_yaml(config)
    assert parse(text) == config
    for shown in (
        "max_duration: 5m",
        "unhealthy_threshold: 3",
        "weight: 1.0",
        "consistent_hash: 'header:X-User'",
    ):
        assert shown in text


def test_one_address_is_shown_without_what_seldom_matters_to_it(parse: Parse) -> None:
    service = {"url": "http://x", "routes": [{"path": "/*"}], "slow_start": "1s"}
    text = effective_yaml(parse({"version": 1, "services": {"x": service}}))
    assert "slow_start: 1s" in text
    assert "ejection" not in text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("endpoints: []", "4:16: services.ai.endpoints: a service needs at least one endpoint"),
        (
            "endpoints: [{url: 'http://x', weight: 0}]",
            "4:16: services.ai.endpoints: at least one endpoint needs a weight above 0",
        ),
        (
            "endpoints: [{url: 'http://x', weight: -1}]",
            "4:43: services.ai.endpoints[0].weight: must be at least 0, got -1",
        ),
        ("endpoints: [{weight: 1}]", "4:17: services.ai.endpoints[0]: missing key 'url'"),
        (
            "endpoints: [{url: 'http://x', wieght: 1}]",
            "4:35: services.ai.endpoints[0].wieght: unknown key 'wieght' (did you mean 'weight'?)",
        ),
        (
            "endpoints: [{url: 'ftp://x'}]",
            "4:23: services.ai.endpoints[0].url: expected a URL such as http://localhost:8000, got 'ftp://x'",
        ),
        (
            "endpoints: [{url: 'http://x:1'}, {url: 'http://X:1/'}]",
            (
                "4:44: services.ai.endpoints[1].url: is the same endpoint as"
                " services.ai.endpoints[0].url (4:18); give that a larger weight"
            ),
        ),
        (
            "balance: least_in_fligth",
            (
                "4:14: services.ai.balance: expected 'least_in_flight', 'round_robin' or 'weighted' or a"
                " mapping, got 'least_in_fligth' (did you mean 'least_in_flight'?)"
            ),
        ),
        (
            "balance: {consistent_hash: 'query:x'}",
            (
                "4:32: services.ai.balance.consistent_hash: expected client_address, header:<name>"
                " or cookie:<name>, got 'query:x'"
            ),
        ),
        (
            "resolve: all\n    transport: httpx",
            "4:5: services.ai: 'resolve: all' needs the transport http1",
        ),
        ("health_check: {interval: 1s}", "4:5: services.ai.health_check: missing key 'path'"),
        ("ejection: {max_ejected: 2}", "4:15: services.ai.ejection: max_ejected must be between 0 and 1"),
        (
            "slow_start: -1s",
            "4:17: services.ai.slow_start: expected a duration such as 250ms, 5s or 2m, got '-1s'",
        ),
    ],
)
def test_mistakes_are_told_at_their_place(mistakes: Mistakes, line: str, told: str) -> None:
    place = "" if line.startswith("endpoints") else "    url: http://x\n"
    text = f"version: 1\nservices:\n  ai:\n    {line}\n    routes: [{{path: /}}]\n{place}"
    assert mistakes(text) == [f"g.yaml:{told}"]


@pytest.mark.parametrize(
    "name", ["balance: weighted", "health_check: {path: /}", "ejection: {}", "panic: true"]
)
def test_an_app_has_no_endpoints(mistakes: Mistakes, name: str) -> None:
    text = f"version: 1\nservices:\n  ai:\n    app: json:dumps\n    {name}\n    routes: [{{path: /}}]\n"
    assert "an 'app' is called directly" in mistakes(text)[0]


def test_the_documented_example_loads_without_a_warning() -> None:
    page = (Path(__file__).parents[2] / "docs" / "endpoints.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert warnings_of(parse_config(example, registry=Registry(()), environ={})) == []


def test_endpoints_differ_by_the_case_of_their_paths_only(parse: Callable[..., Config]) -> None:
    urls = ["http://h/A", "http://h/a", "unix:/run/A.sock", "unix:/run/a.sock"]
    service = {"endpoints": [{"url": url} for url in urls], "routes": [{"path": "/*"}]}
    assert len(parse({"version": 1, "services": {"ai": service}}).services["ai"].endpoints or ()) == 4
