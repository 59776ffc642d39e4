"""What a proxy weighs: start, memory at rest, and what 1 GiB down and up adds, and at what speed."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.peers import YARDSTICKS, Peer
from tests.benchmarks.processes import cpu_seconds, peak_bytes, resident_bytes
from tests.benchmarks.services import bulk_service
from tests.benchmarks.starting import Target, started
from tests.benchmarks.turns import Options, Row, say, targets

GIB = 2**30
_PIECE = b"x" * 2**20


def measure(options: Options) -> dict[str, dict[str, Row]]:
    """By question and proxy."""
    with bulk_service() as service:
        rows = {peer.name: _at_rest(peer, service, options) for peer in options.wanted(YARDSTICKS)}
    with targets(bulk_service, YARDSTICKS, options) as found:
        for target in found:
            rows.setdefault(target.name, {}).update(_first_gib(target))
        for key, _ in _TRANSFERS:
            say(f"measuring 1 GiB {key}")
            for name, row in _in_turns(found, key, options).items():
                rows[name].update(row)
    return {"weight": rows, "import": {"asgi_gateway": {"import_seconds": _import_seconds()}}}


def _at_rest(peer: Peer, service: int, options: Options) -> Row:
    """The fastest of some starts, because a start is only ever slowed down; the memory after one answer."""
    say(f"weighing {peer.name}")
    starts, memory = [], 0
    for _ in range(max(options.rounds, 1)):
        with tempfile.TemporaryDirectory(prefix="weight-") as directory:
            with started(peer, Path(directory), service) as target:
                starts.append(target.start_seconds)
                memory = resident_bytes(target.session or 0)
    return {
        "start_seconds": min(starts),
        "start_median_seconds": statistics.median(starts),
        "memory_mib": memory / 2**20,
    }


def _import_seconds() -> float:
    """The fastest of five fresh interpreters, less an empty one."""

    def fastest(code: str) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - began)
        return min(times)

    return fastest("import asgi_gateway.gateway") - fastest("pass")


_TRANSFERS = (
    ("down", (f"/bytes/{GIB}", 0)),
    ("up", ("/bytes/5", GIB)),
)


def _first_gib(target: Target) -> Row:
    """What the first download and the first upload add to the most memory ever used."""
    row = {}
    for key, (path, body) in _TRANSFERS:
        before = peak_bytes(target.session) if target.session else 0
        _transfer(target, path, body)
        after = peak_bytes(target.session) if target.session else 0
        row[f"{key}_memory_mib"] = (after - before) / 2**20
    return row


def _in_turns(found: Sequence[Target], key: str, options: Options) -> dict[str, Row]:
    """Speed and CPU time of 1 GiB, the medians of the rounds."""
    path, body = dict(_TRANSFERS)[key]
    rounds: dict[str, list[tuple[float, float]]] = {target.name: [] for target in found}
    for _ in range(max(options.rounds, 1)):
        for target in found:
            used = cpu_seconds(target.session) if target.session else 0.0
            began = time.perf_counter()
            _transfer(target, path, body)
            seconds = time.perf_counter() - began
            used = (cpu_seconds(target.session) if target.session else 0.0) - used
            rounds[target.name].append((1024 / seconds, used))
    return {
        name: {
            f"{key}_mib_per_second": statistics.median(speed for speed, _ in seen),
            f"{key}_cpu_seconds": statistics.median(used for _, used in seen),
        }
        for name, seen in rounds.items()
    }


def _transfer(target: Target, path: str, body: int) -> None:
    """Send a request and read its answer to the end."""
    length = f"Content-Length: {body}\r\n" if body else ""
    method = "PUT" if body else "GET"
    head = f"{method} {target.prefix}{path} HTTP/1.1\r\nHost: x\r\n{length}Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", target.port), timeout=60) as client:
        client.sendall(head.encode())
        for _ in range(body // len(_PIECE)):
            client.sendall(_PIECE)
        begin = client.recv(65536)
        if not begin.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{target.name} answered {begin[:200]!r}")
        _drop(client)


def _drop(client: socket.socket) -> None:
    """Read to the end. MSG_TRUNC lets Linux throw the bytes away, in place of copying them to us."""
    buffer = bytearray(2**20)
    while client.recv_into(buffer, len(buffer), socket.MSG_TRUNC):
        pass
