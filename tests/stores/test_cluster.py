"""A cluster whose nodes die, hang and hand slots over: only what is lost is counted locally."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

import hiredis
import pytest

from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.policies.limit import Limit
from asgi_gateway.policies.window import FixedWindow, SlidingWindow
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
        reserve = one.reserver("tokens", both, 1)
        for n in range(30):
            (await reserve(f"client-{n}"))[1](3)
        assert not any([(await reserve(f"client-{n}"))[0].allowed for n in range(30)])
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


class Nodes:
    """Two nodes that answer what a test says, by the name of the command; the first knows the map."""

    def __init__(self, *answers: dict[bytes, bytes]) -> None:
        self.answers = answers
        self.ports: list[int] = []
        self.asked: list[list[bytes]] = [[], []]

    async def __aenter__(self) -> Self:
        self._doors = [await asyncio.start_server(partial(self._serve, n), "127.0.0.1", 0) for n in range(2)]
        self.ports = [door.sockets[0].getsockname()[1] for door in self._doors]
        return self

    async def __aexit__(self, *_: object) -> None:
        for door in self._doors:
            door.close()

    async def _serve(self, n: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = hiredis.Reader()
        while data := await reader.read(65536):
            asked.feed(data)
            while (command := asked.gets()) is not False:
                self.asked[n].append(command[0])
                said = self.answers[n].get(command[0], b"+OK\r\n")
                for number, port in enumerate(self.ports):
                    said = said.replace(b"{%d}" % number, b"%d" % port)
                writer.write(said)
        writer.close()

    @property
    def url(self) -> str:
        return f"valkey+cluster://127.0.0.1:{self.ports[0]}"


NAMELESS = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$-1\r\n:{0}\r\n$1\r\nx\r\n"
"""CLUSTER SLOTS of a node that has all and does not know by what name it is called."""
COUNTED = b"*4\r\n:100\r\n:99\r\n$1\r\n1\r\n$1\r\n0\r\n"
LIMIT = [Limit(FixedWindow, 100, 60)]


async def test_a_node_without_a_name_is_where_it_was_asked(open_store: Open):
    first = {b"CLUSTER": NAMELESS, b"EVALSHA": b"-MOVED 1 :{1}\r\n"}
    async with Nodes(first, {b"EVALSHA": COUNTED}) as nodes:
        store = open_store(nodes.url)
        hit = store.limiter("it", LIMIT, 1)
        assert [(await hit("a")).remaining for _ in range(3)] == [99] * 3
        assert not store.degraded
        assert nodes.asked[0].count(b"EVALSHA") == 2, "once for the probe, once for the key, then it is known"
        await store.aclose()


async def test_who_is_sent_round_and_round_gives_up(open_store: Open):
    first = {b"CLUSTER": NAMELESS, b"EVALSHA": b"-MOVED 1 :{1}\r\n"}
    async with Nodes(first, {b"EVALSHA": b"-ASK 1 :{0}\r\n"}) as nodes:
        store = open_store(nodes.url)
        with pytest.raises(StoreUnavailable):
            await store.limiter("it", LIMIT, 1)("a")
        assert store.degraded
        await store.aclose()


NO_MAPS = [
    b"+OK\r\n",
    b"$-1\r\n",
    b"*0\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n*3\r\n:0\r\n:9\r\n*2\r\n$1\r\n\xff\r\n:1\r\n",
]


@pytest.mark.parametrize("said", NO_MAPS)
async def test_what_is_no_map_of_a_cluster_is_a_failure(said: bytes, open_store: Open):
    async with Nodes({b"CLUSTER": said}, {}) as nodes:
        store = open_store(nodes.url)
        with pytest.raises(StoreUnavailable):
            await store.limiter("it", LIMIT, 1)("a")
        assert store.degraded
        await store.aclose()
