"""Throughput and latency of proxies beside each other: ``python -m tests.benchmarks``.

Every proxy runs on one core in front of the same nginx, which shares another core with the load
(wrk, 32 connections, a small POST, a 600-byte answer). The proxies take turns in short rounds, so
that a machine whose speed drifts treats them alike; the medians of the rounds are printed. Quote
the ratios, never the absolute numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.peers import PEERS, Peer, service_command
from tests.benchmarks.processes import PROXY_CORE, SERVICE_CORE, free_port, pin, resident_bytes, running

LOAD = """wrk.method = "POST"
wrk.body = '{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Hello!"}]}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-1234"
"""  # noqa: E501


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="length of one round of one proxy")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", help="measure the proxies whose names contain this")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    for program, package in (("wrk", "wrk"), ("nginx", "nginx-light")):
        if shutil.which(program) is None:
            sys.exit(f"this needs {program}: apt-get install {package}")
    wanted = [peer for peer in PEERS if not options.only or options.only in peer.name]
    figures = measure(wanted, options)
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(peers: list[Peer], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        directory = Path(temporary)
        service = free_port()
        (directory / "load.lua").write_text(LOAD)
        stack.enter_context(running(service_command(directory, service), service, core=SERVICE_CORE))
        ports: dict[str, int] = {}
        pids: dict[str, int] = {}
        for peer in peers:
            if reason := peer.missing():
                print(f"{peer.name}: not here ({reason})", file=sys.stderr)
                continue
            ports[peer.name] = port = free_port()
            env = {"SERVICE": f"http://127.0.0.1:{service}", **peer.env}
            log = directory / f"{port}.log"
            command = peer.command(directory, port, service)
            pids[peer.name] = stack.enter_context(
                running(command, port, core=PROXY_CORE, env=env, log=log)
            ).pid
        present = [peer for peer in peers if peer.name in ports]
        rounds: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in present}
        for number in range(options.rounds + 1):
            for peer in present:
                url = f"http://127.0.0.1:{ports[peer.name]}{peer.path}"
                seen = load(url, directory / "load.lua", options)
                if number:  # the first round warms up
                    rounds[peer.name].append(seen)
        figures = {
            name: {key: statistics.median(seen[key] for seen in all_seen) for key in all_seen[0]}
            for name, all_seen in rounds.items()
        }
        for name, row in figures.items():
            row["memory_mib"] = resident_bytes(pids[name]) / 2**20
        return figures


def load(url: str, script: Path, options: argparse.Namespace) -> dict[str, float]:
    command = [
        "wrk",
        "-t1",
        f"-c{options.connections}",
        f"-d{options.seconds}",
        "-s",
        str(script),
        "--latency",
        url,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pin(process.pid, SERVICE_CORE)
        printed, _ = process.communicate()
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise RuntimeError(f"{url} answered with errors:\n{printed}")
    percentiles = dict(re.findall(r"(50|99)%\s+([\d.]+\w+)", printed))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    if rate is None:
        raise RuntimeError(f"wrk said:\n{printed}")
    return {
        "requests_per_second": float(rate[1]),
        "p50_ms": milliseconds(percentiles["50"]),
        "p99_ms": milliseconds(percentiles["99"]),
    }


def milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def print_table(figures: dict[str, dict[str, float]]) -> None:
    base = figures.get("Envoy") or next(iter(figures.values()))
    print(f"{'':36}{'requests/s':>11}{'of Envoy':>10}{'p50 ms':>9}{'p99 ms':>9}{'MiB':>7}")
    for name, row in sorted(figures.items(), key=lambda item: -item[1]["requests_per_second"]):
        share = row["requests_per_second"] / base["requests_per_second"]
        print(
            f"{name:36}{row['requests_per_second']:11.0f}{share:10.2f}{row['p50_ms']:9.2f}"
            f"{row['p99_ms']:9.2f}{row['memory_mib']:7.0f}"
        )


if __name__ == "__main__":
    sys.exit(main())
