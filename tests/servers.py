"""Servers as docs/servers.md starts them, each in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "servers.md").read_text()
COMMANDS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0].splitlines()


class Running(NamedTuple):
    """A server that accepts connections, and the file that holds what it said so far."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: str, config: Path, *, prefix: str = "exec") -> Iterator[Running]:
    """A command of the page with a configuration, on a free port in place of its own, until SIGTERM.

    `prefix` is what the shell says first.
    """
    port = free_port()
    command = re.sub(r" --(port|bind) \S+", "", command)
    listen = f"--bind 127.0.0.1:{port}" if command.startswith("hypercorn") else f"--port {port}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "ASGI_GATEWAY_CONFIG": str(config)}
    output = config.with_suffix(".log")
    with (
        output.open("wb") as log,
        subprocess.Popen(
            f"{prefix} {command} {listen}", shell=True, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        server = Running(process, port, output)
        try:
            _wait_until_it_accepts(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(20)
                assert code in (0, -signal.SIGTERM), output.read_text()
            finally:
                process.kill()


def _wait_until_it_accepts(server: Running) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        if server.process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {server.output.read_text()}")
