"""The shared store against a real Valkey: exact, fast to give up, and back by itself."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asgi_gateway.clock import SystemClock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.events import Event, StoreFailed, StoreRecovered
from asgi_gateway.middleware import RateLimitMiddleware
from asgi_gateway.policies.limit import COUNTERS, Limit, hit_all
from asgi_gateway.policies.window import FixedWindow, SlidingWindow, Window
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.links import open_link
from asgi_gateway.stores.pipe import Pipe, connect
from asgi_gateway.stores.script import Script
from asgi_gateway.stores.store import Store
from asgi_gateway.stores.url import parse_store_url
from asgi_gateway.stores.windows import name_of
from asgi_gateway.testing import Conversation, ScriptedApp, request, settle
from asgi_gateway.types import Receive, Scope, Send
from tests.stores.conftest import Way

Open = Callable[..., Store]
LIMIT = [Limit(SlidingWindow, 100, 60)]


async def plain_pipe(store: Store, place: tuple[str, int]) -> Pipe:
    return await connect(store.address, place, SystemClock(), 5, lambda *_: None, greet=False)


KINDS = st.sampled_from(sorted(COUNTERS))
LIMITS = st.lists(
    st.tuples(KINDS, st.integers(1, 12), st.sampled_from([10, 60, 600])), min_size=1, max_size=3
)
GAPS = st.just(0) | st.integers(0, 100) | st.integers(0, 800)
SETTLEMENTS = st.tuples(GAPS, st.integers(0, 5), st.integers(-6, -1) | st.integers(1, 20))
HISTORIES = st.lists(st.tuples(GAPS, st.integers(1, 3), st.none() | SETTLEMENTS), min_size=1, max_size=40)
"""The gap to what was before in eighths of a second, the cost, and perhaps a settlement: its own gap, how
many hits ago its hit was, and how much more that has cost."""
STARTS = st.sampled_from([1000.0, 59.875, 1_795_600_000.123457])


FIXED, SLIDING, MOVING = [("fixed_window", 9, 10)], [("sliding_window", 9, 10)], [("moving_window", 9, 10)]


@settings(max_examples=100, deadline=None)
@example(limits=FIXED, start=1000.0, history=[(0, 3, None), (96, 2, (0, 1, -3)), (0, 9, None)])
@example(limits=MOVING, start=1000.0, history=[(0, 1, None), (0, 3, (0, 0, -3)), (0, 9, None)])
@example(limits=FIXED, start=1000.0, history=[(0, 2, (96, 0, -1)), (0, 9, None)])
@example(limits=SLIDING, start=1000.0, history=[(0, 2, (0, 0, -6)), (0, 9, None)])
@example(limits=SLIDING, start=1000.0, history=[(0, 2, None), (80, 1, (0, 1, -6)), (8, 8, None)])
@example(limits=SLIDING, start=1000.0, history=[(0, 2, None), (8, 3, (0, 1, -5)), (0, 9, None)])
@given(limits=LIMITS, start=STARTS, history=HISTORIES)
def test_the_script_says_what_the_policies_say(
    server: EmbeddedServer,
    limits: list[tuple[str, int, int]],
    start: float,
    history: list[tuple[int, int, tuple[int, int, int] | None]],
):
    async def compare() -> None:
        link = await open_link(parse_store_url(server.url), SystemClock(), 5, lambda *_: None)
        script = Script("windows.lua")
        counters = [(COUNTERS[kind](period), amount) for kind, amount, period in limits]
        keys = tuple(b"{%d}:%d" % (id(counters), place) for place in range(len(limits)))
        terms = tuple(str(part).encode() for limit in limits for part in limit)
        now = start
        taken: list[bytes] = []
        await link.send(keys[0], b"DEL", *keys)
        for gap, cost, settled in history:
            now += gap / 8
            said = await script.run(link, keys, (repr(now).encode(), b"%d" % cost, b"reserve", *terms))
            window = Window(said[0], said[1], float(said[2]), float(said[3]))
            assert window == hit_all(counters, now, cost)
            if window.allowed:
                taken.append(said[4])
            later, ago, difference = settled or (0, 0, 0)
            now += later / 8
            if not difference or ago >= len(taken):
                continue
            at = taken[-1 - ago]
            assert await script.post(link, keys, (repr(now).encode(), b"%d" % difference, at, *terms)) is None
            for counter, _ in counters:
                counter.settle(now, difference, float(at))
        await link.send(keys[0], b"DEL", *keys)
        link.close()

    asyncio.run(compare())


async def test_a_burst_that_is_over_is_looked_at_in_pieces(server: EmbeddedServer):
    """It was one look at the list for each hit, 257 ms of the server's time for a hundred thousand."""
    link = await open_link(parse_store_url(server.url), SystemClock(), 5, lambda *_: None)
    script = Script("windows.lua")
    key = b"burst"
    await link.send(key, b"DEL", key)

    async def hit(now: float) -> Any:
        return await script.run(
            link, (key,), (repr(now).encode(), b"1", b"hit", b"moving_window", b"9000", b"60")
        )

    await asyncio.gather(*(hit(1000 + place / 1000) for place in range(5000)))
    await hit(1050)
    await link.send(key, b"CONFIG", b"RESETSTAT")
    limit, remaining, *_ = await hit(1090)
    said = (await link.send(key, b"INFO", b"commandstats")).decode()
    looks = sum(map(int, re.findall(r"cmdstat_l(?:index|range):calls=(\d+)", said)))
    link.close()
    assert (limit, remaining) == (9000, 8998)
    assert looks < 40


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


