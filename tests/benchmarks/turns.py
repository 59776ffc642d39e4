"""Proxies under load, in turns: short rounds, so that a machine whose speed drifts treats them alike."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import wrk
from tests.benchmarks.peers import Peer
from tests.benchmarks.processes import cpu_seconds, resident_bytes, settle
from tests.benchmarks.starting import Target, direct, started

Row = dict[str, float]
Service = Callable[[], AbstractContextManager[int]]


@dataclass(frozen=True)
class Options:
    """How long it is measured, and whom."""

    rounds: int = 5
    seconds: int = 2
    only: str = ""
    streams: int = 8000

    def wanted(self, peers: Sequence[Peer]) -> Iterator[Peer]:
        for peer in peers:
            if self.only.lower() not in peer.name.lower():
                continue
            if peer.missing():
                say(f"{peer.name}: not here, skipped; to install it: {peer.install}")
            else:
                yield peer


def say(text: str) -> None:
    """Progress; the figures alone go to standard output."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def targets(service: Service, peers: Sequence[Peer], options: Options) -> Iterator[list[Target]]:
    """The service, and every proxy that is here in front of it."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory, ExitStack() as stack:
        port = stack.enter_context(service())
        found = [direct(port)]
        for peer in options.wanted(peers):
            say(f"starting {peer.name}")
            try:
                found.append(stack.enter_context(started(peer, Path(directory), port)))
            except RuntimeError as error:
                say(f"{peer.name}: does not start, left out: {error}")
        yield found


def under_load(
    service: Service, peers: Sequence[Peer], works: Sequence[wrk.Work], options: Options
) -> dict[str, dict[str, Row]]:
    """The medians of the rounds, by work and proxy."""
    completions = any(work.is_completion for work in works)
    able = [peer for peer in peers if completions or not peer.speaks_json_only]
    with targets(service, able, options) as found:
        return {work.name: _one_work(work, found, options) for work in works}


def _one_work(work: wrk.Work, found: Sequence[Target], options: Options) -> dict[str, Row]:
    say(f"measuring {work.name}")
    able = [target for target in found if work.is_completion or not target.speaks_json_only]
    with tempfile.TemporaryDirectory(prefix="load-") as directory:
        scripts = {}
        for number, target in enumerate(able):
            scripts[target.name] = script = Path(directory) / f"{number}.lua"
            script.write_text(work.script(target.headers))
        rounds: dict[str, list[Row]] = {target.name: [] for target in able}
        for number in range(options.rounds + 1):
            for target in able:
                # The first round warms up.
                row = _turn(target, work, scripts[target.name], options.seconds if number else 1)
                if number:
                    rounds[target.name].append(row)
    rows = {target.name: _medians(rounds[target.name]) for target in able}
    for target in able:
        _complete(rows[target.name], rows["direct"], target, work)
    return rows


def _turn(target: Target, work: wrk.Work, script: Path, seconds: int) -> Row:
    before = cpu_seconds(target.session) if target.session else 0.0
    seen = wrk.run(target.url(work.path), script, work.connections, seconds)
    used = (cpu_seconds(target.session) if target.session else 0.0) - before
    if target.session:
        settle(target.session)
    row = {"requests_per_second": seen.requests / seen.seconds, "errors": float(seen.errors)}
    if seen.requests:  # a slow proxy may finish none of many in its turn
        row |= {"cpu_us": 1e6 * used / seen.requests, "p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms}
    return row


def _medians(rounds: Sequence[Row]) -> Row:
    keys = dict.fromkeys(key for one in rounds for key in one)
    row = {key: statistics.median(one[key] for one in rounds if key in one) for key in keys}
    row["best_requests_per_second"] = max(one["requests_per_second"] for one in rounds)
    row["errors"] = sum(one["errors"] for one in rounds)
    return row


def _complete(row: Row, without: Row, target: Target, work: wrk.Work) -> None:
    for key in ("p50", "p99"):
        if f"{key}_ms" in row:
            row[f"{key}_added_ms"] = row[f"{key}_ms"] - without[f"{key}_ms"]
    if work.transferred:
        row["mib_per_second"] = row["requests_per_second"] * work.transferred / 2**20
    if target.session:
        row["memory_mib"] = resident_bytes(target.session) / 2**20
        row["start_seconds"] = target.start_seconds
