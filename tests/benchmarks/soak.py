"""Hours in small: mixed traffic with all that goes wrong, and reloads all the while; is anything left behind?

    python -m tests.benchmarks.soak --seconds 60

Kept connections, uploads, streams, WebSockets, clients that leave in the middle, services that fail, break
off and reset, a new client address with every request, and a reload every second. Each line shows the
gateway's memory, descriptors and tasks. The exit code is 1 where one of them grew after the first third of
the time, where something was left once the traffic had ended, or where an answer was none that was wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import WebSocketException

from asgi_gateway.testing import Upstream, behaviours, run_process
from asgi_gateway.testing.connection import Connection
from asgi_gateway.testing.received import Request
from tests.load import open_files, resident_kilobytes
from tests.server.running import ENVIRONMENT, Running

CLIENTS = 3
"""How many of each kind ask at once."""

CONFIG = """
  echo: {{url: '{service}', routes: [{{path: /echo}}], middleware: [{limit}]}}
  stream: {{url: '{service}', routes: [{{path: /stream}}], middleware: [{limit}]}}
  faults:
    endpoints: [{{url: '{service}'}}, {{url: '{service}/other'}}]
    routes: [{{path: /faults}}]
    middleware:
      - circuit_breaker: {{failure_threshold: 20, break_duration: 200ms}}
      - timeout: {{total: 5s}}
      - retry: {{attempts: 2, backoff: {{initial: 1ms}}}}
  live: {{url: '{live}', routes: [{{path: /live}}]}}
  changing{number}: {{url: '{service}', routes: [{{path: /changing}}], timeouts: {{idle: {number}s}}}}
"""
LIMIT = "{rate_limit: {limit: 1000000/minute, max_keys: 2000}}"


@dataclass(frozen=True)
class Sample:
    """What the gateway held at one time."""

    seconds: float
    kilobytes: int
    files: int
    tasks: int


class Soak:
    """The traffic, and what came of it."""

    def __init__(self, gateway: Running, service: str, live: str) -> None:
        self.gateway = gateway
        self.outcomes: Counter[str] = Counter()
        self.stopped = False
        self._urls = {"service": service, "live": live}
        self._random = random.Random(1)

    def write(self, number: int) -> None:
        """The configuration, with one service that is another each time."""
        self.gateway.write(
            self._urls["service"], more=CONFIG.format(number=number, limit=LIMIT, **self._urls)
        )

    async def again_and_again(self, name: str, ask: Callable[[], Awaitable[str]]) -> None:
        """One client of one kind."""
        while not self.stopped:
            try:
                async with asyncio.timeout(20):
                    outcome = await ask()
            except TimeoutError:
                outcome = "no answer in 20 s"
            except (OSError, asyncio.IncompleteReadError, WebSocketException) as error:
                outcome = f"lost ({type(error).__name__})"
            self.outcomes[f"{name} {outcome}"] += 1

    async def reloads(self) -> None:
        """Another configuration every second."""
        number = 1
        while not self.stopped:
            await asyncio.sleep(1)
            number += 1
            self.write(number % 50 + 10)
            mistakes = await self.gateway.reload()
            self.outcomes[f"reload {mistakes or 200}"] += 1

    async def kept(self) -> str:
        """Many requests on one connection."""
        reader, writer = await self._open()
        try:
            for _ in range(100):
                head = await self._ask(reader, writer, "/changing")
                if head[9:12] != b"200":
                    return head[9:12].decode()
                await self._body(reader, head)
        finally:
            writer.close()
        return "200"

    async def upload(self) -> str:
        """A body of some size, and the same back."""
        reader, writer = await self._open()
        sent = self._random.randbytes(self._random.choice((10, 10_000, 300_000)))
        try:
            head = await self._ask(reader, writer, "/echo", body=sent)
            received = await self._body(reader, head)
        finally:
            writer.close()
        return head[9:12].decode() if received == sent else "another body"

    async def stream(self) -> str:
        """A stream to its end."""
        reader, writer = await self._open()
        try:
            head = await self._ask(reader, writer, "/stream")
            await reader.readuntil(b"\r\n0\r\n\r\n")
        finally:
            writer.close()
        return head[9:12].decode()

    async def leaving(self) -> str:
        """A client that leaves: before the answer, in the middle of it, in the middle of its upload."""
        reader, writer = await self._open()
        try:
            kind = self._random.randrange(3)
            if kind == 0:
                writer.write(self._head("/stream"))
            elif kind == 1:
                await self._ask(reader, writer, "/stream")
            else:
                writer.write(self._head("/echo", length=100_000) + bytes(1000))
            await asyncio.sleep(self._random.random() / 100)
            writer.transport.abort()
        finally:
            writer.close()
        return "left"

    async def faults(self) -> str:
        """A service that fails in every way."""
        reader, writer = await self._open()
        try:
            head = await self._ask(reader, writer, "/faults")
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._body(reader, head)
        finally:
            writer.close()
        return head[9:12].decode()

    async def websocket(self) -> str:
        """Some messages there and back, and at times no goodbye."""
        url = self.gateway.process.url.replace("http", "ws", 1) + "/live"
        async with connect(url, proxy=None) as client:
            for _ in range(self._random.randrange(20)):
                await client.send("message")
                await client.recv()
            if self._random.random() < 0.5:
                client.transport.abort()
        return "101"

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.gateway.process.port)

    def _head(self, path: str, *, length: int = 0) -> bytes:
        address = ".".join(str(self._random.randrange(1, 255)) for _ in range(4))
        method = "POST" if length else "GET"
        return (
            f"{method} {path} HTTP/1.1\r\nhost: here\r\nx-forwarded-for: {address}\r\n"
            f"content-length: {length}\r\n\r\n"
        ).encode()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, *, body: bytes = b""
    ) -> bytes:
        writer.write(self._head(path, length=len(body)) + body)
        return await reader.readuntil(b"\r\n\r\n")

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        found = head.lower().partition(b"content-length:")[2]
        if found:
            return await reader.readexactly(int(found.partition(b"\r\n")[0]))
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size + 2)
        await reader.readexactly(2)
        return body


async def service(asked: Request, connection: Connection) -> None:
    """Answers well on every path but one, and there in every way."""
    path = asked.target.rpartition(b"/")[2]
    if path == b"echo":
        body = await asked.body()
        await connection.respond(200, [(b"Content-Length", b"%d" % len(body))], body)
        return
    if path == b"stream":
        handler = behaviours.chunked(*[b"piece of a stream"] * 20, interval=0.001)
    elif path == b"faults":
        handler = random.choice(FAULTS)
    else:
        handler = behaviours.answer(body=b"x" * 600)
    await handler(asked, connection)


FAULTS = (
    behaviours.answer(),
    behaviours.answer(),
    behaviours.answer(500),
    behaviours.answer(503),
    behaviours.reset_before_headers(),
    behaviours.close_before_headers(),
    behaviours.reset_inside_body(),
    behaviours.too_short(),
)

WANTED = {
    **{name: {"200"} for name in ("kept", "upload", "stream", "reload")},
    "leaving": {"left"},
    "websocket": {"101"},
    "faults": {"200", "500", "502", "503"},
}
"""What may come of each kind of traffic."""


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def soak(seconds: float, interval: float) -> int:
    """Run it; the exit code."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        gateway = Running(Path(folder), logging="{level: error}", reload="{watch: false}")
        gateway.chain = "[request_id, {client_address: {trusted_proxies: [127.0.0.1]}}, access_log, health]"
        async with (
            Upstream(service, keep=0) as upstream,
            serve_websocket(echo, "127.0.0.1", 0) as live,
        ):
            port = live.sockets[0].getsockname()[1]
            run = Soak(gateway, upstream.url, f"http://127.0.0.1:{port}")
            run.write(10)
            async with run_process(["run", str(gateway.file)], env=ENVIRONMENT) as gateway.process:
                samples, rest = await _measured(run, upstream, seconds, interval)
    wrong = [
        f"{count} times {name}"
        for name, count in run.outcomes.items()
        if name.partition(" ")[2] not in WANTED[name.partition(" ")[0]]
    ]
    print(", ".join(f"{name}: {count}" for name, count in sorted(run.outcomes.items())))
    found = [*verdict(samples, rest), *wrong]
    print("\n".join(found) if found else "flat: nothing grew, nothing was left, nothing was lost")
    return 1 if found else 0


