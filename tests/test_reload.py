"""Another configuration at run time: what did not change keeps what it knows, mistakes change nothing."""

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asgi_lifespan import LifespanManager
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from asgi_gateway import ConfigError, Gateway
from asgi_gateway.config import parse_config
from asgi_gateway.errors import ResponseAborted
from asgi_gateway.proxy.endpoints import EndpointsApp
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    ScriptedApp,
    Upstream,
    behaviours,
    http_scope,
    request,
    websocket_scope,
)
from asgi_gateway.testing.connection import Connection, Handler
from asgi_gateway.testing.received import Request
from asgi_gateway.types import ASGIApp

BREAKER = {"circuit_breaker": {"failure_threshold": 1}}
EJECTION = {"consecutive_failures": 1, "max_ejected": 1.0}


class Unbuildable:
    """A middleware that is refused only when its chain is built."""

    def __init__(self, app: ASGIApp) -> None:
        raise ValueError("not today")


def service(path: str = "/*", **keys: Any) -> dict[str, Any]:
    return {"routes": [{"path": path}], **keys}


def several(*urls: str, weights: dict[str, float] | None = None, **keys: Any) -> dict[str, Any]:
    endpoints = [{"url": url, "weight": (weights or {}).get(url, 1.0)} for url in urls]
    return service(endpoints=endpoints, balance="round_robin", ejection=EJECTION, **keys)


def config(middleware: tuple[Any, ...] = ("health",), **services: Any) -> dict[str, Any]:
    return {"version": 1, "middleware": list(middleware), "services": services}


async def ask(gateway: Gateway, times: int, path: str = "/") -> list[int]:
    return [(await request(gateway, path=path)).status for _ in range(times)]


async def health(gateway: Gateway) -> dict[str, Any]:
    services: dict[str, Any] = json.loads((await request(gateway, path="/health")).body)["services"]
    return services


