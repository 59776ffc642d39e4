"""The gateway as one ASGI app: configuration to chains to services, by raw messages."""

import asyncio
import sys
from pathlib import Path
from types import ModuleType

import pytest
from asgi_lifespan import LifespanManager

from asgi_gateway import ConfigError, Gateway, create_app
from asgi_gateway.context import SERVICE, STRIPPED_PREFIX
from asgi_gateway.lifespan import StartupFailed
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    ScriptedApp,
    Upstream,
    behaviours,
    http_scope,
    request,
    settle,
)
from asgi_gateway.types import Receive, Scope, Send


def config(upstream: str, **service: object) -> dict[str, object]:
    routes = [{"path": "/api/data/*", "strip_prefix": "/api/data"}]
    return {"version": 1, "services": {"data": {"url": upstream, "routes": routes, **service}}}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module from which a configuration can import an app."""
    made = ModuleType("module_of_test_gateway")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


async def test_request_goes_through_both_chains_to_its_service() -> None:
    async with Upstream(behaviours.answer(body=b"data")) as upstream:
        settings = config(upstream.url, middleware=[{"rate_limit": {"limit": "5/minute"}}])
        gateway = Gateway({**settings, "middleware": ["request_id", "gateway_headers"]})
        async with LifespanManager(gateway):
            answer = await request(gateway, path="/api/data/things")
    assert (answer.status, answer.body) == (200, b"data")
    assert upstream.requests[0].target == b"/things"
    assert upstream.requests[0].header("x-request-id").decode() == answer.header("x-request-id")
    assert (answer.header("x-gateway-service"), answer.header("x-gateway-attempts")) == ("data", "1")
    assert answer.header("ratelimit-limit") == "5"


async def test_each_service_has_a_chain_of_its_own() -> None:
    """A breaker that opens for one service leaves the other alone, though both are configured alike."""
    chain = [{"circuit_breaker": {"failure_threshold": 1}}]
    async with Upstream(behaviours.answer(500)) as bad, Upstream(behaviours.answer()) as good:
        gateway = Gateway(
            {
                "version": 1,
                "services": {
                    "bad": {"url": bad.url, "routes": [{"path": "/bad/*"}], "middleware": chain},
                    "good": {"url": good.url, "routes": [{"path": "/good/*"}], "middleware": chain},
                },
            }
        )
        async with LifespanManager(gateway):
            answers = [await request(gateway, path=path) for path in ("/bad", "/bad", "/good")]
    assert [answer.status for answer in answers] == [500, 503, 200]
    assert len(bad.requests) == 1


async def test_unrouted_requests_are_404_through_the_global_chain() -> None:
    gateway = Gateway({**config("http://127.0.0.1:1"), "middleware": ["request_id"]})
    answer = await request(gateway, path="/elsewhere")
    assert (answer.status, answer.header("x-gateway-error")) == (404, "route_not_found")
    assert answer.header("x-request-id")


async def test_wrapped_app_gets_what_no_route_wants() -> None:
    wrapped = ScriptedApp((200, [], [b"wrapped"]))
    gateway = Gateway({**config("http://127.0.0.1:1"), "middleware": ["request_id"]}, app=wrapped)
    answer = await request(gateway, path="/elsewhere")
    assert (answer.body, bool(answer.header("x-request-id"))) == (b"wrapped", True)


async def test_a_service_may_be_an_app_in_this_process(module: ModuleType) -> None:
    module.app = app = ScriptedApp((200, [], [b"in process"]))  # type: ignore[attr-defined]
    gateway = Gateway(
        {
            "version": 1,
            "services": {
                "local": {
                    "app": f"{module.__name__}:app",
                    "routes": [{"path": "/local/*", "strip_prefix": "/local"}],
                }
            },
        }
    )
    answer = await request(gateway, path="/local/x")
    assert answer.body == b"in process"
    assert (app.calls[0][SERVICE], app.calls[0]["root_path"]) == ("local", "/local")


@pytest.mark.parametrize(
    "leads_there",
    [
        {"fallback": {"targets": ["local"]}},
        {"split": {"targets": [{"service": "local"}]}},
        {"mirror": {"target": "local"}},
        {"circuit_breaker": {"failure_threshold": 1, "fallback": "local"}},
    ],
    ids=lambda option: next(iter(option)),
)
async def test_an_app_that_another_service_leads_to_does_not_see_that_ones_prefix(
    module: ModuleType, leads_there: dict[str, object]
) -> None:
    module.app = app = ScriptedApp(200)  # type: ignore[attr-defined]
    async with Upstream(behaviours.answer(500)) as upstream:
        services = {
            "chat": {
                "url": upstream.url,
                "routes": [{"path": "/chat/*", "strip_prefix": "/chat"}],
                "middleware": [leads_there],
            },
            "local": {"app": f"{module.__name__}:app"},
        }
        gateway = Gateway({"version": 1, "services": services})
        async with LifespanManager(gateway):
            for _ in range(2):  # the first opens a circuit
                await request(gateway, path="/chat/x")
            await settle()
    seen = [scope for scope in app.calls if scope["type"] == "http"]
    assert {(scope["path"], scope["root_path"]) for scope in seen} == {("/chat/x", "/chat")}
    assert not any(STRIPPED_PREFIX in scope for scope in seen)


async def test_a_service_that_an_app_leads_to_does_not_see_the_apps_prefix(module: ModuleType) -> None:
    module.app = ScriptedApp(500)  # type: ignore[attr-defined]
    async with Upstream(behaviours.answer()) as upstream:
        services = {
            "local": {
                "app": f"{module.__name__}:app",
                "routes": [{"path": "/local/*", "strip_prefix": "/local"}],
                "middleware": [{"fallback": {"targets": ["remote"]}}],
            },
            "remote": {"url": upstream.url},
        }
        gateway = Gateway({"version": 1, "services": services})
        assert (await request(gateway, path="/local/x", raw_path=b"/%6cocal/x")).status == 200
    assert upstream.requests[0].target == b"/x"
    assert upstream.requests[0].header("x-forwarded-prefix") == b"/local"


@pytest.mark.parametrize("kind", ["url", "app"])
async def test_a_mock_stands_in_the_services_place_where_a_prefix_is_stripped(
    module: ModuleType, kind: str
) -> None:
    module.app = ScriptedApp(404)  # type: ignore[attr-defined]
    answers = [{"path": "/", "status": 201}, {"path": "/v1/*", "status": 202}]
    async with Upstream(behaviours.answer(404)) as upstream:
        service = {
            kind: upstream.url if kind == "url" else f"{module.__name__}:app",
            "routes": [{"path": "/chat/*", "strip_prefix": "/chat"}],
            "middleware": [{"mock": {"answers": answers}}],
        }
        gateway = Gateway({"version": 1, "services": {"chat": service}})
        async with LifespanManager(gateway):
            paths = ["/chat", "/chat/", "/chat/v1/models", "/chat//v1", "/chat/chat/v1"]
            statuses = [(await request(gateway, path=path)).status for path in paths]
    assert statuses == [201, 201, 202, 202, 404]


async def test_lifespans_of_inner_apps_run_inside_the_gateways_own(module: ModuleType) -> None:
    log: list[str] = []

    def app(name: str):
        async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            scope["state"][name] = True
            log.append(f"{name} started")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            log.append(f"{name} stopped")
            await send({"type": "lifespan.shutdown.complete"})

        return lifespan

    module.app = app("service")  # type: ignore[attr-defined]
    services = {"local": {"app": f"{module.__name__}:app", "routes": [{"path": "/local/*"}]}}
    gateway = Gateway({"version": 1, "services": services}, app=app("wrapped"))
    async with LifespanManager(gateway) as manager:
        assert log == ["wrapped started", "service started"]
        assert manager._state == {"wrapped": True, "service": True}
    assert log[2:] == ["service stopped", "wrapped stopped"]


async def test_an_app_behind_several_services_is_started_once(module: ModuleType) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in ("startup", "shutdown"):
            seen.append((await receive())["type"])
            if step == "startup":
                scope["state"]["pool"] = object()
            await send({"type": f"lifespan.{step}.complete"})

    module.app = app  # type: ignore[attr-defined]
    services = {
        name: {"app": f"{module.__name__}:app", "routes": [{"path": f"/{name}/*"}]}
        for name in ("public", "staff")
    }
    async with LifespanManager(Gateway({"version": 1, "services": services}, app=app)):
        assert seen == ["lifespan.startup"]
    assert seen == ["lifespan.startup", "lifespan.shutdown"]


async def test_copies_that_are_on_their_way_end_before_the_apps_that_they_are_sent_to(
    module: ModuleType,
) -> None:
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            log.append("stopped")
            await send({"type": "lifespan.shutdown.complete"})
            return
        log.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")

    module.app, module.main = app, ScriptedApp(200)  # type: ignore[attr-defined]
    services = {
        name: {"app": f"{module.__name__}:{attribute}", "routes": [{"path": f"/{name}/*"}]}
        for name, attribute in (("main", "main"), ("next", "app"))
    }
    mirror = {"mirror": {"target": "next"}}
    gateway = Gateway({"version": 1, "middleware": [mirror], "services": services})
    async with LifespanManager(gateway):
        assert (await request(gateway, path="/main/x")).status == 200
        await settle()
        await gateway.reload({"version": 1, "services": services})
        assert log == ["begun"]  # a reload ends no copy
    assert log == ["begun", "cancelled", "stopped"]


async def test_an_inner_app_that_fails_to_start_fails_the_gateway() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(StartupFailed, match="the wrapped app: no database"):
        async with LifespanManager(Gateway(config("http://127.0.0.1:1"), app=failing)):
            pytest.fail("started")


async def test_readiness_follows_the_lifespan() -> None:
    release = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await release.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    gateway = Gateway({"version": 1, "middleware": ["health"]}, app=slow)
    async with Conversation(gateway, {"type": "lifespan", "state": {}}) as lifespan:
        lifespan.give({"type": "lifespan.startup"})
        await asyncio.sleep(0)
        assert (await request(gateway, path="/health/ready")).status == 503
        release.set()
        assert (await lifespan.next())["type"] == "lifespan.startup.complete"
        assert (await request(gateway, path="/health/ready")).status == 200
        lifespan.give({"type": "lifespan.shutdown"})
        await lifespan.finish()
        assert (await request(gateway, path="/health/ready")).status == 503
        assert (await request(gateway, path="/health/live")).status == 200


async def test_a_server_without_lifespan_is_served_all_the_same() -> None:
    gateway = Gateway({"version": 1, "middleware": ["health"]})
    assert (await request(gateway, path="/health/ready")).status == 200


async def test_a_required_service_whose_breaker_is_open_makes_the_gateway_unready() -> None:
    async with Upstream(behaviours.answer(500)) as upstream:
        chain = [{"circuit_breaker": {"failure_threshold": 1}}]
        gateway = Gateway({**config(upstream.url, required=True, middleware=chain), "middleware": ["health"]})
        async with LifespanManager(gateway):
            assert (await request(gateway, path="/health/ready")).status == 200
            await request(gateway, path="/api/data/x")
            assert (await request(gateway, path="/health/ready")).status == 503
            assert b"open" in (await request(gateway, path="/health")).body


async def test_bugs_of_any_layer_are_answered_and_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(config("http://127.0.0.1:1"), app=ScriptedApp(RuntimeError("secret detail")))
    answer = await request(gateway, path="/elsewhere")
    assert (answer.status, answer.header("x-gateway-error")) == (500, "internal")
    assert b"secret" not in answer.body
    assert "secret detail" in caplog.text


async def test_closing_the_gateway_closes_its_connections() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        gateway = Gateway(config(upstream.url))
        async with LifespanManager(gateway):
            await request(gateway, path="/api/data/x")
            assert upstream.connections.open == 1
        await upstream.wait_for(lambda: upstream.connections.open == 0)


@pytest.mark.parametrize(("transport", "connections"), [("http1", 2), ("httpx", 4)])
def test_a_second_lifespan_is_as_the_first(transport: str, connections: int, tmp_path: Path) -> None:
    """As an app has them whose tests each open a client of their own, in a loop of its own."""
    path, clock = str(tmp_path / "up.sock"), ManualClock()
    check = {"path": "/up", "interval": 1, "jitter": 0}
    gateway = Gateway(
        config(f"unix:{path}", health_check=check, transport=transport), runtime=Runtime(clock=clock)
    )

    async def once() -> int:
        async with Upstream(behaviours.answer(), path=path) as upstream, LifespanManager(gateway):
            await clock.advance(0)
            await upstream.wait_for(lambda: upstream.requests)
            assert [(await request(gateway, path="/api/data/x")).status for _ in range(2)] == [200, 200]
            await clock.advance(1)
            await upstream.wait_for(lambda: len(upstream.requests) == 4)
            return upstream.connections.total

    assert [asyncio.run(once()) for _ in range(3)] == [connections] * 3


@pytest.mark.parametrize("transport", ["http1", "httpx"])
async def test_either_transport_forwards(transport: str) -> None:
    async with Upstream(behaviours.echo()) as upstream:
        gateway = Gateway(config(upstream.url, transport=transport))
        async with LifespanManager(gateway):
            answer = await request(
                gateway, "POST", "/api/data/x", headers=[(b"content-length", b"5")], body=b"hello"
            )
    assert answer.body == b"hello"


async def test_preserved_host_and_base_path_reach_the_service() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        gateway = Gateway(config(upstream.url + "/base/", preserve_host=True))
        async with LifespanManager(gateway):
            await request(gateway, path="/api/data/x", headers=[(b"host", b"public.example")])
    assert upstream.requests[0].target == b"/base/x"
    assert upstream.requests[0].header("host") == b"public.example"


async def test_connection_takes_off_nothing_that_the_outermost_middleware_adds() -> None:
    guard = {"use": "tests.http.guards:GuardMiddleware"}
    headers = [(b"authorization", b"Bearer good"), (b"connection", b"x-user-id, x-mine"), (b"x-mine", b"1")]
    async with Upstream(behaviours.answer()) as upstream:
        gateway = Gateway({**config(upstream.url), "middleware": [guard, "errors"]})
        async with LifespanManager(gateway):
            await request(gateway, path="/api/data/x", headers=headers)
    assert upstream.requests[0].header("x-user-id") == b"alice"
    assert upstream.requests[0].header("x-mine") is None


async def test_connection_does_not_take_off_the_id_whatever_its_header() -> None:
    headers = [(b"connection", b"x-correlation-id"), (b"x-correlation-id", b"abc")]
    async with Upstream(behaviours.answer()) as upstream:
        middleware = [{"request_id": {"header": "X-Correlation-ID"}}]
        gateway = Gateway({**config(upstream.url), "middleware": middleware})
        async with LifespanManager(gateway):
            await request(gateway, path="/api/data/x", headers=headers)
    assert upstream.requests[0].all("x-correlation-id") == [b"abc"]


async def test_websocket_of_a_wrapped_app_passes_through() -> None:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    chain = ["request_id", "access_log", "rate_limit", "errors"]
    gateway = Gateway({"version": 1, "middleware": chain}, app=wrapped)
    scope = {**http_scope(path="/ws"), "type": "websocket", "subprotocols": []}
    async with Conversation(gateway, scope) as talk:
        await talk.finish()
    assert [message["type"] for message in talk.answer.messages] == ["websocket.accept"]


def test_what_cannot_be_built_is_told_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "version: 1\n"
        "middleware:\n"
        "  - rate_limit: {key: 'no.such.module:key'}\n"
        "services:\n"
        "  local: {app: 'no.such.module:app', routes: [{path: /local/*}]}\n"
    )
    with pytest.raises(ConfigError) as caught:
        Gateway(file)
    lines = [str(mistake) for mistake in caught.value.mistakes]
    assert len(lines) == 2
    assert lines[0].startswith(f"{file}:3:")
    assert lines[1].startswith(f"{file}:5:")


def test_create_app_reads_the_named_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("version: 1\nlisten: {port: 1234}\n")
    monkeypatch.setenv("ASGI_GATEWAY_CONFIG", str(named))
    assert create_app().config.listen.port == 1234


def test_create_app_falls_back_to_the_usual_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gateway.yaml").write_text("version: 1\nlisten: {port: 4321}\n")
    monkeypatch.delenv("ASGI_GATEWAY_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert create_app().config.listen.port == 4321
