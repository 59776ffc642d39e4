"""What an adaptive limit saves under twice the load: ``python -m tests.benchmarks.overload``.

A service works on ten requests at once, each for an exponentially distributed time, and keeps the others
waiting. As many services do, it finishes what a client has given up, so each run has a service of its own.
Goodput are the answers of 200 within a second, as a part of what the service can do.
"""

from __future__ import annotations

import asyncio
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

from asgi_gateway.types import Receive, Scope, Send
from tests.benchmarks.processes import PROXY_CORE, SERVICE_CORE, free_port, running

AT_ONCE, USUAL, PATIENCE = 10, 0.05, 1.0
CAPACITY = AT_ONCE / USUAL
WARM, SECONDS = 6.0, 20.0

CHAINS = {
    "without a limit": "[]",
    "adaptive": "[{concurrency_limit: {adaptive: {latency: 250ms}}}]",
}

_places = asyncio.Semaphore(AT_ONCE)
_random = random.Random(1)


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after a while, in turn."""
    if scope["type"] == "http":
        async with _places:
            await asyncio.sleep(_random.expovariate(1 / USUAL))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


def configuration(port: int, service_port: int, chain: str) -> str:
    return (
        f"version: 1\nlisten: {{host: 127.0.0.1, port: {port}}}\nlogging: {{level: error}}\n"
        f"services:\n  slow:\n    url: http://127.0.0.1:{service_port}\n"
        f"    routes: [{{path: /*}}]\n    middleware: {chain}\n"
    )


async def ask(port: int) -> int:
    """The status of one request, 0 where none came in time."""
    writer = None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            head = await reader.readline()
            await reader.read()
        return int(head.split()[1])
    except (TimeoutError, OSError, IndexError):
        return 0
    finally:
        if writer is not None:
            writer.close()


async def load(port: int, rate: float) -> collections.Counter[int]:
    """How often each status came of the requests that began after the warming up."""
    statuses: collections.Counter[int] = collections.Counter()
    asking: set[asyncio.Task[None]] = set()

    async def one(counts: bool) -> None:
        status = await ask(port)
        statuses[status] += counts

    began = time.monotonic()
    asked = 0
    while (passed := time.monotonic() - began) < SECONDS:
        while asked < passed * rate:  # whatever becomes of the earlier ones
            asked += 1
            task = asyncio.ensure_future(one(passed > WARM))
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.sleep(0.005)
    await asyncio.gather(*asking)
    return statuses


def measure(chain: str) -> tuple[float, dict[int, int]]:
    """The goodput behind a chain, and the statuses."""
    port, service_port = free_port(), free_port()
    uvicorn = ["uvicorn", "tests.benchmarks.overload:service", "--port", str(service_port)]
    with tempfile.TemporaryDirectory(prefix="overload-") as directory:
        file = Path(directory) / "gateway.yaml"
        file.write_text(configuration(port, service_port, chain))
        gateway = [sys.executable, "-m", "asgi_gateway", "run", str(file)]
        with (
            running(
                [sys.executable, "-m", *uvicorn, "--log-level", "error"], service_port, core=SERVICE_CORE
            ),
            running(gateway, port, core=PROXY_CORE),
        ):
            statuses = asyncio.run(load(port, 2 * CAPACITY))
    return statuses[200] / (SECONDS - WARM) / CAPACITY, dict(statuses)


if __name__ == "__main__":
    for name, chain in CHAINS.items():
        goodput, statuses = measure(chain)
        print(f"{name}: {goodput:.2f} of the capacity of {CAPACITY:.0f} a second, statuses {statuses}")
