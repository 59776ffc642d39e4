"""What the gateway weighs: ``python -m tests.benchmarks.weight``.

Import and start to the first answer, memory at rest, and how much memory a 1 GiB download and a
1 GiB upload add, through the bare proxy and through the whole of ``config/gateway.yaml``.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.benchmarks.peers import bare_config, full_config
from tests.benchmarks.processes import (
    PROXY_CORE,
    SERVICE_CORE,
    free_port,
    peak_bytes,
    pin,
    resident_bytes,
    running,
)

GIB = 2**30
PIECE = b"x" * 65536


def main() -> int:
    pin(0, SERVICE_CORE)
    print(f"import: {1000 * import_seconds():.0f} ms")
    with tempfile.TemporaryDirectory() as temporary, BulkService() as service:
        for name, write, path in (("bare", bare_config, "/api/ai/"), ("full chain", full_config, "/api/ai/")):
            weigh(name, write(Path(temporary), service.port), path)
    return 0


def import_seconds() -> float:
    """The fastest of five fresh interpreters, less an empty one."""

    def fastest(code: str) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - began)
        return min(times)

    return fastest("import asgi_gateway.gateway") - fastest("pass")


def weigh(name: str, config: Path, path: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "asgi_gateway", "run", str(config), "--port", str(port)]
    began = time.perf_counter()
    with running(command, port, core=PROXY_CORE) as process:
        transfer(port, f"GET {path}0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0)
        print(f"{name}: start to first answer {time.perf_counter() - began:.2f} s")
        print(f"{name}: {resident_bytes(process.pid) / 2**20:.0f} MiB at rest")
        download = f"GET {path}{GIB} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        upload = f"PUT {path}0 HTTP/1.1\r\nHost: x\r\nContent-Length: {GIB}\r\nConnection: close\r\n\r\n"
        for what, request, body in (("download", download, 0), ("upload", upload, GIB)):
            before = peak_bytes(process.pid)
            began = time.perf_counter()
            transfer(port, request, body)
            seconds = time.perf_counter() - began
            added = (peak_bytes(process.pid) - before) / 2**20
            print(f"{name}: 1 GiB {what} adds {added:.1f} MiB, {1024 / seconds:.0f} MiB/s")


def transfer(port: int, head: str, body: int) -> int:
    """Send a request and read its answer to the end; bytes read."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode())
        for _ in range(body // len(PIECE)):
            client.sendall(PIECE)
        received = 0
        while piece := client.recv(1 << 20):
            received += len(piece)
        return received


class BulkService:
    """``GET /N`` answers with N bytes; any body is read and dropped. One thread a connection."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while first := lines.readline():
                length = 0
                while (line := lines.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                _drop(lines.read, length)
                size = int(first.split()[1].rpartition(b"/")[2] or 0)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                for _ in range(size // len(PIECE)):
                    connection.sendall(PIECE)


def _drop(read: Callable[[int], bytes], length: int) -> None:
    while length > 0:
        length -= len(read(min(length, 1 << 20)))


if __name__ == "__main__":
    sys.exit(main())
