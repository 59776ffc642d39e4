"""Measure proxies beside each other: ``python -m tests.benchmarks [PART ...]``."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import report, streams, weight, works
from tests.benchmarks.machine import describe
from tests.benchmarks.peers import ALL, LAYERED
from tests.benchmarks.processes import SERVICE_CORE
from tests.benchmarks.services import bulk_service, small_service
from tests.benchmarks.turns import Options, under_load

PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "load": lambda options: under_load(small_service, ALL, works.LOAD, options),
    "bodies": lambda options: under_load(bulk_service, ALL, works.BODIES, options),
    "connections": lambda options: under_load(small_service, ALL, works.CONNECTIONS, options),
    "streams": streams.measure,
    "weight": weight.measure,
    "layers": lambda options: under_load(small_service, LAYERED, [works.SMALL_POST], options),
}


def main() -> int:
    options = _parser().parse_args()
    parts = [options.parts] if isinstance(options.parts, str) else options.parts
    if "all" in parts:
        parts = list(PARTS)
    if parts == ["peers"]:
        print(report.peers(ALL))
        return 0
    figures = _read(options.json)
    if parts != ["report"]:
        _prepare()
        chosen = Options(options.rounds, options.seconds, options.only, options.streams)
        for part in parts:
            figures[part] = {"results": PARTS[part](chosen), "conditions": describe(chosen)}
            if options.json:  # after each part, so that a break loses one only
                options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(report.markdown(figures, list(PARTS) if parts == ["report"] else parts))
    plots = []
    if options.plots:
        from tests.benchmarks.plots import draw

        plots = draw(figures, options.plots)
    if options.page:
        report.into_page(options.page, report.markdown(figures, list(PARTS)), plots)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        default="load",
        choices=[*PARTS, "all", "peers", "report"],
        metavar="PART",
        help=f"{', '.join(PARTS)} or all; peers lists who is here and how to install the others; "
        "report prints what --json holds and measures nothing (default: load)",
    )
    parser.add_argument("--only", default="", metavar="NAME", help="only proxies whose names contain this")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each proxy")
    parser.add_argument("--seconds", type=int, default=2, help="length of one turn")
    parser.add_argument("--streams", type=int, default=8000, help="idle streams held open at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures there, part by part")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw them there, needs matplotlib")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables into this page")
    return parser


def _read(path: Path | None) -> dict[str, Any]:
    return json.loads(path.read_text()) if path and path.exists() else {}


def _prepare() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no proxy is left behind
    wanted = [("wrk", "wrk"), ("nginx", "nginx-light"), ("taskset", "util-linux"), ("chrt", "util-linux")]
    for program, package in wanted:
        if shutil.which(program) is None:
            sys.exit(f"this needs {program}: apt-get install {package}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for thousands of streams; children inherit it
    os.sched_setaffinity(0, {SERVICE_CORE % (os.cpu_count() or 1)})  # the clients in this process, too


if __name__ == "__main__":
    sys.exit(main())
