"""A master that dies or is replaced, as sentinels see it: the store finds the new one by itself."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asgi_gateway.stores.store import Store
from asgi_gateway.testing import request
from tests.stores.servers import Gateway, Server, descriptors, running, traffic, until

Open = Callable[..., Store]


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[tuple[Server, Server, Server]]:
    """A master, its replica, and a sentinel that decides quickly."""
    with (
        running(folder / "one", "--repl-diskless-sync-delay", 0) as master,
        running(folder / "two", "--replicaof", f"127.0.0.1 {master.port}") as replica,
        running(folder / "sentinel", sentinel=True) as sentinel,
    ):
        yield master, replica, sentinel


async def is_watched(master: Server, replica: Server, sentinel: Server) -> None:
    await until(lambda: "state=online" in master.ask("INFO", "replication"))
    await until(lambda: "master_link_status:up" in replica.ask("INFO", "replication"))
    sentinel.ask("SENTINEL", "MONITOR", "mine", "127.0.0.1", master.port, 1)
    sentinel.ask("SENTINEL", "SET", "mine", "down-after-milliseconds", 200, "failover-timeout", 2000)
    await until(lambda: "'master-link-status', 'ok'" in str(sentinel.ask("SENTINEL", "REPLICAS", "mine")))


@pytest.mark.parametrize("how", ["killed", "demoted", "replaced"])
async def test_the_new_master_is_found_and_counts_together_again(how: str, tmp_path: Path, open_store: Open):
    with watched(tmp_path) as (master, replica, sentinel):
        await is_watched(master, replica, sentinel)
        url = f"valkey+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/mine"
        one, other = gateways = [Gateway(open_store, url) for _ in range(2)]
        for each in gateways:
            await each.store.start()
        async with traffic(one.limiter) as seen, traffic(other.limiter):
            await until(lambda: seen.count > 100)
            if how == "killed":
                master.kill()
            else:
                await until(lambda: sentinel.ask("SENTINEL", "FAILOVER", "mine"))
            await until(lambda: "role:master" in replica.ask("INFO", "replication"))
            if how == "demoted":
                # What the sentinel does ten seconds later, but here the connections stay open.
                master.ask("REPLICAOF", "127.0.0.1", replica.port)
            if how == "replaced":
                # The sentinel leaves the old one a master for ten seconds more.
                counted = replica.ask("DBSIZE")
                await until(lambda: replica.ask("DBSIZE") > counted + 100)
                assert "role:master" in master.ask("INFO", "replication")
            # It has forgotten the scripts, as one has that is told effects only.
            replica.ask("SCRIPT", "FLUSH")
            asked = seen.count
            await until(lambda: seen.count > asked + 50 and not any(each.degraded for each in gateways))
        for each in gateways:
            # None, where nobody waited at that moment; more, where a busy machine was late.
            assert (how == "killed") <= each.failures <= 3
        assert [await each.remaining("again") for each in (one, other, one)] == [999, 998, 997]
        await request(one.breaker)
        await until(lambda: other.is_open)
        assert replica.ask("DBSIZE") > 100


async def test_connections_to_one_master_after_another_leave_nothing(tmp_path: Path, open_store: Open):
    with running(tmp_path / "one") as master, running(tmp_path / "sentinel", sentinel=True) as sentinel:
        sentinel.ask("SENTINEL", "MONITOR", "mine", "127.0.0.1", master.port, 1)
        one = Gateway(open_store, f"valkey+sentinel://127.0.0.1:{sentinel.port}/mine", timeout=5)
        assert await one.remaining("a") == 999
        tasks, files = len(asyncio.all_tasks()), descriptors()
        for left in range(998, 988, -1):
            master.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await until(lambda: "idle" in repr(one.store))
            assert await one.remaining("a") == left
        await until(lambda: (len(asyncio.all_tasks()), descriptors()) == (tasks, files))
        assert one.told == []
