"""A cluster whose nodes die, hang and hand slots over: only what is lost is counted locally."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_gateway.policies.window import FixedWindow, Limit, SlidingWindow
from asgi_gateway.stores.cluster import SlotMoving
from asgi_gateway.stores.store import Store
from asgi_gateway.testing import request
from tests.stores.servers import Gateway, Server, cluster, traffic, until

Open = Callable[..., Store]


def url(nodes: list[Server]) -> str:
    return "valkey+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


async def shared_keys(one: Gateway, other: Gateway) -> list[bool]:
    """Of some new clients, all over the slots, which are counted together."""
    names = [f"shared-{one.fresh()}" for _ in range(40)]
    counts = [await one.remaining(name) - await other.remaining(name) for name in names]
    return [count == 1 for count in counts]


async def test_three_nodes_are_one_store(tmp_path: Path, open_store: Open):
    async with cluster(tmp_path) as nodes:
        one, other = (open_store(url([node]), timeout=1) for node in nodes[:2])
        both = [Limit(SlidingWindow, 3, 60), Limit(FixedWindow, 9, 600)]
        hits = [one.limiter("it", both, 1), other.limiter("it", both, 1)]
        windows = await asyncio.gather(*(hit(f"client-{n}") for n in range(60) for hit in hits * 2))
        assert sum(window.allowed for window in windows) == 60 * 3
        assert all(node.ask("DBSIZE") > 20 for node in nodes), "every node holds some"


async def test_a_replica_takes_over_from_a_master_that_dies(tmp_path: Path, open_store: Open):
    async with cluster(tmp_path, replicas=1) as nodes:
        one, other = gateways = [Gateway(open_store, url(nodes[:2])) for _ in range(2)]
        for each in gateways:
            await each.store.start()
        async with traffic(one.limiter) as seen, traffic(other.limiter):
            await until(lambda: seen.count > 100)
            nodes[0].kill()
            await until(lambda: all(each.degraded for each in gateways))
            await until(lambda: "role:master" in nodes[3].ask("INFO", "replication"))
            await until(lambda: not any(each.degraded for each in gateways))
        for each in gateways:
            assert 1 <= each.failures <= 3  # a busy machine may be late once more
        assert all(await shared_keys(one, other))
        await request(one.breaker)
        await until(lambda: other.is_open)


async def test_without_a_replica_only_the_keys_of_the_dead_are_counted_locally(
    tmp_path: Path, open_store: Open
):
    async with cluster(tmp_path) as nodes:
        one, other = gateways = [Gateway(open_store, url(nodes)) for _ in range(2)]
        for each in gateways:
            await each.store.start()
        async with traffic(one.limiter) as seen, traffic(other.limiter):
            nodes[0].stop()
            await until(lambda: all(each.degraded for each in gateways))
            assert set(await shared_keys(one, other)) == {True, False}
            await until(lambda: "fail" in nodes[1].ask("CLUSTER", "NODES"))
            for node in nodes[1:]:
                node.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
            await until(lambda: all("state:fail" in node.ask("CLUSTER", "INFO") for node in nodes[1:]))
            asked = seen.count
            await until(lambda: seen.count > asked + 300)
            assert not any(await shared_keys(one, other)), "CLUSTERDOWN"
            nodes[0].go_on()
            await until(lambda: not any(each.degraded for each in gateways))
        for each in gateways:
            assert 1 <= each.failures <= 3  # a busy machine may be late once more
        assert all(await shared_keys(one, other))


class Resharding:
    """Moves the slot of the only key from its master to another, step by step."""

    def __init__(self, nodes: list[Server]) -> None:
        held = {node: [key for key in node.ask("KEYS", "*") if "probe" not in key] for node in nodes}
        self.source = next(node for node, keys in held.items() if keys)
        self.target = next(node for node, keys in held.items() if not keys)
        self.nodes = nodes
        self.keys = held[self.source]
        self.slot = self.source.ask("CLUSTER", "KEYSLOT", self.keys[0])

    def begin(self) -> None:
        source, target = (node.ask("CLUSTER", "MYID") for node in (self.source, self.target))
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", source)
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", target)

    def move(self, *keys: str) -> None:
        self.source.ask("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys)

    def end(self) -> None:
        owner = self.target.ask("CLUSTER", "MYID")
        for node in (self.target, self.source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", owner)


async def test_counts_go_with_a_slot_that_is_moved_under_use(tmp_path: Path, open_store: Open):
    async with cluster(tmp_path) as nodes:
        one, other = gateways = [Gateway(open_store, url(nodes), timeout=5) for _ in range(2)]
        expected = iter(range(999, 0, -1))

        async def hit_often() -> None:
            answers = await asyncio.gather(*(each.remaining("it") for each in gateways for _ in range(20)))
            assert sorted(answers, reverse=True) == [next(expected) for _ in answers]

        await hit_often()
        resharding = Resharding(nodes)
        resharding.begin()
        await hit_often()
        resharding.move(*resharding.keys)
        await hit_often()  # ASK, to a node that does not know the script yet
        resharding.target.ask("SCRIPT", "FLUSH")
        await hit_often()
        resharding.end()
        await hit_often()  # MOVED
        assert one.told == other.told == []


async def test_keys_that_are_moved_one_by_one_are_counted_apart_for_so_long(tmp_path: Path, open_store: Open):
    async with cluster(tmp_path) as nodes:
        store = open_store(url(nodes))
        hit = store.limiter("it", [Limit(FixedWindow, 9, 600), Limit(FixedWindow, 99, 6000)], 1)
        await hit("a")
        resharding = Resharding(nodes)
        resharding.begin()
        resharding.move(resharding.keys[0])
        with pytest.raises(SlotMoving):
            await hit("a")
        assert not store.degraded
        resharding.move(resharding.keys[1])
        assert (await hit("a")).remaining == 7
        resharding.end()
        assert (await hit("a")).remaining == 6


async def test_exactly_the_limit_passes_while_slots_are_moved_at_once(tmp_path: Path, open_store: Open):
    async with cluster(tmp_path) as nodes:
        one, other = gateways = [Gateway(open_store, url(nodes), timeout=5) for _ in range(2)]
        await one.remaining("it")
        source, target, slot = (moved := Resharding(nodes)).source, moved.target, moved.slot
        passed = 1

        async def ask(each: Gateway) -> None:
            nonlocal passed
            while (await request(each.limiter, headers=[(b"x-key", b"it")])).status == 200:
                passed += 1

        asking = [asyncio.ensure_future(ask(each)) for each in gateways for _ in range(4)]
        await until(lambda: passed > 100)
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.ask("CLUSTER", "MYID"))
        await asyncio.gather(*asking)
        assert passed == 1000
        await until(lambda: target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 1)
        assert one.told == other.told == []
