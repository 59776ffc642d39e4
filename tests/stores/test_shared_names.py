"""What counts together in a store and what does not: the same in each process, each reload, each chain."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from asgi_gateway import Gateway
from asgi_gateway.chain import build_chain
from asgi_gateway.config import Config, parse_config
from asgi_gateway.middleware.rate_limit import RateLimitMiddleware
from asgi_gateway.runtime import Runtime, ServiceStatus
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.store import Store
from asgi_gateway.testing import ScriptedApp, request
from asgi_gateway.types import ASGIApp

Open = Callable[..., Store]

FOUR = {"limit": "4/hour", "strategy": "fixed_window"}


def config(*middleware: dict[str, Any], **keys: Any) -> Config:
    return parse_config({"version": 1, "middleware": list(middleware), **keys}, environ={})


def limiters(*options: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return tuple({"rate_limit": {**FOUR, **each}} for each in options)


def chain(runtime: Runtime, *middleware: dict[str, Any], status: int = 200) -> ASGIApp:
    """What a gateway makes of that chain."""
    return build_chain(config(*middleware).middleware, ScriptedApp(status), runtime)


async def statuses(app: ASGIApp, times: int) -> list[int]:
    return [(await request(app, path="/y")).status for _ in range(times)]


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"exempt": ["/x"]},
        {"mode": "shadow"},
        {"cost_from": "header:x-cost"},
        {"on_missing_key": "skip"},
        {"limit": "4 per 1 hour"},
        {"max_keys": 10},
    ],
    ids=str,
)
async def test_two_limiters_of_a_chain_count_apart_as_in_memory(
    other: dict[str, Any], server: EmbeddedServer, open_store: Open
):
    for middleware in (limiters({}, other), limiters(other, {})):
        app = chain(Runtime(state=open_store(server.url, prefix=uuid.uuid4().hex)), *middleware)
        assert await statuses(app, 5) == [200] * 4 + [429]


async def test_the_same_file_counts_together_in_every_process(server: EmbeddedServer, open_store: Open):
    middleware = limiters({}, {"mode": "shadow"})
    one, other = (chain(Runtime(state=open_store(server.url)), *middleware) for _ in range(2))
    assert await statuses(one, 2) == [200, 200]
    assert await statuses(other, 3) == [200, 200, 429]
    assert await statuses(one, 1) == [429]


async def test_a_chain_counts_with_a_limiter_alone_that_is_the_same(server: EmbeddedServer, open_store: Open):
    one = chain(Runtime(state=open_store(server.url)), *limiters({}))
    other: Any = RateLimitMiddleware(
        ScriptedApp(200),
        limit="4/hour",
        strategy="fixed_window",
        runtime=Runtime(state=open_store(server.url)),
    )
    assert await statuses(one, 3) == [200] * 3
    assert await statuses(other, 2) == [200, 429]


async def test_a_reload_that_changes_what_is_exempt_leaves_the_counts(server: EmbeddedServer):
    state = {"url": server.url, "prefix": uuid.uuid4().hex, "timeout": 1}
    gateway = Gateway(config(*limiters({}, {"mode": "shadow"}), state=state), app=ScriptedApp(200))
    assert await statuses(gateway, 3) == [200] * 3
    for path in ("/x", "/z"):
        per_second = {"limit": "1000/second"}
        changed = config(*limiters(per_second, {"exempt": [path]}, {"mode": "shadow"}), state=state)
        gateway.check(changed)
        await gateway.reload(changed)
    assert await statuses(gateway, 2) == [200, 429]
    assert gateway._store is not None
    await gateway._store.aclose()


async def test_two_shared_breakers_of_a_chain_do_not_open_each_other(
    server: EmbeddedServer, open_store: Open
):
    def breakers(status: int) -> tuple[ASGIApp, ServiceStatus]:
        known = ServiceStatus("ai")
        thresholds = [{"circuit_breaker": {"shared": True, "failure_threshold": n}} for n in (9, 1)]
        runtime = Runtime(state=open_store(server.url), service="ai", status=known)
        return chain(runtime, *thresholds, status=status), known

    failing, _ = breakers(500)
    well, known = breakers(200)
    await request(well)
    await request(failing)
    inner, outer = known.breakers
    async with asyncio.timeout(5):
        while inner.state(time.monotonic()) != "open":
            await asyncio.sleep(0.001)
    assert outer.state(time.monotonic()) == "closed"


async def test_alone_they_count_together_but_for_services_of_other_names(
    server: EmbeddedServer, open_store: Open
):
    store = open_store(server.url)

    def around(app: ASGIApp, *services: str | None) -> ASGIApp:
        for service in services:
            app = RateLimitMiddleware(app, limit="4/hour", runtime=Runtime(state=store, service=service))
        return app

    assert await statuses(around(ScriptedApp(200), None, None), 3) == [200, 200, 429]
    assert await statuses(around(ScriptedApp(200), "login", "search"), 5) == [200] * 4 + [429]