def switched(go_on: asyncio.Event) -> Handler:
    """An answer whose second half comes when the test says so."""

    async def handler(asked: Request, connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await go_on.wait()
        await connection.write(b"other")

    return handler


async def test_an_added_endpoint_does_not_reset_the_others() -> None:
    async with (
        Upstream(behaviours.answer(500)) as bad,
        Upstream(behaviours.answer()) as good,
        Upstream(behaviours.answer()) as added,
    ):
        gateway = Gateway(config(data=several(bad.url, good.url)), runtime=Runtime(clock=ManualClock()))
        async with LifespanManager(gateway):
            await ask(gateway, 6)
            assert len(bad.requests) == 1
            await gateway.reload(config(data=several(bad.url, added.url, good.url)))
            assert await ask(gateway, 20) == [200] * 20
            states = [endpoint["state"] for endpoint in (await health(gateway))["data"]["endpoints"]]
    assert states == ["ejected", "usable", "usable"]
    assert (len(bad.requests), bad.connections.total) == (1, 1)
    assert len(added.requests) >= 9
    assert good.connections.total == 1


async def test_a_removed_endpoint_gets_nothing_more_and_its_connections_close() -> None:
    async with Upstream(behaviours.answer()) as stays, Upstream(behaviours.answer()) as goes:
        gateway = Gateway(config(data=several(stays.url, goes.url)))
        async with LifespanManager(gateway):
            await ask(gateway, 4)
            await gateway.reload(config(data=several(stays.url)))
            await goes.wait_for(lambda: goes.connections.open == 0, 1)
            before = len(goes.requests)
            assert await ask(gateway, 6) == [200] * 6
    assert len(goes.requests) == before
    assert stays.connections.total == 1


async def test_a_changed_weight_is_applied() -> None:
    async with Upstream(behaviours.answer()) as one, Upstream(behaviours.answer()) as other:
        gateway = Gateway(config(data=several(one.url, other.url)))
        async with LifespanManager(gateway):
            await ask(gateway, 2)
            await gateway.reload(config(data=several(one.url, other.url, weights={one.url: 0})))
            asked = len(one.requests)
            await ask(gateway, 6)
    assert (len(one.requests), one.connections.total, other.connections.total) == (asked, 1, 1)


async def test_endpoints_under_health_checks_begin_and_cease_to_be_checked() -> None:
    clock = ManualClock()
    check = {"path": "/up", "interval": 10, "jitter": 0}
    async with (
        Upstream(behaviours.answer()) as stays,
        Upstream(behaviours.answer()) as goes,
        Upstream(behaviours.answer()) as added,
    ):
        gateway = Gateway(
            config(data=several(stays.url, goes.url, health_check=check)), runtime=Runtime(clock=clock)
        )
        async with LifespanManager(gateway):
            await clock.advance(0)
            await goes.wait_for(lambda: goes.requests)
            await gateway.reload(config(data=several(stays.url, added.url, health_check=check)))
            await clock.advance(0)
            await added.wait_for(lambda: added.requests)
            await goes.wait_for(lambda: goes.connections.open == 0, 1)
            [app] = gateway._live.proxies
            assert isinstance(app, EndpointsApp)
            assert len(app._tasks or ()) == 2
        assert len(goes.requests) == 1


async def test_a_name_that_stays_keeps_its_addresses_and_shares_its_new_weight() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        named = f"http://localhost:{upstream.port}"
        other = f"http://127.0.0.1:{upstream.port}"
        gateway = Gateway(config(data=several(named, resolve="all")))
        async with LifespanManager(gateway):
            [app] = gateway._live.proxies
            assert isinstance(app, EndpointsApp)
            async with asyncio.timeout(5):
                while app._places[app.given[f"{named} "]][0].identity == f"{named} ":
                    await asyncio.sleep(0.01)
            addresses = app._places[app.given[f"{named} "]]
            weights = {named: 6.0}
            await gateway.reload(config(data=several(other, named, weights=weights, resolve="all")))
            assert app._places[app.given[f"{named} "]] == addresses
            assert sum(address.weight for address in addresses) == 6.0
            assert app.given[f"{named} "].weight == 6.0
            await gateway.reload(config(data=several(other, resolve="all")))
            assert list(app.given) == [f"{other} "]
            assert len(app._tasks or ()) == 1
            assert await ask(gateway, 4) == [200] * 4


async def test_breakers_and_limits_of_what_did_not_change_stay() -> None:
    limit = {"rate_limit": {"limit": "5/hour"}}
    async with Upstream(behaviours.answer(500)) as bad, Upstream(behaviours.answer()) as good:
        data = several(bad.url, middleware=[BREAKER])
        gateway = Gateway(config((limit, "health"), data=data))
        async with LifespanManager(gateway):
            assert await ask(gateway, 2) == [500, 503]
            data = several(bad.url, good.url, middleware=[BREAKER], required=True)
            data["routes"] = [{"path": "/new/*"}]
            await gateway.reload(config((limit, "health"), data=data, other=service("/o/*", url=good.url)))
            assert await ask(gateway, 1, "/new/x") == [503]
            status = gateway._runtime.services["data"]
            assert (status.required, len(status.breakers), list(gateway._runtime.services)) == (
                True,
                1,
                ["data", "other"],
            )
            assert await ask(gateway, 3, "/o/x") == [200, 200, 429]


async def test_a_changed_middleware_begins_anew_before_endpoints_that_do_not() -> None:
    changed = {"circuit_breaker": {"failure_threshold": 2}}
    async with Upstream(behaviours.answer(500)) as bad, Upstream(behaviours.answer()) as good:
        gateway = Gateway(config(data=several(bad.url, good.url, middleware=[BREAKER])))
        async with LifespanManager(gateway):
            while 503 not in await ask(gateway, 1):
                pass
            await gateway.reload(config(data=several(bad.url, good.url, middleware=[changed])))
            assert await ask(gateway, 4) == [200] * 4
            data = (await health(gateway))["data"]
    assert data["breaker"] == "closed"
    assert [endpoint["state"] for endpoint in data["endpoints"]] == ["ejected", "usable"]
    assert len(bad.requests) == 1


async def test_a_changed_global_chain_is_new_and_serves_the_same_services() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        gateway = Gateway(config(({"rate_limit": {"limit": "1/hour"}},), data=service(url=upstream.url)))
        async with LifespanManager(gateway):
            assert await ask(gateway, 2) == [200, 429]
            await gateway.reload(
                config(({"rate_limit": {"limit": "2/hour"}},), data=service(url=upstream.url))
            )
            assert await ask(gateway, 3) == [200, 200, 429]
    assert upstream.connections.total == 1


async def test_a_removed_service_is_404_and_out_of_the_report() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        gateway = Gateway(config(data=service(url=upstream.url, required=True)))
        async with LifespanManager(gateway):
            assert await ask(gateway, 1) == [200]
            await gateway.reload(config())
            await upstream.wait_for(lambda: upstream.connections.open == 0, 1)
            assert await ask(gateway, 1) == [404]
            assert await health(gateway) == {}


@pytest.mark.parametrize("transport", ["http1", "httpx"])
@pytest.mark.parametrize("left", [{}, {"other": service("/o", url="http://127.0.0.1:9")}])
async def test_an_open_stream_of_a_removed_service_goes_on(transport: str, left: dict[str, Any]) -> None:
    go_on = asyncio.Event()
    async with Upstream(switched(go_on)) as upstream:
        gateway = Gateway(config(data=service(url=upstream.url, transport=transport)))
        async with LifespanManager(gateway), Conversation(gateway, http_scope()) as talk:
            talk.body()
            await talk.next()
            assert (await talk.next())["body"] == b"first"
            await gateway.reload(config((), **left))
            assert await ask(gateway, 1) == [404]
            go_on.set()
            answer = await talk.finish()
            assert answer.body == b"firstother"
            await upstream.wait_for(lambda: upstream.connections.open == 0, 1)


@pytest.mark.parametrize("transport", ["http1", "httpx"])
async def test_a_request_that_comes_late_to_a_removed_service_is_served(transport: str) -> None:
    clock = ManualClock()
    again = {"retry": {"attempts": 2, "backoff": {"initial": 1, "jitter": 0}}}
    async with Upstream.script(behaviours.answer(503), behaviours.answer()) as upstream:
        keys = {"transport": transport, "middleware": [again]}
        gateway = Gateway(config(data=service(url=upstream.url, **keys)), runtime=Runtime(clock=clock))
        async with LifespanManager(gateway), Conversation(gateway, http_scope()) as talk:
            talk.body()
            await upstream.wait_for(lambda: upstream.requests)
            while 1 not in clock.pending:
                await asyncio.sleep(0.01)
            await gateway.reload(config())
            await clock.advance(1)
            assert (await talk.finish()).status == 200
            await upstream.wait_for(lambda: upstream.connections.open == 0, 1)


async def test_an_open_stream_of_a_removed_endpoint_goes_on() -> None:
    go_on = asyncio.Event()
    async with Upstream(switched(go_on)) as goes, Upstream(behaviours.answer()) as stays:
        gateway = Gateway(config(data=several(goes.url)))
        async with LifespanManager(gateway), Conversation(gateway, http_scope()) as talk:
            talk.body()
            await talk.next()
            await gateway.reload(config(data=several(stays.url)))
            assert await ask(gateway, 2) == [200, 200]
            go_on.set()
            assert (await talk.finish()).body == b"firstother"
            await goes.wait_for(lambda: goes.connections.open == 0, 1)


async def test_mistakes_keep_what_serves() -> None:
    """Those of the file, and those that show when a chain is built."""
    async with Upstream(behaviours.answer(500)) as upstream:
        data = service(url=upstream.url, middleware=[BREAKER])
        gateway = Gateway(config(data=data))
        async with LifespanManager(gateway):
            assert await ask(gateway, 2) == [500, 503]
            before, statuses = gateway._live, dict(gateway._runtime.services)
            late = {"use": "tests.test_reload:Unbuildable"}
            for wrong in (
                {"version": 1, "services": {"data": {"url": "nonsense"}}},
                config(data=several(upstream.url), other=service("/o", url=upstream.url, middleware=[late])),
                config((late,), other=service(url=upstream.url)),
            ):
                with pytest.raises(ConfigError):
                    await gateway.reload(wrong)
                assert gateway._live is before
                assert gateway._runtime.services == statuses
                assert await ask(gateway, 1) == [503]
            assert list(gateway.config.services) == ["data"]


async def test_the_same_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\n")
    gateway = Gateway(str(file), app=ScriptedApp(204))
    async with Upstream(behaviours.answer()) as upstream, LifespanManager(gateway):
        assert await ask(gateway, 1) == [204]
        file.write_text(f"version: 1\nservices: {{a: {{url: '{upstream.url}', routes: [{{path: /*}}]}}}}\n")
        await gateway.reload()
        assert await ask(gateway, 1) == [200]
        file.write_text("version: 2\n")
        with pytest.raises(ConfigError):
            await gateway.reload()
        assert await ask(gateway, 1) == [200]


async def test_without_a_file_there_is_nothing_to_read_again() -> None:
    with pytest.raises(ValueError, match="no file"):
        await Gateway(config()).reload()


async def test_apps_in_this_process_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("module_of_test_reload")
    module.one, module.two = ScriptedApp(200), ScriptedApp(201)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    one, two = (service(app=f"{module.__name__}:{name}") for name in ("one", "two"))
    gateway = Gateway(config(mine=one))
    await gateway.reload(config(mine={**one, "middleware": ["gateway_headers"]}))
    assert (await request(gateway)).header("x-gateway-service") == "mine"
    for services in ({}, {"mine": two}, {"mine": one, "more": {**two, "routes": [{"path": "/two"}]}}):
        with pytest.raises(ConfigError, match="no reload adds, removes or replaces one"):
            await gateway.reload(config(**services))
    assert await ask(gateway, 1) == [200]


async def test_connections_are_opened_ahead_to_what_is_new() -> None:
    warm = {"connections": {"warm": 2}}
    async with Upstream(behaviours.answer()) as one, Upstream(behaviours.answer()) as other:
        gateway = Gateway(config(data=several(one.url, **warm)))
        async with LifespanManager(gateway):
            await gateway.reload(config(data=several(one.url, other.url, **warm)))
            await other.wait_for(lambda: other.connections.open == 2, 1)
            more = service("/more", url=one.url, **warm)
            await gateway.reload(config(data=several(one.url, other.url, **warm), more=more))
            await one.wait_for(lambda: one.connections.open == 4, 1)
    assert (one.connections.total, other.connections.total) == (4, 2)


async def test_a_gateway_that_stops_reloads_nothing() -> None:
    gateway = Gateway(config())
    async with LifespanManager(gateway):
        pass
    with pytest.raises(ConfigError, match="the gateway stops"):
        await gateway.reload(config(data=service(url="http://127.0.0.1:9")))
    assert not gateway.config.services


@pytest.mark.parametrize("transport", ["http1", "httpx"])
async def test_what_a_removed_service_still_does_ends_at_the_deadline(transport: str) -> None:
    clock = ManualClock()
    async with Upstream(switched(asyncio.Event())) as upstream:
        gateway = Gateway(
            config(data=service(url=upstream.url, transport=transport)), runtime=Runtime(clock=clock)
        )
        async with LifespanManager(gateway), Conversation(gateway, http_scope()) as talk:
            talk.body()
            await talk.next()
            assert (await talk.next())["body"] == b"first"
            await gateway.reload({**config(), "reload": {"drain_timeout": "10s"}})
            for _ in range(9):
                await clock.advance(1)
            assert upstream.connections.open == 1
            await clock.advance(1)
            with pytest.raises(ResponseAborted):
                await talk.finish()
            await upstream.wait_for(lambda: upstream.connections.open == 0, 1)
            assert not gateway._retiring


async def test_what_comes_to_it_after_the_deadline_is_refused() -> None:
    """A retry of a request that began before the reload."""
    clock = ManualClock()
    again = {"retry": {"attempts": 2, "backoff": {"initial": 30, "jitter": 0}}}
    async with Upstream.script(behaviours.answer(503), behaviours.hang(), behaviours.hang()) as upstream:
        gateway = Gateway(
            config(data=service(url=upstream.url, middleware=[again])), runtime=Runtime(clock=clock)
        )
        async with (
            LifespanManager(gateway),
            Conversation(gateway, http_scope()) as talk,
            Conversation(gateway, http_scope(method="POST")) as hanging,
        ):
            talk.body()
            await upstream.wait_for(lambda: upstream.requests)
            hanging.body()
            await upstream.wait_for(lambda: len(upstream.requests) == 2)
            while 30 not in clock.pending:
                await asyncio.sleep(0.01)
            await gateway.reload({**config(), "reload": {"drain_timeout": "10s"}})
            await clock.advance(10)
            assert (await hanging.finish()).status == 503
            await clock.advance(20)
            answer = await talk.finish()
            assert (answer.status, answer.header("x-gateway-error")) == (503, "draining")


async def test_what_is_removed_is_forgotten_once_it_serves_nothing() -> None:
    clock = ManualClock()
    go_on = asyncio.Event()
    async with Upstream(switched(go_on)) as upstream:
        gateway = Gateway(config(data=service(url=upstream.url)), runtime=Runtime(clock=clock))
        async with LifespanManager(gateway), Conversation(gateway, http_scope()) as talk:
            talk.body()
            await talk.next()
            await gateway.reload(config())
            await clock.advance(1)
            assert gateway._retiring
            go_on.set()
            await talk.finish()
            await clock.advance(1)
            assert not gateway._retiring


async def test_a_check_says_what_a_reload_would_and_changes_nothing() -> None:
    async with Upstream(behaviours.answer(500)) as upstream:
        data = service(url=upstream.url, middleware=[BREAKER])
        gateway = Gateway(config(data=data))
        async with LifespanManager(gateway):
            assert await ask(gateway, 2) == [500, 503]
            late = {"use": "tests.test_reload:Unbuildable"}
            statuses = dict(gateway._runtime.services)
            with pytest.raises(ConfigError, match="not today"):
                gateway.check(parse_config(config((late,), data=data)))
            gateway.check(parse_config(config(other=service(url=upstream.url))))
            assert gateway._runtime.services == statuses
            assert await ask(gateway, 1) == [503]


async def test_reloads_come_one_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\n")
    gateway = Gateway(str(file))
    async with LifespanManager(gateway):
        await asyncio.gather(*(gateway.reload() for _ in range(5)))
        await gateway.reload(config(data=service(url="http://127.0.0.1:9")))
        assert gateway.status()["generation"] == 7
        assert list(gateway.status()["services"]) == ["data"]


async def test_a_websocket_of_a_removed_service_is_closed_at_the_deadline() -> None:
    clock = ManualClock()
    told: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()
        told.append(connection.close_code)

    async with serve_websocket(handler, "127.0.0.1", 0) as upstream:
        url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
        gateway = Gateway(config(data=service(url=url)), runtime=Runtime(clock=clock))
        async with LifespanManager(gateway), Conversation(gateway, websocket_scope()) as talk:
            talk.give({"type": "websocket.connect"})
            assert (await talk.next())["type"] == "websocket.accept"
            assert (await talk.next())["text"] == "hello"
            await gateway.reload(config())
            await clock.advance(299)
            assert not told
            await clock.advance(1)
            assert await talk.next() == {"type": "websocket.close", "code": 1001, "reason": ""}
            async with asyncio.timeout(5):
                while not told:
                    await asyncio.sleep(0.01)
    assert told == [1001]


def gauges(gateway: Gateway) -> dict[tuple[str, str | None], float]:
    """What each gauge says, by name and service."""
    told = gateway.status()["gauges"]
    return {(gauge["name"], gauge["labels"].get("service")): gauge["value"] for gauge in told}


async def test_a_gauge_goes_with_the_chain_that_it_tells_of() -> None:
    def limit(places: int) -> dict[str, Any]:
        return {"concurrency_limit": {"max_in_flight": places}}

    data, other = (service(path, url="http://127.0.0.1:9") for path in ("/d/*", "/o/*"))
    gateway = Gateway(config((limit(1),), data=data | {"middleware": [limit(2)]}, other=other))
    kept = {("concurrency_limit", None): 1, ("concurrency_in_flight", None): 0}
    changed = {("concurrency_limit", "data"): 2, ("concurrency_in_flight", "data"): 0}
    assert gauges(gateway) == kept | changed
    refused = {"concurrency_limit": {"max_in_flight": 3, "adaptive": {"latency": 1}}}
    with pytest.raises(ConfigError):
        await gateway.reload(config((limit(4),), other=other | {"middleware": [limit(5), refused]}))
    gateway.check(parse_config(config((limit(5),), data=data)))
    assert gauges(gateway) == kept | changed
    await gateway.reload(config((limit(1),), data=data | {"middleware": [limit(6)]}))
    assert gauges(gateway) == kept | changed | {("concurrency_limit", "data"): 6}
    await gateway.reload(config((limit(1),), data=data))
    assert gauges(gateway) == kept


async def test_others_have_their_turn_while_many_services_are_built() -> None:
    def with_limit(places: int) -> dict[str, Any]:
        chain = [{"concurrency_limit": {"max_in_flight": places}}]
        names = [f"s{number}" for number in range(30)]
        return config(
            **{name: service(f"/{name}", url="http://127.0.0.1:9", middleware=chain) for name in names}
        )

    gateway = Gateway(with_limit(1))
    known: list[dict[str, object]] = []

    async def other() -> None:
        while gateway.number == 1:
            known.append(dict(gateway._runtime.services))
            await asyncio.sleep(0)

    turns = asyncio.ensure_future(other())
    await gateway.reload(parse_config(with_limit(2)))
    await turns
    assert len(known) >= 30
    assert all(services == known[0] for services in known), "what serves is what is told of"


async def test_a_request_in_progress_may_fall_back_to_what_was_removed_meanwhile() -> None:
    go_on = asyncio.Event()

    async def late(asked: Request, connection: Connection) -> None:
        await go_on.wait()
        await connection.send_head(500)

    async with Upstream(late) as slow, Upstream(behaviours.answer()) as spare:
        fallback = {"fallback": {"targets": ["spare"]}}
        data, other = service(url=slow.url, middleware=[fallback]), service("/spare", url=spare.url)
        gateway = Gateway(config(data=data, spare=other))
        async with LifespanManager(gateway):
            asked = asyncio.ensure_future(request(gateway))
            await slow.wait_for(lambda: slow.requests)
            await gateway.reload(config(data=service(url=slow.url)))
            go_on.set()
            answer = await asked
    assert (answer.status, answer.header("x-gateway-error")) == (503, "draining")
