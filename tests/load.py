"""Clients that keep connections and ask without a pause, and what became of every request."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CLOSE = b"connection: close"


class Load:
    """Outcomes: ``200`` and other statuses, ``refused`` where nobody listened, ``lost`` without an answer.

    ``raced`` is a request on a connection that had served before and was closed without a byte: any client
    may send it again (RFC 9112 section 9.3.1), but a server that means well avoids it.
    """

    def __init__(self, host: str, port: int, path: str = "/") -> None:
        self.outcomes: Counter[str] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.stopped = False
        self._where = (host, port)
        self._request = f"GET {path} HTTP/1.1\r\nhost: here\r\n\r\n".encode()

    async def client(self) -> None:
        """One client, until `stopped` or nobody listens any more."""
        while not self.stopped:
            try:
                reader, writer = await asyncio.open_connection(*self._where)
            except OSError:
                self.outcomes["refused"] += 1
                return
            try:
                await self._connection(reader, writer)
            finally:
                writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served = 0
        while not self.stopped:
            head = b""
            try:
                writer.write(self._request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError) as error:
                nothing = not head and not getattr(error, "partial", b"")
                self.outcomes["raced" if served and nothing else "lost"] += 1
                return
            served += 1
            self.outcomes[head[9:12].decode()] += 1
            self.bodies[body] += 1
            if CLOSE in head.lower():
                return


@asynccontextmanager
async def under_load(port: int, path: str = "/", *, clients: int = 8) -> AsyncIterator[Load]:
    """So many clients ask without a pause while the block runs."""
    load = Load("127.0.0.1", port, path)
    tasks = [asyncio.ensure_future(load.client()) for _ in range(clients)]
    try:
        yield load
    finally:
        load.stopped = True
        await asyncio.wait_for(asyncio.gather(*tasks), 30)


def resident_kilobytes(pid: int) -> int:
    """The memory of a process that is in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def open_files(pid: int) -> int:
    """The descriptors that a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
