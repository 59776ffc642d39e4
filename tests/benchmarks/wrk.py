"""The load: one run of wrk, and what it reports."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.processes import SERVICE_CORE, on_core

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}


@dataclass(frozen=True)
class Work:
    """What is asked for, over how many connections. A body is a text, or so many bytes of no meaning."""

    name: str
    path: str
    body: str | int = ""
    connections: int = 32
    headers: Mapping[str, str] = field(default_factory=dict)
    is_completion: bool = False
    transferred: int = 0  # bytes of a body, where the speed of bodies is the question

    def script(self, more_headers: Mapping[str, str]) -> str:
        lines = [f'wrk.method = "{"POST" if self.body else "GET"}"']
        if isinstance(self.body, int):
            lines.append(f'wrk.body = string.rep("x", {self.body})')
        elif self.body:
            lines.append(f"wrk.body = [==[{self.body}]==]")
        headers = {**self.headers, **more_headers}
        lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Run:
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


def run(url: str, script: Path, connections: int, seconds: int) -> Run:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout", "30", "--latency"]
    done = subprocess.run(
        on_core(SERVICE_CORE, [*command, "-s", str(script), url]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return read_report(done.stdout)


def read_report(text: str) -> Run:
    """What wrk has printed with ``--latency``."""
    count = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", text)
    if count is None:
        raise RuntimeError(f"wrk said:\n{text}")
    percentiles = dict(re.findall(r"(50|99)%\s+([\d.]+\w+)", text))
    bad = [
        int(number)
        for number in re.findall(r"(?:Non-2xx or 3xx responses:|connect|read|write|timeout) (\d+)", text)
    ]
    return Run(
        requests=int(count[1]),
        seconds=float(count[2]) * _UNITS[count[3]] / 1000,
        p50_ms=_milliseconds(percentiles["50"]),
        p99_ms=_milliseconds(percentiles["99"]),
        errors=sum(bad),
    )


def _milliseconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if found is None:
        raise RuntimeError(f"wrk said {text}")
    return float(found[1]) * _UNITS[found[2]]
