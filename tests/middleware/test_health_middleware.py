import json
import re
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
from pydantic import ValidationError

import asgi_gateway.middleware.health as health_module
from asgi_gateway.middleware import HealthMiddleware
from asgi_gateway.policies.circuit_breaker import CircuitBreaker, Permit
from asgi_gateway.runtime import EndpointStatus, Lifecycle, Phase, Runtime, ServiceStatus
from asgi_gateway.testing import Conversation, ManualClock, ScriptedApp, request, websocket_scope


def breaker(state: str, clock: ManualClock) -> CircuitBreaker:
    policy = CircuitBreaker(failure_threshold=1, break_duration=60)
    if state != "closed":
        permit = policy.acquire(clock.monotonic() if state == "open" else clock.monotonic() - 60)
        assert isinstance(permit, Permit)
        policy.failed(permit, clock.monotonic() - (60 if state == "half_open" else 0))
    assert policy.state(clock.monotonic()) == state
    return policy


def runtime(clock: ManualClock, phase: Phase = "serving", **services: ServiceStatus) -> Runtime:
    lifecycle = Lifecycle(phase, started_at=clock.monotonic())
    return Runtime(clock=clock, lifecycle=lifecycle, services=services)


async def asked(given: Runtime | None, path: str, method: str = "GET") -> tuple[int, Any]:
    app = ScriptedApp(418)
    answer = await request(HealthMiddleware(app, runtime=given), method, path)
    assert app.calls == []
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize("phase", ["starting", "serving", "draining"])
async def test_a_process_that_answers_lives(phase: Phase, clock: ManualClock) -> None:
    broken = ServiceStatus("ai", required=True, breakers=[breaker("open", clock)])
    assert await asked(runtime(clock, phase, ai=broken), "/health/live") == (200, {"status": "ok"})


@pytest.mark.parametrize(("phase", "status"), [("starting", 503), ("serving", 200), ("draining", 503)])
async def test_it_is_ready_only_while_serving(phase: Phase, status: int, clock: ManualClock) -> None:
    assert (await asked(runtime(clock, phase), "/health/ready"))[0] == status


@pytest.mark.parametrize(
    ("required", "state", "status"),
    [(True, "open", 503), (True, "half_open", 200), (True, "closed", 200), (False, "open", 200)],
)
async def test_it_is_not_ready_while_a_required_service_cannot_be_used(
    required: bool, state: str, status: int, clock: ManualClock
) -> None:
    service = ServiceStatus("ai", required, [breaker(state, clock)])
    given = runtime(clock, ai=service)
    assert (await asked(given, "/health/ready"))[0] == status


async def test_it_is_ready_again_when_the_breaker_may_be_tried(clock: ManualClock) -> None:
    given = runtime(clock, ai=ServiceStatus("ai", required=True, breakers=[breaker("open", clock)]))
    middleware = HealthMiddleware(ScriptedApp(418), runtime=given)
    answer = await request(middleware, path="/health/ready")
    assert json.loads(answer.body)["reasons"] == ["the service ai cannot be used"]
    clock.shift(60)
    assert (await request(middleware, path="/health/ready")).status == 200


async def test_the_report_names_every_service_and_none_of_their_addresses(clock: ManualClock) -> None:
    given = runtime(
        clock,
        ai=ServiceStatus("ai", required=True, breakers=[breaker("closed", clock)]),
        data=ServiceStatus("data"),
    )
    clock.shift(90)
    status, report = await asked(given, "/health")
    assert status == 200
    assert re.fullmatch(r"\d+\.\d+.*|None", str(report.pop("version")))
    assert report == {
        "status": "ok",
        "phase": "serving",
        "uptime_seconds": 90.0,
        "services": {
            "ai": {"required": True, "breaker": "closed"},
            "data": {"required": False, "breaker": None},
        },
    }