PARTS = st.one_of(st.text("a\0'(),\\\udcff", max_size=4), st.binary(max_size=2))
KEYS = st.one_of(PARTS, st.tuples(PARTS, PARTS), st.tuples(st.none(), PARTS))


@given(one=KEYS, other=KEYS)
@example(one="\0('a', 'b')", other=("a", "b"))
@example(one="('a', 'b')", other=("a", "b"))
@example(one=("a', 'b", "c"), other=("a", "b', 'c"))
def test_every_key_has_a_name_of_its_own(one: object, other: object):
    assert (name_of(one) == name_of(other)) == (one == other)


async def test_combinations_are_counted_apart_over_the_store(server: EmbeddedServer, open_store: Open):
    apps = [
        RateLimitMiddleware(
            ScriptedApp(200),
            limit="1/minute",
            key=["header:X-A", "header:X-B"],
            runtime=Runtime(state=open_store(server.url)),
        )
        for _ in range(2)
    ]
    for one, other in [(b"a", b"b"), (b"a', 'b", b"c"), (b"a", b"b', 'c"), (b"None", b"127.0.0.1")]:
        headers = [(b"x-a", one), (b"x-b", other)]
        assert [(await request(app, headers=headers)).status for app in apps] == [200, 429]
    assert [(await request(app)).status for app in apps] == [200, 429], "without a part: by address"


@pytest.mark.parametrize("kind", sorted(COUNTERS))
async def test_what_was_reserved_over_the_store_is_settled_there(
    kind: str, server: EmbeddedServer, open_store: Open
):
    limits = [Limit(COUNTERS[kind], 5000, 3600), Limit(COUNTERS[kind], 9000, 7200)]
    stores = [open_store(server.url) for _ in range(2)]
    one, other = (store.reserver("it", limits, 1000) for store in stores)
    reserved = await asyncio.gather(*(reserve("a") for _ in range(10) for reserve in (one, other)))
    admitted = [tell for window, tell in reserved if window.allowed]
    assert len(admitted) == 5
    for tell in admitted:
        tell(200)
    for store in stores:
        await store.call("x", b"PING")  # behind the settlements, on the same connection
    after = [(await one("a"))[0] for _ in range(6)]
    assert [window.allowed for window in after] == [True] * 4 + [False] * 2
    assert after[0].remaining == 5000 - 5 * 200 - 1000
    _, tell = await other("b")
    tell(7000)
    assert not (await other("b"))[0].allowed


async def test_a_settlement_takes_no_task_and_goes_before_the_next_hit(
    server: EmbeddedServer, open_store: Open
):
    reserve = open_store(server.url).reserver("it", [Limit(FixedWindow, 100, 3600)], 1)
    _, tell = await reserve("a")
    before = asyncio.all_tasks()
    tell(40)
    assert asyncio.all_tasks() == before
    assert (await reserve("a"))[0].remaining == 100 - 40 - 1


