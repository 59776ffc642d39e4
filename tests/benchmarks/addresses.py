"""One million client addresses against a limiter in memory: ``python -m tests.benchmarks.addresses``."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from asgi_gateway.policies.limit import COUNTERS, Limit
from asgi_gateway.stores.memory import BoundedMemoryStorage

ADDRESSES = 1_000_000


def resident_mib() -> float:
    """The resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def measure(name: str) -> None:
    """Print the memory that the counters took, and the time of a hit for each tenth of the addresses."""
    before = resident_mib()
    storage = BoundedMemoryStorage()
    hit = storage.counting([Limit(COUNTERS[name], 100, 60)])
    tenth = ADDRESSES // 10
    spent = []
    for begin in range(0, ADDRESSES, tenth):
        began = time.perf_counter()
        for number in range(begin, begin + tenth):
            hit(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        spent.append(f"{(time.perf_counter() - began) / tenth * 1e6:.2f}")
    grown = resident_mib() - before
    print(f"{name}: {len(storage)} counters, {grown:.0f} MiB, microseconds a hit: {' '.join(spent)}")


if __name__ == "__main__":
    for one in COUNTERS:  # each in a process of its own, so that memory is its own
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(one,))
        process.start()
        process.join()
