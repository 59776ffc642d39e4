"""Stores that outlive an event loop, requests that end before they are answered, processes forked off."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asgi_lifespan import LifespanManager

from asgi_gateway import gateway
from asgi_gateway.clock import SystemClock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.events import StoreFailed
from asgi_gateway.policies.limit import COUNTERS, Limit
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.pipe import connect
from asgi_gateway.stores.store import Store
from asgi_gateway.testing import ScriptedApp, request, settle
from tests.stores.conftest import Way
from tests.stores.servers import Gateway, descriptors, until

Open = Callable[..., Store]
LIMIT = [Limit(COUNTERS["fixed_window"], 1000, 60)]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def left_behind() -> Iterator[None]:
    """Lets a loop end with connections open: whoever ends it might have closed them, the store cannot."""
    gc.disable()
    yield
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()
    gc.enable()


@pytest.mark.usefixtures("left_behind")
def test_a_store_serves_one_event_loop_after_another(server: EmbeddedServer, tmp_path: Path):
    """As an app has them whose tests each run in a loop of their own."""
    one = Gateway(Store, server.url, prefix=str(tmp_path), timeout=5)
    other = Gateway(Store, server.url, prefix=str(tmp_path), timeout=5)
    assert [asyncio.run(one.remaining("a")) for _ in range(3)] == [999, 998, 997]

    async def opens() -> None:
        await request(one.breaker)  # looks at what others open in this loop
        await other.store.start()
        await until(lambda: other.is_open)
        await other.store.aclose()

    asyncio.run(request(other.breaker))
    asyncio.run(opens())
    assert one.told == other.told == []


@pytest.mark.usefixtures("left_behind")
def test_a_failure_ends_with_the_event_loop_that_looked_for_its_end(server: EmbeddedServer, tmp_path: Path):
    way = Way(server.url.removeprefix("valkey+unix://"))
    one = Gateway(Store, f"unix://{tmp_path}/way.sock", prefix=str(tmp_path), timeout=5)

    async def without() -> None:
        assert await one.remaining("a") == 999
        assert one.degraded

    async def with_it() -> None:
        await way.open(tmp_path / "way.sock")
        assert await one.remaining("a") == 999
        assert not one.degraded
        await one.store.aclose()
        await way.shut()

    asyncio.run(without())
    asyncio.run(with_it())


async def test_a_store_that_was_closed_in_a_failure_is_started_again(way: Way, open_store: Open):
    one = Gateway(open_store, f"unix://{way.path}", timeout=5)
    await way.shut()
    assert await one.remaining("a") == 999
    assert one.degraded
    await one.store.aclose()
    await way.open(way.path)
    await one.store.start()
    assert not one.degraded
    other = Gateway(open_store, f"unix://{way.path}", timeout=5)
    await request(other.breaker)
    await until(lambda: one.is_open)


def test_another_loop_may_use_it_while_the_first_still_runs(server: EmbeddedServer, tmp_path: Path):
    one = Gateway(Store, server.url, prefix=str(tmp_path), timeout=5)

    async def second() -> int:
        left = await one.remaining("a")
        await one.store.aclose()
        return left

    async def first() -> list[int]:
        lefts = [
            await one.remaining("a"),
            await asyncio.to_thread(asyncio.run, second()),
            await one.remaining("a"),
        ]
        await one.store.aclose()
        return lefts

    assert asyncio.run(first()) == [999, 998, 997]
    assert one.told == []


FORKS = """
import asyncio, os, sys
from asgi_gateway.policies.limit import COUNTERS, Limit
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.store import Store

server = EmbeddedServer()
server.start()
store = Store(server.url, timeout=5)
hit = store.limiter("one", [Limit(COUNTERS["fixed_window"], 1000, 60)], 1)

async def remaining():
    return (await hit("a")).remaining

loop = asyncio.new_event_loop()
assert loop.run_until_complete(remaining()) == 999
for left in (998, 996):
    child = os.fork()
    if not child:
        assert asyncio.run(remaining()) == left
        sys.exit(0)  # with all that is registered for the end of the process
    assert os.waitpid(child, 0)[1] == 0
    assert loop.run_until_complete(remaining()) == left - 1
