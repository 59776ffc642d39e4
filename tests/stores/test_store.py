"""The shared store against a real Valkey: exact, fast to give up, and back by itself."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_gateway.clock import SystemClock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.events import Event, StoreFailed, StoreRecovered
from asgi_gateway.middleware import RateLimitMiddleware
from asgi_gateway.policies.window import COUNTERS, Limit, SlidingWindow, Window, hit_all
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.links import open_link
from asgi_gateway.stores.pipe import Pipe, connect
from asgi_gateway.stores.script import Script
from asgi_gateway.stores.store import Store
from asgi_gateway.stores.url import parse_store_url
from asgi_gateway.testing import ScriptedApp, request, settle
from tests.stores.conftest import Way

Open = Callable[..., Store]
LIMIT = [Limit(SlidingWindow, 100, 60)]


async def plain_pipe(store: Store, place: tuple[str, int]) -> Pipe:
    return await connect(store.address, place, SystemClock(), 5, lambda *_: None, greet=False)


KINDS = st.sampled_from(sorted(COUNTERS))
LIMITS = st.lists(
    st.tuples(KINDS, st.integers(1, 12), st.sampled_from([10, 60, 600])), min_size=1, max_size=3
)
HISTORIES = st.lists(
    st.tuples(st.integers(0, 800).map(lambda n: n * 0.125), st.integers(1, 3)), min_size=1, max_size=40
)
STARTS = st.sampled_from([1000.0, 59.875, 1_795_600_000.123457])


@settings(max_examples=60, deadline=None)
@given(limits=LIMITS, start=STARTS, history=HISTORIES)
def test_the_script_says_what_the_policies_say(
    server: EmbeddedServer,
    limits: list[tuple[str, int, int]],
    start: float,
    history: list[tuple[float, int]],
):
    async def compare() -> None:
        link = await open_link(parse_store_url(server.url), SystemClock(), 5, lambda *_: None)
        script = Script("windows.lua")
        counters = [(COUNTERS[kind](period), amount) for kind, amount, period in limits]
        keys = tuple(b"{%d}:%d" % (id(counters), place) for place in range(len(limits)))
        terms = tuple(str(part).encode() for limit in limits for part in limit)
        now = start
        await link.send(keys[0], b"DEL", *keys)
        for gap, cost in history:
            now += gap
            said = await script.run(link, keys, (repr(now).encode(), b"%d" % cost, *terms))
            window = Window(said[0], said[1], float(said[2]), float(said[3]))
            assert window == hit_all(counters, now, cost)
        await link.send(keys[0], b"DEL", *keys)
        link.close()

    asyncio.run(compare())


async def test_two_stores_share_one_limit_exactly(server: EmbeddedServer, open_store: Open):
    one, other = (open_store(server.url).limiter("it", LIMIT, 1) for _ in range(2))
    windows = await asyncio.gather(*(hit("a") for _ in range(500) for hit in (one, other)))
    assert sum(window.allowed for window in windows) == 100
    assert not (await one("a")).allowed
    assert (await one("b")).remaining == 99


async def test_limiters_of_other_names_and_prefixes_count_apart(server: EmbeddedServer, open_store: Open):
    store = open_store(server.url)
    await store.limiter("one", LIMIT, 1)("a")
    assert (await store.limiter("two", LIMIT, 1)("a")).remaining == 99
    assert (await open_store(server.url, prefix="other").limiter("one", LIMIT, 1)("a")).remaining == 99


async def test_keys_of_other_types_are_other_keys(server: EmbeddedServer, open_store: Open):
    hit = open_store(server.url).limiter("one", LIMIT, 1)
    for key in ("a", b"a", ("client_address", "a"), "b'a'", "\udcff"):
        assert (await hit(key)).remaining == 99


async def test_what_it_keeps_expires_by_itself_and_holds_no_key_of_a_client(
    server: EmbeddedServer, open_store: Open
):
    store = open_store(server.url, prefix="expiring")
    for kind in COUNTERS.values():
        await store.limiter(kind.__name__, [Limit(kind, 5, 2)], 1)("a-secret")
    kept = [key for key in await store.call("x", b"KEYS", b"expiring:*") if b"probe" not in key]
    assert len(kept) == 3
    assert all(b"secret" not in key for key in kept)
    for key in kept:
        assert 0 < await store.call("x", b"PTTL", key) <= 5000


async def test_a_store_that_forgot_the_scripts_is_told_again(server: EmbeddedServer, open_store: Open):
    store = open_store(server.url)
    hit = store.limiter("one", LIMIT, 1)
    await hit("a")
    await store.call("x", b"SCRIPT", b"FLUSH")
    assert (await hit("a")).remaining == 98
    assert not store.degraded


@pytest.mark.parametrize("failure", ["slow", "shut"])
async def test_a_failing_store_is_given_up_within_100_ms_and_used_again_by_itself(
    failure: str, way: Way, open_store: Open, events: list[Event]
):
    store = open_store(f"unix://{way.path}", timeout=0.05)
    hit = store.limiter("one", LIMIT, 1)
    await hit("a")
    if failure == "slow":
        way.delay = 10
    else:
        await way.shut()

    async def spent() -> float:
        began = time.perf_counter()
        with pytest.raises(StoreUnavailable):
            await hit("a")
        return time.perf_counter() - began

    assert max(await asyncio.gather(*(spent() for _ in range(100)))) < 0.1
    once_failed = asyncio.ensure_future(spent())
    await settle()
    assert once_failed.done(), "once it has failed nobody waits"
    await once_failed
    assert [type(event) for event in events] == [StoreFailed]
    await way.shut()
    way.delay = 0
    await way.open(way.path)
    async with asyncio.timeout(5):
        while store.degraded:
            await asyncio.sleep(0.01)
    assert (await hit("a")).remaining < 99
    assert [type(event) for event in events] == [StoreFailed, StoreRecovered]


async def test_a_slow_store_is_not_taken_for_a_recovered_one(way: Way, open_store: Open, events: list[Event]):
    way.delay = 0.1
    store = open_store(f"unix://{way.path}", timeout=0.05)
    store.limiter("one", LIMIT, 1)
    await store.start()
    await asyncio.sleep(0.7)
    assert store.degraded
    assert [type(event) for event in events] == [StoreFailed]


async def test_a_connection_that_closes_while_nobody_waits_is_no_failure(
    way: Way, open_store: Open, events: list[Event]
):
    store = open_store(f"unix://{way.path}")
    hit = store.limiter("one", LIMIT, 1)
    await hit("a")
    await way.shut()
    await way.open(way.path)
    await asyncio.sleep(0.05)
    assert (await hit("a")).remaining == 98
    assert events == []


@pytest.mark.parametrize(
    ("policy", "statuses"), [("local", [200, 200, 429]), ("open", [200] * 3), ("closed", [503] * 3)]
)
async def test_a_limiter_does_what_it_should_without_the_store(
    policy: str, statuses: list[int], tmp_path: Path, open_store: Open
):
    store = open_store(f"unix://{tmp_path}/nobody.sock")
    app = RateLimitMiddleware(
        ScriptedApp(200), limit="2/minute", on_store_failure=policy, runtime=Runtime(state=store)
    )
    answers = [await request(app) for _ in range(3)]
    assert [answer.status for answer in answers] == statuses
    if policy == "closed":
        assert answers[0].header("x-gateway-error") == "store_unavailable"


async def test_two_limiters_of_two_gateways_count_together(
    server: EmbeddedServer, open_store: Open, events: list[Event]
):
    stores = [open_store(server.url, timeout=1) for _ in range(2)]
    apps = [
        RateLimitMiddleware(ScriptedApp(200), limit="100/minute", runtime=Runtime(state=store))
        for store in stores
    ]
    answers = await asyncio.gather(*(request(app) for _ in range(500) for app in apps))
    assert events == []
    assert sorted(answer.status for answer in answers) == [200] * 100 + [429] * 900
    assert all(answer.header("ratelimit-limit") == "100" for answer in answers)
    assert 1 <= int(str(answers[-1].header("retry-after"))) <= 120


async def test_an_embedded_server_that_dies_is_started_again(open_store: Open, events: list[Event]):
    server = EmbeddedServer()
    store = open_store(server.url, server=server, timeout=5)
    hit = store.limiter("one", LIMIT, 1)
    await hit("a")
    for _ in range(2):
        assert server._process is not None
        server._process.kill()
        events.clear()
        async with asyncio.timeout(20):
            while StoreRecovered not in map(type, events):
                with contextlib.suppress(StoreUnavailable):
                    await hit("a")
                await asyncio.sleep(0.01)
    assert (await hit("b")).remaining == 99
