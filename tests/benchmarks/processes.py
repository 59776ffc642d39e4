"""Programs under measurement: started on one core, waited for, weighed, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SERVICE_CORE = 1
PROXY_CORE = 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    core: int,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The command on one core, from the moment its port answers until the block ends."""
    with open(log or os.devnull, "wb") as output:  # noqa: PTH123 - os.devnull is a str
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        pin(process.pid, core)
        try:
            _wait_for(port, process, log)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def pin(pid: int, core: int) -> None:
    """Keep a process, and the threads that it will start, on one core."""
    os.sched_setaffinity(pid, {core % (os.cpu_count() or 1)})


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path | None, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.002)
    raise RuntimeError(f"{process.args} does not listen on {port}: {log.read_text()[-2000:] if log else ''}")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most that was ever resident."""
    return _status(pid, "VmHWM")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} for {pid}")