loop.run_until_complete(store.aclose())
server.stop()
"""


def test_a_process_that_was_forked_off_has_connections_of_its_own():
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", FORKS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


async def test_requests_that_are_cancelled_while_they_wait_disturb_nobody(way: Way, open_store: Open):
    one = Gateway(open_store, f"unix://{way.path}", timeout=5)
    await one.store.start()
    way.delay = 0.02
    leaving = [asyncio.ensure_future(one.remaining("a")) for _ in range(50)]
    staying = [asyncio.ensure_future(one.remaining("a")) for _ in range(50)]
    await settle()
    for task in leaving[::2]:
        task.cancel()
    left = await asyncio.gather(*staying)
    assert all(isinstance(count, int) for count in left)
    assert await one.remaining("a") == 899, "what was asked is counted"
    assert len(set(left)) == 50
    assert one.told == []


async def test_who_made_the_connection_may_leave_before_it_stands(way: Way, open_store: Open):
    one = Gateway(open_store, f"unix://{way.path}", timeout=5)
    way.delay = 0.02
    first = asyncio.ensure_future(one.remaining("a"))
    await settle()
    second = asyncio.ensure_future(one.remaining("a"))
    await settle()
    first.cancel()
    assert await second == 999
    assert one.told == []


async def test_a_connection_that_comes_too_late_is_not_used_beside_the_next(way: Way, open_store: Open):
    """It was kept, and the one that the next look at the store made was a second."""
    before = descriptors()
    way.delay = 0.06  # both ways, once for the greeting and once for a count
    one = Gateway(open_store, f"unix://{way.path}", timeout=0.2)
    assert await one.remaining("a") == 999
    assert one.told == [StoreFailed]
    await until(lambda: not one.degraded)
    way.delay = 0.0
    await until(lambda: descriptors() == before + 3)  # its own, and both ends of the way


async def test_an_end_while_it_connects_leaves_nothing_and_cancels_no_request(way: Way, open_store: Open):
    before = descriptors()
    one = Gateway(open_store, f"unix://{way.path}", timeout=5)
    way.delay = 10
    waiting = asyncio.ensure_future(one.remaining("a"))
    await until(lambda: descriptors() == before + 3)
    await one.store.aclose()
    assert await waiting == 999
    await way.shut()
    await until(lambda: descriptors() == before - 1)


async def test_a_connection_that_is_given_up_in_its_greeting_is_closed(way: Way, open_store: Open):
    way.delay = 10
    before = descriptors()
    address = open_store(f"unix://{way.path}").address
    connecting = asyncio.ensure_future(connect(address, address.places[0], SystemClock(), 5, lambda *_: None))
    await until(lambda: descriptors() == before + 3)
    connecting.cancel()
    with contextlib.suppress(asyncio.CancelledError, StoreUnavailable):
        await connecting
    await until(lambda: descriptors() < before + 3)


async def test_an_embedded_state_begins_anew_with_a_second_lifespan():
    """It was stopped for good: from then on each process counted for itself, and the store was degraded."""
    state = {"url": "embedded", "timeout": 1}
    limit = {"rate_limit": {"limit": "5/hour"}}
    app = gateway.Gateway({"version": 1, "state": state, "middleware": [limit]}, app=ScriptedApp(200))
    for _ in range(2):
        async with LifespanManager(app):
            left = [(await request(app)).header("ratelimit-remaining") for _ in range(2)]
            degraded = [one["value"] for one in app.status()["gauges"] if one["name"] == "store_degraded"]
        assert (left, degraded) == (["4", "3"], [0])


async def test_a_reload_that_brings_the_first_shared_breaker_follows_before_the_first_request(
    server: EmbeddedServer,
):
    """It connected with the first answer, so the first requests went to a service that is open elsewhere."""
    chain = [{"circuit_breaker": {"failure_threshold": 1, "shared": True}}]
    service = {"app": "tests.stores.test_lifetimes:failing", "routes": [{"path": "/*"}]}
    base = {"version": 1, "state": {"url": server.url, "prefix": uuid.uuid4().hex, "timeout": 1}}
    with_breaker = {**base, "services": {"ai": {**service, "middleware": chain}}}
    one, other = (
        gateway.Gateway(content) for content in ({**base, "services": {"ai": service}}, with_breaker)
    )
    async with LifespanManager(one), LifespanManager(other):
        await one.reload(with_breaker)
        assert (await request(other)).status == 500
        await until(lambda: one.status()["services"]["ai"]["breaker"] == "open", 5)


failing = ScriptedApp(500)
