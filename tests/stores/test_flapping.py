"""A store that comes and goes, lies, stammers and refuses: no request pays for it, nothing is left behind."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hiredis
import pytest

from asgi_gateway.clock import SystemClock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.events import Event, StoreFailed
from asgi_gateway.policies.limit import COUNTERS, Limit
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.store import Store
from tests.stores.conftest import Way
from tests.stores.servers import Gateway, Server, descriptors, running, traffic, until

Open = Callable[..., Store]


class Impatient(SystemClock):
    """Looks at a store that has failed far more often than two seconds allow."""

    @staticmethod
    async def sleep(seconds: float) -> None:  # type: ignore[override]
        await asyncio.sleep(min(seconds, 0.01))


@contextlib.contextmanager
def overloaded(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "maxmemory", 1)
    yield
    server.ask("CONFIG", "SET", "maxmemory", 0)


@contextlib.contextmanager
def busy(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "busy-reply-threshold", 1)
    with socket.create_connection(("127.0.0.1", server.port)) as other:
        other.sendall(hiredis.pack_command((b"EVAL", b"while true do end", b"0")))
        yield
        server.ask("SCRIPT", "KILL")


@contextlib.contextmanager
def full(server: Server) -> Iterator[None]:
    with socket.create_connection(("127.0.0.1", server.port)) as other:
        server.ask("CONFIG", "SET", "maxclients", 1, over=other)
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", over=other)
        yield
        server.ask("CONFIG", "SET", "maxclients", 1000, over=other)


@contextlib.contextmanager
def locked(server: Server) -> Iterator[None]:
    with socket.create_connection(("127.0.0.1", server.port)) as other:
        server.ask("CONFIG", "SET", "requirepass", "s3cret", over=other)
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", over=other)
        yield
        server.ask("AUTH", "s3cret", over=other)
        server.ask("CONFIG", "SET", "requirepass", "", over=other)


@contextlib.contextmanager
def replica(server: Server) -> Iterator[None]:
    server.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    server.ask("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    server.stop()
    yield
    server.go_on()


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (overloaded, "OOM"),
        (busy, ""),
        (full, "ERR max number of clients"),
        (locked, "NOAUTH"),
        (replica, "READONLY"),
        (stopped, "no answer in time"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_server_in_trouble_is_left_alone_until_it_is_well(
    trouble: Callable[[Server], contextlib.AbstractContextManager[None]],
    said: str,
    tmp_path: Path,
    open_store: Open,
):
    with running(tmp_path) as server:
        one, other = (Gateway(open_store, f"valkey://127.0.0.1:{server.port}") for _ in range(2))
        async with traffic(one.limiter) as seen:
            await until(lambda: seen.count > 50)
            times = 3 if trouble is stopped else 1
            for _ in range(times):
                with trouble(server):
                    await until(lambda: one.degraded)
                    asked = seen.count
                    await until(lambda asked=asked: seen.count > asked + 100)
                await until(lambda: not one.degraded)
        assert times <= one.failures <= times + 2
        reason = str(one.events[0])
        assert said in reason or (trouble in (full, locked) and "the connection broke" in reason)
        assert [await each.remaining("again") for each in (one, other, one)] == [999, 998, 997]


async def test_a_password_that_becomes_right_is_believed_at_last(tmp_path: Path, open_store: Open):
    with running(tmp_path) as server:
        one = Gateway(open_store, f"valkey://:s3cret@127.0.0.1:{server.port}")
        assert [await one.remaining("a") for _ in range(2)] == [999, 998]
        assert one.degraded
        server.ask("CONFIG", "SET", "requirepass", "s3cret")
        await until(lambda: not one.degraded)
        assert await one.remaining("a") == 999
        assert "s3cret" not in str(one.events)


class Liar:
    """A door to a server that lets through what `answer` makes of its answers; None is silence."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.answer: Callable[[bytes], bytes | None] = bytes
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        writer.transport.set_write_buffer_limits(0)

        async def answers() -> None:
            while data := await there.read(65536):
                said = self.answer(data)
                if said is not None:
                    writer.write(said)
                    if said and said != data:
                        break
            writer.close()

        answering = asyncio.ensure_future(answers())
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                back.write(data)
        back.close()
        await answering