async def _measured(
    run: Soak, upstream: Upstream, seconds: float, interval: float
) -> tuple[list[Sample], tuple[Sample, Sample]]:
    """What was held while it ran, and before and after it."""
    kinds = (run.kept, run.upload, run.stream, run.leaving, run.faults, run.websocket)
    before = await _sample(run, 0)
    begun = time.monotonic()
    traffic = [
        asyncio.ensure_future(run.again_and_again(kind.__name__, kind))
        for kind in kinds
        for _ in range(CLIENTS)
    ]
    traffic.append(asyncio.ensure_future(run.reloads()))
    samples: list[Sample] = []
    print(f"{'seconds':>8} {'memory KiB':>11} {'descriptors':>12} {'tasks':>6} {'done':>9} {'a second':>9}")
    done = 0
    while (now := time.monotonic() - begun) < seconds:
        await asyncio.sleep(min(interval, seconds - now))
        upstream.requests.clear()
        sample = await _sample(run, time.monotonic() - begun)
        samples.append(sample)
        rate = (run.outcomes.total() - done) / interval
        done = run.outcomes.total()
        held = f"{sample.seconds:8.0f} {sample.kilobytes:11} {sample.files:12} {sample.tasks:6}"
        print(held, f"{done:9} {rate:9.0f}", flush=True)
    run.stopped = True
    await asyncio.gather(*traffic)
    await asyncio.sleep(6)  # until idle connections to the services have expired
    return samples, (before, await _sample(run, time.monotonic() - begun))


async def _sample(run: Soak, seconds: float) -> Sample:
    pid = run.gateway.process.process.pid
    [report] = await run.gateway.workers()
    return Sample(seconds, resident_kilobytes(pid), open_files(pid), report["tasks"])


def verdict(samples: list[Sample], rest: tuple[Sample, Sample]) -> list[str]:
    """What grew from the second third of the time to the last, and what was left at the end."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    found: list[str] = []
    if third:
        for what, most in (("kilobytes", 1.03), ("files", 1.3), ("tasks", 1.3)):
            mean, then = (fmean(getattr(sample, what) for sample in part) for part in (middle, last))
            if then > mean * most + 8:
                found.append(f"{what} grew: from {mean:.0f} to {then:.0f}")
    before, after = rest
    for what in ("files", "tasks"):
        left = getattr(after, what) - getattr(before, what)
        if left > 3:
            found.append(f"{what} were left: {left}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--interval", type=float, default=0, help="seconds between figures (default: a 20th)")
    options: Any = parser.parse_args(arguments)
    return asyncio.run(soak(options.seconds, options.interval or max(options.seconds / 20, 0.5)))


if __name__ == "__main__":
    sys.exit(main())
