"""Programs under measurement: started on one core, waited for, weighed, stopped.

Each is started in a session of its own, so that the children it makes are counted with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SERVICE_CORE = 1
PROXY_CORE = 0

_TICK = os.sysconf("SC_CLK_TCK")


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
) -> Iterator[int]:
    """The command on one core, from the moment its port answers until the block ends; its session."""
    with open(log or os.devnull, "wb") as output:  # noqa: PTH123 - os.devnull is a str
        process = subprocess.Popen(
            on_core(core, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            _wait_for(port, process, log)
            yield process.pid
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pid in list(_session(process.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """The command, kept on one core from before it has threads: later, each would have to be moved."""
    return ["taskset", "--cpu-list", str(core % (os.cpu_count() or 1)), *command]


@contextmanager
def kept_awake() -> Iterator[None]:
    """Neither core goes to sleep within the block: a loop of the lowest priority keeps each busy.

    A loop under ``SCHED_IDLE`` gives way at once to whatever else wants the core (sched(7)). What is measured
    is then the programs, without the time that a sleeping core takes to wake up, which on a virtual machine
    is most of what an event costs.
    """
    loops = [
        subprocess.Popen(on_core(core, ["chrt", "--idle", "0", sys.executable, "-c", "while True: pass"]))
        for core in (SERVICE_CORE, PROXY_CORE)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path | None, seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.002)
    raise RuntimeError(f"{process.args} does not listen on {port}: {log.read_text()[-2000:] if log else ''}")


def cpu_seconds(session: int) -> float:
    """What all processes of the session have used so far, in the kernel too."""
    return sum(int(stat[11]) + int(stat[12]) for stat in _session(session).values()) / _TICK


def resident_bytes(session: int) -> int:
    """Resident memory of all processes of the session now."""
    return sum(_status(pid, "VmRSS") for pid in _session(session))


def peak_bytes(session: int) -> int:
    """The most that was ever resident of each."""
    return sum(_status(pid, "VmHWM") for pid in _session(session))


def settle(session: int, seconds: float = 15.0) -> None:
    """Wait until the session is idle: what clients have left behind is not to cost the next one's turn."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = cpu_seconds(session)
        time.sleep(0.1)
        if cpu_seconds(session) - before < 0.02:
            return


def _session(session: int) -> dict[int, list[str]]:
    """What /proc/PID/stat says after the name, for every process of the session."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone in between
            stat = path.read_text().rpartition(") ")[2].split()
            if int(stat[3]) == session and stat[0] != "Z":
                found[int(path.parent.name)] = stat
    return found


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0
