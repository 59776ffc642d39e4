"""Circuits that are open in every process which shares a store."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from asgi_gateway import Gateway
from asgi_gateway.config import parse_config
from asgi_gateway.events import CircuitOpened, Event
from asgi_gateway.middleware.circuit_breaker import CircuitBreakerMiddleware
from asgi_gateway.policies.circuit_breaker import CircuitBreaker
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.store import Store
from asgi_gateway.testing import ScriptedApp, request

Open = Callable[..., Store]


def breaker(store: Store, app: ScriptedApp, events: list[Event] | None = None, **options: Any) -> Any:
    runtime = Runtime(state=store, service="ai", emit=(events if events is not None else []).append)
    return CircuitBreakerMiddleware(app, failure_threshold=1, shared=True, runtime=runtime, **options)


async def is_open(app: CircuitBreakerMiddleware, seconds: float = 5.0) -> float:
    """How long it took until the breaker is open."""
    begun = time.monotonic()
    while app.policy.state(time.monotonic()) != "open":
        assert time.monotonic() - begun < seconds
        await asyncio.sleep(0.001)
    return time.monotonic() - begun


async def test_what_one_process_opens_is_open_in_the_other(server: EmbeddedServer, open_store: Open):
    failing, well, events = ScriptedApp(500), ScriptedApp(200), list[Event]()
    one = breaker(open_store(server.url), failing)
    other = breaker(open_store(server.url), well, events)
    assert (await request(other)).status == 200
    assert (await request(one)).status == 500
    await is_open(other)
    refused = await request(other)
    assert refused.status == 503
    assert 58 <= int(str(refused.header("retry-after"))) <= 60
    assert len(well.calls) == 1
    assert [type(event) for event in events] == [CircuitOpened]


async def test_a_store_that_is_started_follows_before_the_first_request(
    server: EmbeddedServer, open_store: Open
):
    store = open_store(server.url)
    one, other = breaker(open_store(server.url), ScriptedApp(500)), breaker(store, ScriptedApp(200))
    await store.start()
    await request(one)
    await is_open(other)
    assert (await request(other)).status == 503


async def test_an_event_sink_that_raises_is_not_the_end_of_following(
    server: EmbeddedServer, open_store: Open
):
    def refuses(event: Event) -> None:
        raise RuntimeError("no")

    loop, told = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    runtime = Runtime(state=open_store(server.url), service="ai", emit=refuses)
    other = CircuitBreakerMiddleware(ScriptedApp(200), shared=True, break_duration=0.5, runtime=runtime)
    one = breaker(open_store(server.url), ScriptedApp(500), break_duration=0.5)
    for _ in range(2):
        while other.policy.state(time.monotonic()) != "closed":
            with suppress(RuntimeError):  # the sink is told by a request, too
                await request(other)
            await asyncio.sleep(0.01)
        await request(other)
        while (await request(one)).status != 500:
            await asyncio.sleep(0.01)
        await is_open(other)
        gc.collect()
    assert [str(error) for error in told] == ["no"]


async def test_the_other_tries_for_itself_when_the_time_is_over(server: EmbeddedServer, open_store: Open):
    one = breaker(open_store(server.url), ScriptedApp(500), break_duration=0.5)
    other = breaker(open_store(server.url), ScriptedApp(200), break_duration=0.5)
    await request(other)
    await request(one)
    await is_open(other)
    opened_until = other.policy.opens_until
    while time.monotonic() < opened_until:
        assert (await request(other)).status == 503
        await asyncio.sleep(0.01)
    assert (await request(other)).status == 200
    assert other.policy.state(time.monotonic()) == "closed"


async def test_breakers_of_other_services_stay_closed(server: EmbeddedServer, open_store: Open):
    one = breaker(open_store(server.url), ScriptedApp(500))
    same = breaker(open_store(server.url), ScriptedApp(200))
    runtime = Runtime(state=open_store(server.url), service="data")
    other: Any = CircuitBreakerMiddleware(ScriptedApp(200), failure_threshold=1, shared=True, runtime=runtime)
    await request(other)
    await request(same)
    await request(one)
    await is_open(same)
    assert (await request(other)).status == 200


async def test_one_that_nobody_has_any_more_is_let_go(tmp_path: Path, open_store: Open):
    app = breaker(open_store(f"unix://{tmp_path}/nobody.sock"), ScriptedApp(200))
    policy = weakref.ref(app.policy)
    del app
    gc.collect()
    assert policy() is None


async def test_a_reload_and_a_check_leave_none_behind(tmp_path: Path):
    def config(threshold: int, **more: Any) -> Any:
        middleware = [{"circuit_breaker": {"shared": True, "failure_threshold": threshold, **more}}]
        service = {"url": "http://127.0.0.1:9", "routes": [{"path": "/*"}], "middleware": middleware}
        url = f"unix://{tmp_path}/nobody.sock"
        return parse_config({"version": 1, "state": url, "services": {"one": service}}, environ={})

    gateway = Gateway(config(7_000_001))
    for threshold in (7_000_002, 7_000_003):
        await gateway.reload(config(threshold))
        gateway.check(config(threshold + 1_000))
    gc.collect()
    # Not isinstance, which a lazy object of Django's answers by an exception.
    breakers = [each for each in gc.get_objects() if type(each) is CircuitBreaker]
    assert [each.failure_threshold for each in breakers if (each.failure_threshold or 0) > 7_000_000] == [
        7_000_003
    ]
    assert gateway.status()["services"]["one"]["breaker"] == "closed"


async def test_two_of_a_name_in_one_process_open_with_one_event(server: EmbeddedServer, open_store: Open):
    """A chain that drains and the one that took over from it."""
    store, events = open_store(server.url), list[Event]()
    both = [breaker(store, ScriptedApp(200), events) for _ in range(2)]
    await store.start()
    await request(breaker(open_store(server.url), ScriptedApp(500)))
    for app in both:
        await is_open(app)
        assert (await request(app)).status == 503
    assert [type(event) for event in events] == [CircuitOpened]


async def test_without_the_store_each_judges_for_itself(tmp_path: Path, open_store: Open):
    store = open_store(f"unix://{tmp_path}/nobody.sock")
    one = breaker(store, ScriptedApp(500))
    assert [(await request(one)).status for _ in range(2)] == [500, 503]


async def test_alone_a_shared_breaker_is_an_ordinary_one():
    app: Any = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, shared=True)
    assert [(await request(app)).status for _ in range(2)] == [500, 503]