@contextlib.asynccontextmanager
async def lying(target: int) -> AsyncIterator[tuple[Liar, int]]:
    liar = Liar(target)
    door = await asyncio.start_server(liar.serve, "127.0.0.1", 0)
    yield liar, door.sockets[0].getsockname()[1]
    door.close()


LIES: dict[str, Callable[[bytes], bytes | None]] = {
    "silence": lambda _: None,
    "cut": lambda data: data[: len(data) // 2] or b"*",
    "an end": lambda _: b"",
    "garbage": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "loading": lambda _: b"-LOADING the dataset\r\n",
    "something else": lambda _: b"+OK\r\n" * 3,
    "a nested error": lambda _: b"*4\r\n:1\r\n:1\r\n-ERR no\r\n-ERR no\r\n" * 3,
    "nothing": lambda _: b"$-1\r\n" * 3,
    "too much": lambda data: data + b":1\r\n" * 5,
}


async def test_fifty_failures_leave_nothing_behind(tmp_path: Path, open_store: Open):
    with running(tmp_path) as server:
        async with lying(server.port) as (liar, port):
            runtime = Runtime(clock=Impatient())
            one = Gateway(open_store, f"valkey://127.0.0.1:{port}", runtime=runtime)
            await one.store.start()
            lies = list(LIES.values())
            async with traffic(one.limiter):
                for flap in range(50):
                    if flap == len(lies):  # each was seen once
                        before = descriptors(), len(asyncio.all_tasks())
                    liar.answer = lies[flap % len(lies)]
                    await until(lambda: one.degraded)
                    liar.answer = bytes
                    await until(lambda: not one.degraded)
                await until(lambda: (descriptors(), len(asyncio.all_tasks())) <= before)
            assert one.failures >= 50
            assert await one.remaining("again") == 999


async def test_what_a_server_says_of_the_password_does_not_quote_it(tmp_path: Path, open_store: Open):
    with running(tmp_path, "--rename-command", "AUTH", "") as server:
        one = Gateway(open_store, f"valkey://me:s3cret@127.0.0.1:{server.port}", timeout=5)
        assert await one.remaining("a") == 999
        assert "ERR unknown command" in str(one.events)
        assert "s3cret" not in str(one.events)


@pytest.mark.parametrize("said", [b"-ERR no s3cret here\r\n", b"-WRONGPASS 's3c...\r\n"])
async def test_nor_does_what_any_other_server_says(said: bytes, open_store: Open):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(65536)
        assert asked.count(b"$4\r\n") == 2, "all of the greeting came at once"  # AUTH and PING
        writer.write(said + b"-NOAUTH Authentication required.\r\n" * 2)
        await reader.read()
        writer.close()

    door = await asyncio.start_server(serve, "127.0.0.1", 0)
    one = Gateway(open_store, f"valkey://:s3cret@127.0.0.1:{door.sockets[0].getsockname()[1]}/1", timeout=5)
    assert await one.remaining("a") == 999
    assert "s3c" not in str(one.events)
    assert one.degraded
    door.close()


@pytest.mark.parametrize("host", ["cache..internal", "a" * 64])
async def test_what_is_no_host_name_is_a_store_that_fails(host: str, open_store: Open):
    one = Gateway(open_store, f"valkey://{host}:6379", timeout=5)
    assert [await one.remaining("a") for _ in range(2)] == [999, 998]
    assert (one.degraded, one.told) == (1, [StoreFailed])


async def test_a_store_is_looked_at_again_though_its_failure_could_not_be_told(
    way: Way, open_store: Open, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda _: None)

    def broken(event: Event) -> None:
        raise RuntimeError("a bug of whoever listens")

    store = open_store(f"unix://{way.path}", runtime=Runtime(emit=broken), timeout=5)
    hit = store.limiter("one", [Limit(COUNTERS["fixed_window"], 1000, 60)], 1)
    await hit("a")
    await way.shut()
    with pytest.raises((StoreUnavailable, RuntimeError)):
        await hit("a")
    await way.open(way.path)
    await until(lambda: not store.degraded)
    assert (await hit("a")).remaining == 998
