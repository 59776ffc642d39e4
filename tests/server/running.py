"""A gateway as a process of its own that an admin socket leads to."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asgi_gateway.server import ask
from asgi_gateway.testing import Process, run_process

ROOT = str(Path(__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}


class Running:
    """The process, its file and its socket."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        self.file = folder / "gateway.yaml"
        self.socket = folder / "admin"
        self.chain = "[health]"
        self._keys = keys
        self.process: Process

    def write(self, url: str, *, more: str = "") -> None:
        """A configuration with one service at `url`."""
        lines = ["version: 1", "listen: {port: 0}", f"admin: {{socket: '{self.socket}'}}"]
        lines += [f"{key}: {value}" for key, value in self._keys.items()]
        lines += [f"middleware: {self.chain}", "services:"]
        lines += [f"  data: {{url: '{url}', routes: [{{path: /*}}]}}", more]
        self.file.write_text("\n".join(lines) + "\n")

    async def ask(self, line: str) -> dict[str, Any]:
        """What the admin socket answers."""
        return await asyncio.to_thread(ask, str(self.socket), line)

    async def reload(self) -> list[str]:
        """Reload; the mistakes."""
        return list((await self.ask("POST /reload"))["mistakes"])

    async def workers(self) -> list[dict[str, Any]]:
        """The report of each process that serves."""
        return list((await self.ask("GET /status"))["workers"])

    async def until(self, true: Callable[[list[dict[str, Any]]], object], seconds: float = 10) -> None:
        """Wait until something is true of the reports."""
        async with asyncio.timeout(seconds):
            while not true(await self.workers()):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(
    folder: Path, url: str, *arguments: str, more: str = "", **keys: Any
) -> AsyncIterator[Running]:
    """The gateway in front of the service at `url`, with these keys in its file, once all of it serves."""
    gateway = Running(folder, **keys)
    gateway.write(url, more=more)
    async with run_process(["run", str(gateway.file), *arguments], env=ENVIRONMENT) as process:
        gateway.process = process
        workers = int(keys.get("workers", 1))
        await gateway.until(lambda reports: len(reports) == workers)
        yield gateway
