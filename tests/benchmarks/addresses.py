"""A limiter in memory under a million distinct client addresses: what it keeps, and what a request costs.

    python -m tests.benchmarks.addresses

Every round sends 100 000 requests, each from an address that was never seen before. Memory has to stand still
once `max_keys` counters are kept, and a request has to cost the same in the last round as in the second, the
making of it included.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from pathlib import Path

from asgi_gateway.context import CLIENT_ADDRESS, EXCHANGE, Exchange
from asgi_gateway.middleware.rate_limit import RateLimitMiddleware
from asgi_gateway.types import Message, Receive, Scope, Send

ROUNDS = 10
REQUESTS = 100_000


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """The app within."""


async def receive() -> Message:
    return {"type": "http.disconnect"}


async def send(message: Message) -> None:
    """What would be the client."""


def resident() -> float:
    """MiB of this process now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize() / 2**20


async def main() -> None:
    """Print a line for each round."""
    limiter = RateLimitMiddleware(answer, limit="100/minute")
    gc.collect()
    before = resident()
    print("addresses   MiB more   us a request")
    for number in range(1, ROUNDS + 1):
        begun = time.process_time()
        for n in range(REQUESTS):
            address = f"{number}.{n >> 16}.{n >> 8 & 255}.{n & 255}"
            scope: Scope = {
                "type": "http",
                "path": "/",
                "headers": [],
                CLIENT_ADDRESS: address,
                EXCHANGE: Exchange(),
            }
            await limiter(scope, receive, send)
        seconds = time.process_time() - begun
        gc.collect()
        print(
            f"{number * REQUESTS:9}   {resident() - before:8.1f}   {seconds / REQUESTS * 1e6:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(main())