@pytest.mark.parametrize(
    ("required", "state", "status", "word"),
    [
        (False, "closed", 200, "ok"),
        (False, "open", 200, "degraded"),
        (False, "half_open", 200, "degraded"),
        (True, "open", 503, "unavailable"),
    ],
)
async def test_the_report_says_how_bad_it_is(
    required: bool, state: str, status: int, word: str, clock: ManualClock
) -> None:
    service = ServiceStatus("ai", required, [breaker(state, clock)])
    given = runtime(clock, ai=service)
    answered, report = await asked(given, "/health")
    assert (answered, report["status"]) == (status, word)


async def test_it_stands_alone() -> None:
    status, report = await asked(None, "/health")
    assert (status, report["status"], report["services"]) == (200, "ok", {})
    assert 0 <= report["uptime_seconds"] < 60


async def test_head_has_the_length_and_no_body(clock: ManualClock) -> None:
    middleware = HealthMiddleware(ScriptedApp(418), runtime=runtime(clock))
    answer = await request(middleware, "HEAD", "/health/live")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("content-length") == str(len(b'{"status": "ok"}'))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_health_is_only_read(method: str) -> None:
    answer = await request(HealthMiddleware(ScriptedApp(418)), method, "/health/ready")
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
    assert answer.header("x-gateway-error") == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/", "/healthy", "/health/", "/health/other", "/health/live/x", "/x/health"]
)
async def test_other_paths_pass(path: str) -> None:
    app = ScriptedApp(418)
    assert (await request(HealthMiddleware(app), path=path)).status == 418
    assert app.calls[0]["path"] == path


async def test_a_websocket_passes() -> None:
    app = ScriptedApp(418)
    async with Conversation(HealthMiddleware(app), websocket_scope("/health")) as talk:
        talk.body()
        await talk.finish()
    assert len(app.calls) == 1


async def test_another_path_may_be_chosen() -> None:
    middleware = HealthMiddleware(ScriptedApp(418), path="/-/status")
    assert (await request(middleware, path="/-/status/live")).status == 200
    assert (await request(middleware, path="/health")).status == 418


async def test_below_a_mount_point_the_path_is_counted_from_there() -> None:
    answer = await request(HealthMiddleware(ScriptedApp(418)), path="/sub/health/live", root_path="/sub")
    assert answer.status == 200


@pytest.mark.parametrize("path", ["", "/", "health", "/health/", "/a//b", "/a?b", "/health/*"])
def test_a_path_that_could_not_be_asked_for_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        HealthMiddleware(ScriptedApp(200), path=path)


async def test_without_an_installed_package_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(health_module, "version", missing)
    assert (await asked(None, "/health"))[1]["version"] is None


ENDPOINTS = [EndpointStatus("10.0.0.1:80", "usable", 3), EndpointStatus("10.0.0.2:80", "ejected", 0)]


async def test_endpoints_are_told_by_number_and_named_only_where_asked() -> None:
    services = {"data": ServiceStatus("data", endpoints=lambda: ENDPOINTS)}
    runtime = Runtime(services=services)
    members = json.loads(
        (await request(HealthMiddleware(ScriptedApp(), runtime=runtime), path="/health")).body
    )
    assert members["status"] == "degraded"
    assert members["services"]["data"]["endpoints"] == [
        {"number": 1, "state": "usable"},
        {"number": 2, "state": "ejected"},
    ]
    telling = HealthMiddleware(ScriptedApp(), show_endpoints=True, runtime=runtime)
    members = json.loads((await request(telling, path="/health")).body)
    assert members["services"]["data"]["endpoints"][0] == {
        "number": 1,
        "state": "usable",
        "name": "10.0.0.1:80",
        "in_flight": 3,
    }


async def test_a_required_service_without_a_usable_endpoint_is_unready() -> None:
    services = {"data": ServiceStatus("data", required=True, endpoints=lambda: ENDPOINTS[1:])}
    app = HealthMiddleware(ScriptedApp(), runtime=Runtime(services=services))
    assert (await request(app, path="/health/ready")).status == 503
