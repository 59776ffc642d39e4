"""A resolver that says no or nothing, on a real socket, in a mount namespace of the server's own."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.client import ask
from tests.faults.walk import LIMIT, SERVERS, SOON, Service, Walk

GET = b"GET %b HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
SILENT_FOR = 6
"""Seconds after which a lookup that nobody answers is over, and the thread that waits for it free."""


def may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = subprocess.run(
        ["unshare", "-m", "mount", "--bind", "/etc", "/etc"], check=False, capture_output=True
    )
    return trial.returncode == 0


class Resolver(asyncio.DatagramProtocol):
    """Knows no name, and of those that begin with ``silent`` says nothing at all."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if not data[12:].startswith(b"\x06silent"):
            self.transport.sendto(data[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + data[12:], address)


@asynccontextmanager
async def resolver(folder: Path) -> AsyncIterator[str]:
    """What to put in front of a command that is to ask it."""
    number = os.getpid() % 65000
    address = f"127.53.{number // 255}.{number % 255 + 1}"  # the port has to be 53
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Resolver, local_addr=(address, 53))
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {address}\noptions timeout:{SILENT_FOR} attempts:1\n")
    try:
        yield f"exec unshare -m sh -c 'mount --bind {file} /etc/resolv.conf && exec \"$@\"' sh"
    finally:
        transport.close()


@pytest.mark.skipif(not may_mount(), reason="only root may choose the resolver of another process")
@pytest.mark.parametrize("server", ["asgi-gateway", "hypercorn"], ids=["uvloop", "asyncio"])
async def test_a_name_that_nobody_resolves_holds_up_nobody_else(server: str, tmp_path: Path) -> None:
    services = {
        "near": Service(),
        "unknown": Service(options={"url": "http://unknown.example"}),
        "silent": Service(options={"url": "http://silent.example"}),
        "named": Service(options={"url": "http://localhost:{port}"}),
    }
    async with resolver(tmp_path) as prefix:
        walk_over = Walk.over(SERVERS[server], services, tmp_path, prefix=prefix)
        async with walk_over as walk:
            silent = [asyncio.ensure_future(ask(walk.port, GET % walk.target("silent"))) for _ in range(20)]
            unknown = await ask(walk.port, GET % walk.target("unknown"))
            await walk.check_that_it_serves("named")
            answers = await asyncio.gather(*silent)
        assert unknown.status == 502
        assert unknown.seconds < LIMIT
        assert {answer.status for answer in answers} == {504}
        assert max(answer.seconds for answer in answers) < LIMIT + SOON
