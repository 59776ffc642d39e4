"""Apps and commands run for real: uvicorn in a thread, the gateway in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from asgi_gateway.types import ASGIApp

_URL = re.compile(r"https?://[\w.\[\]:-]+:\d+")


@dataclass(frozen=True)
class Server:
    """A server that listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://{self.host}:{self.port}"


@asynccontextmanager
async def serve(app: ASGIApp, **options: Any) -> AsyncIterator[Server]:
    """Run `app` under uvicorn in a thread with an event loop of its own, on a free port of 127.0.0.1.

    `options` go to `uvicorn.Config`; its defaults hold but for these: logging, access log, proxy
    headers and the ``Server`` header are off, and a shutdown waits 1 second for what is in flight.
    Raises `RuntimeError` where the app fails to start.
    """
    quiet = {"log_config": None, "access_log": False, "proxy_headers": False, "server_header": False}
    settings = {**quiet, "timeout_graceful_shutdown": 1, **options}
    loop = asyncio.get_running_loop()
    started: asyncio.Future[bool] = loop.create_future()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        host, port = listener.getsockname()
        server = _NotifyingServer(uvicorn.Config(app, **settings), loop, started)
        thread = threading.Thread(target=server.serve_in_thread, args=(listener,), name=f"uvicorn:{port}")
        thread.start()
        try:
            if not await started:
                raise RuntimeError("the app did not start")
            yield Server(host, port)
        finally:
            server.should_exit = True
            await asyncio.to_thread(thread.join)


class _NotifyingServer(uvicorn.Server):
    """Tells the loop that waits for it once it listens, or that it never will."""

    def __init__(
        self, config: uvicorn.Config, loop: asyncio.AbstractEventLoop, started: asyncio.Future[bool]
    ) -> None:
        super().__init__(config)
        self._waiting = loop
        self._outcome = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell(listening=True)

    def serve_in_thread(self, listener: socket.socket) -> None:
        try:
            with contextlib.suppress(SystemExit):  # how uvicorn says that the app did not start
                self.run([listener])
        finally:
            self._tell(listening=False)

    def _tell(self, *, listening: bool) -> None:
        with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits any more
            self._waiting.call_soon_threadsafe(self._settle, listening)

    def _settle(self, listening: bool) -> None:  # noqa: FBT001 - called by position
        if not self._outcome.done():
            self._outcome.set_result(listening)


class Process:
    """A command that runs. `output` holds the lines it wrote so far, both streams together."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output: list[str] = []
        self.url = ""
        self._changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    @property
    def port(self) -> int:
        """The port of `url`."""
        return urlsplit(self.url).port or 0

    async def wait_for_line(self, pattern: str, seconds: float = 10.0) -> re.Match[str]:
        """The first match in the output; raises `RuntimeError` where the process ends before, or in time."""
        seen = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for line in self.output[seen:]:
                        if match := re.search(pattern, line):
                            return match
                    seen = len(self.output)
                    if self._reading.done():
                        break
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        raise RuntimeError("\n".join([f"no line like {pattern!r} in the output:", *self.output]))

    async def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 10.0) -> int:
        """Send a signal, wait for the end, return the exit code; kills what outlives `seconds`."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await self.wait(seconds)

    async def wait(self, seconds: float = 10.0) -> int:
        """Wait for the end, return the exit code; kills what outlives `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._reading
        except TimeoutError:
            self.process.kill()
        return await self.process.wait()

    async def _read(self) -> None:
        if self.process.stdout is None:
            raise RuntimeError("the process has no output")
        async for line in self.process.stdout:
            self.output.append(line.decode(errors="replace").rstrip("\n"))
            self._changed.set()
        self._changed.set()


@asynccontextmanager
async def run_process(
    arguments: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> AsyncIterator[Process]:
    """Run ``python -m asgi_gateway`` with these arguments; yields once the URL that it prints accepts.

        async with run_process(["run", "gateway.yaml", "--port", "0"]) as gateway:
            ...  # gateway.url

    Raises `RuntimeError` with the output where it ends before. Stopped with SIGTERM at the end.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "asgi_gateway",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        cwd=cwd,
    )
    process = Process(child)
    try:
        process.url = (await process.wait_for_line(_URL.pattern))[0]
        await _accepting(process)
        yield process
    finally:
        await process.stop()


async def _accepting(process: Process) -> None:
    """Wait until the process accepts connections at its URL."""
    host = urlsplit(process.url).hostname
    while process.process.returncode is None:
        try:
            _, writer = await asyncio.open_connection(host, process.port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise RuntimeError("\n".join(["the process ended:", *process.output]))
