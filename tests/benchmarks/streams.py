"""Event streams: what a proxy adds to the first byte and to each event, what open idle ones cost."""

from __future__ import annotations

import asyncio
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from tests.benchmarks import wrk
from tests.benchmarks.peers import STREAMING
from tests.benchmarks.processes import cpu_seconds, kept_awake, resident_bytes, settle
from tests.benchmarks.services import bulk_service
from tests.benchmarks.starting import Target
from tests.benchmarks.turns import Options, Row, say, targets

EVENTS = 200
STARTS = 100
_LAST_CHUNK = b"0\r\n\r\n"
_OPENING = 64  # connections opened at once
_SMALL = wrk.Work("small GET beside open streams", "/bytes/5", connections=16)


def measure(options: Options) -> dict[str, dict[str, Row]]:
    """By question and proxy: `events_awake` and `events`, and, of so many open streams, `idle`."""
    with targets(bulk_service, STREAMING, options) as found:
        say(f"measuring streams of {EVENTS} events")
        with kept_awake():
            events_awake = _events(found, options)
        events = _events(found, options)
        say(f"measuring {options.streams} open streams")
        idle = {target.name: _idle(target, options) for target in found[1:]}
    return {"events_awake": events_awake, "events": events, "idle": idle}


def _events(found: Sequence[Target], options: Options) -> dict[str, Row]:
    rounds: dict[str, list[Row]] = {target.name: [] for target in found}
    for number in range(options.rounds + 1):
        for target in found:
            row = _one_stream(target)
            if number:
                rounds[target.name].append(row)
    rows = {
        name: {key: statistics.median(one[key] for one in all_rows) for key in all_rows[0]}
        for name, all_rows in rounds.items()
    }
    for row in rows.values():
        for key in ("first_byte_us", "event_us", "event_p99_us"):
            row[key.replace("_us", "_added_us")] = row[key] - rows["direct"][key]
    return rows


def _one_stream(target: Target) -> Row:
    """Streams without an event for the first byte, then one with all events."""
    with _Client(target) as client:
        firsts = [client.first_byte() for _ in range(STARTS)]
        delays = sorted(client.delays())
    return {
        "first_byte_us": 1e6 * statistics.median(firsts),
        "event_us": 1e6 * statistics.median(delays),
        "event_p99_us": 1e6 * delays[int(0.99 * len(delays))],
    }


class _Client:
    """One connection, with nothing between the socket and the clock."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection(("127.0.0.1", target.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._prefix = target.prefix

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _pieces(self, path: str) -> Iterator[bytes]:
        """What arrives until the last chunk, as it arrives."""
        self._socket.sendall(f"GET {self._prefix}{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        seen, body_at = b"", 0
        while not (body_at and seen.endswith(_LAST_CHUNK, body_at)):
            piece = self._socket.recv(65536)
            if not piece:
                raise RuntimeError(f"{path} ended early")
            seen += piece
            body_at = body_at or seen.find(b"\r\n\r\n") + 4
            yield piece

    def first_byte(self) -> float:
        began = time.monotonic()
        arrived = [time.monotonic() for _ in self._pieces("/events/0")]
        return arrived[0] - began

    def delays(self) -> list[float]:
        """From the service's write of each event to its arrival here."""
        seen = []
        for piece in self._pieces(f"/events/{EVENTS}"):
            arrived = time.monotonic()
            seen += [arrived - float(part.split(b"\n")[0]) for part in piece.split(b"data: ")[1:]]
        return seen[10:]


def _idle(target: Target, options: Options) -> Row:
    assert target.session is not None  # the service itself is not weighed
    alone = _small_requests(target, options)
    before = resident_bytes(target.session)
    return asyncio.run(_open_streams(target, options, alone, before))


async def _open_streams(target: Target, options: Options, alone: _Small, before: int) -> Row:
    opened = []
    for begin in range(0, options.streams, _OPENING):
        together = [_open(target) for _ in range(begin, min(begin + _OPENING, options.streams))]
        opened += [pair for pair in await asyncio.gather(*together) if pair]
    assert target.session is not None
    memory = resident_bytes(target.session) - before
    beside = await asyncio.to_thread(_small_requests, target, options)
    served = sum(not reader.at_eof() and reader.exception() is None for reader, _ in opened)
    for _, writer in opened:
        writer.transport.abort()
    await asyncio.to_thread(settle, target.session)
    return {
        "streams": options.streams,
        "served": served,
        "kib_each": memory / max(len(opened), 1) / 1024,
        "small_requests": alone.per_second,
        "small_requests_beside": beside.per_second,
        "beside_of_alone": beside.per_second / alone.per_second,
        "beside_of_alone_by_cpu": alone.cpu_us / beside.cpu_us,
    }


async def _open(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A stream whose first event has come, or nothing."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        writer.write(f"GET {target.prefix}/idle HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(30):
            await reader.readuntil(b"first\n\n")
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        return None
    return reader, writer


class _Small(NamedTuple):
    per_second: float
    cpu_us: float


def _small_requests(target: Target, options: Options) -> _Small:
    """Small requests: how many a second, the median of the rounds, and at what CPU time."""
    assert target.session is not None
    with tempfile.TemporaryDirectory(prefix="load-") as directory:
        script = Path(directory) / "small.lua"
        script.write_text(_SMALL.script({}))
        rates, requests, before = [], 0, cpu_seconds(target.session)
        for _ in range(max(options.rounds // 2, 1)):
            seen = wrk.run(target.url(_SMALL.path), script, _SMALL.connections, options.seconds)
            rates.append((seen.requests - seen.errors) / seen.seconds)
            requests += seen.requests
    used = cpu_seconds(target.session) - before
    return _Small(statistics.median(rates), 1e6 * used / max(requests, 1))
