"""Event streams: ``python -m tests.benchmarks.streams [--open 8000]``.

What the gateway adds to each event of a stream, at the median, and what many open idle streams cost:
memory for each, and the speed of small requests beside them. Bare proxy and full chain.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.peers import bare_config, full_config
from tests.benchmarks.processes import PROXY_CORE, SERVICE_CORE, free_port, pin, resident_bytes, running

EVENTS = 200
INTERVAL = 0.005
SMALL = b"GET /api/ai/small HTTP/1.1\r\nHost: x\r\n\r\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.streams", description=__doc__)
    parser.add_argument("--open", type=int, default=8000, help="idle streams held open at once")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = free_port()
    service = multiprocessing.get_context("fork").Process(target=serve, args=(port,), daemon=True)
    service.start()
    time.sleep(0.5)
    pin(0, SERVICE_CORE)
    direct = asyncio.run(event_delay(port))
    print(f"direct: {direct * 1e6:.0f} us from the service's write to the client")
    with tempfile.TemporaryDirectory() as temporary:
        for name, write in (("bare", bare_config), ("full chain", full_config)):
            measure(name, write(Path(temporary), port), direct, options.open)
    service.terminate()
    return 0


def measure(name: str, config: Path, direct: float, streams: int) -> None:
    port = free_port()
    text = config.read_text().replace("timeouts: {connect: 5s, first_byte: 30s, idle: 60s} #", "#")
    raised = "    connections: {max: 20000}\n    timeouts: {idle: 10m}\n    routes:"
    config.write_text(text.replace("    routes:", raised, 1))
    command = [sys.executable, "-m", "asgi_gateway", "run", str(config), "--port", str(port)]
    with running(command, port, core=PROXY_CORE, log=config.with_suffix(".log")) as process:
        through = asyncio.run(event_delay(port))
        print(f"{name}: {(through - direct) * 1e6:.0f} us added to an event at the median")
        asyncio.run(many_streams(name, port, streams, lambda: resident_bytes(process.pid)))


async def event_delay(port: int) -> float:
    """The median time from the service's write of an event to its arrival here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /api/ai/events HTTP/1.1\r\nHost: x\r\n\r\n")
    delays = []
    while len(delays) < EVENTS:
        line = await reader.readline()
        if line.startswith(b"data: "):
            delays.append(time.monotonic() - float(line[6:]))
    writer.close()
    return statistics.median(delays[10:])


async def many_streams(name: str, port: int, count: int, memory: Callable[[], int]) -> None:
    alone = await small_requests(port)
    before = memory()
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/ai/idle HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"first\n\n")
        writers.append(writer)
    each = (memory() - before) / count / 1024
    print(f"{name}: {count} open streams, {each:.1f} KiB each")
    beside = await small_requests(port)
    print(f"{name}: small requests beside them at {beside / alone:.2f} of their speed without")
    for writer in writers:
        writer.transport.abort()


async def small_requests(port: int, seconds: float = 3.0) -> float:
    """Small requests a second over 16 connections."""
    until = time.monotonic() + seconds

    async def repeat() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        done = 0
        while time.monotonic() < until:
            writer.write(SMALL)
            await reader.readuntil(b"small")
            done += 1
        writer.close()
        return done

    return sum(await asyncio.gather(*[repeat() for _ in range(16)])) / seconds


def serve(port: int) -> None:
    """The service: ``/events`` sends timed events, ``/idle`` one and then nothing, else a small answer."""
    pin(0, SERVICE_CORE)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                path = request.split(b" ", 2)[1]
                if path.endswith(b"/events"):
                    writer.write(head)
                    for _ in range(EVENTS):
                        await asyncio.sleep(INTERVAL)
                        event = b"data: %.9f\n\n" % time.monotonic()
                        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                    writer.write(b"0\r\n\r\n")
                elif path.endswith(b"/idle"):
                    writer.write(head + b"d\r\ndata: first\n\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmall")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