async def test_the_cost_that_an_answer_says_is_settled_over_the_store(
    server: EmbeddedServer, open_store: Open
):
    stores = [open_store(server.url) for _ in range(2)]
    answers = []
    for store in stores * 2:
        app = RateLimitMiddleware(
            ScriptedApp((200, [(b"x-token-cost", b"40")], [])),
            limit="100/hour",
            strategy="fixed_window",
            cost_from="header:x-token-cost",
            runtime=Runtime(state=store),
        )
        answers.append(await request(app))
        await store.call("x", b"PING")  # behind the settlement, on the same connection
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.header("ratelimit-remaining") for answer in answers] == ["60", "20", "0", "0"]


async def test_a_settlement_that_the_store_did_not_take_is_counted_and_harms_nobody(
    way: Way, open_store: Open
):
    runtime = Runtime()
    store = open_store(f"unix://{way.path}", timeout=0.05, runtime=runtime)
    reserve = store.reserver("one", LIMIT, 1)

    def lost() -> int:
        return runtime.counter("store_settlements_lost_total").value

    settlements = [(await reserve("a"))[1] for _ in range(3)]
    settlements[0](1)  # nothing to settle, so nothing to lose
    way.delay = 10
    settlements[1](7)
    assert lost() == 0
    async with asyncio.timeout(5):
        while not lost():
            await asyncio.sleep(0.01)
    assert store.degraded
    settlements[2](7)
    assert lost() == 2


async def test_while_the_store_fails_the_local_window_settles(tmp_path: Path, open_store: Open):
    app = RateLimitMiddleware(
        ScriptedApp((200, [(b"x-token-cost", b"2")], [])),
        limit="100/hour",
        strategy="fixed_window",
        cost=60,
        cost_from="header:x-token-cost",
        runtime=Runtime(state=open_store(f"unix://{tmp_path}/nobody.sock")),
    )
    answers = [await request(app) for _ in range(3)]
    assert [answer.header("ratelimit-remaining") for answer in answers] == ["98", "96", "94"]


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
    hit = store.limiter("one", [Limit(FixedWindow, 100, 60)], 1)
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


async def test_a_gauge_tells_whether_the_store_can_be_used(way: Way) -> None:
    runtime = Runtime()
    store = Store(f"unix://{way.path}", runtime=runtime)
    [gauge] = runtime.metrics.gauges
    hit = store.limiter("one", LIMIT, 1)
    await hit("a")
    assert (gauge.name, gauge.value) == ("store_degraded", 0)
    await way.shut()
    with pytest.raises(StoreUnavailable):
        await hit("a")
    assert gauge.value == 1
    await store.aclose()


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
    async with asyncio.timeout(5):
        while store._link is not None:
            await asyncio.sleep(0.001)
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


async def starts(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that starts when it is told to, and answers then."""
    if scope["type"] != "lifespan":
        await ScriptedApp(200)(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def test_a_limiter_around_an_app_connects_before_the_app_starts(
    way: Way, open_store: Open, events: list[Event]
):
    """The first request would not wait so long, and count for itself."""
    way.delay = 0.1  # for each of three commands and of their answers
    store = open_store(f"unix://{way.path}", timeout=0.5)
    one, other = (RateLimitMiddleware(starts, runtime=Runtime(state=store)) for _ in range(2))
    for app in (one, other):
        before = store._link
        async with Conversation(app, {"type": "lifespan"}) as talk:
            await settle()
            talk.give({"type": "lifespan.startup"})
            assert await talk.next() == {"type": "lifespan.startup.complete"}
        assert store._link is not None
        assert before in (None, store._link), "once is enough"
    assert (await request(one)).header("ratelimit-remaining") == "99"
    assert (await request(other)).header("ratelimit-remaining") == "98"
    assert events == []


async def test_a_store_that_is_down_does_not_keep_an_app_from_starting(
    tmp_path: Path, open_store: Open, events: list[Event]
):
    app = RateLimitMiddleware(starts, runtime=Runtime(state=open_store(f"unix://{tmp_path}/nobody.sock")))
    async with Conversation(app, {"type": "lifespan"}) as talk:
        talk.give({"type": "lifespan.startup"})
        assert await talk.next() == {"type": "lifespan.startup.complete"}
    assert [type(event) for event in events] == [StoreFailed]
    assert (await request(app)).status == 200


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
