"""Services that cannot be connected to, or not securely, and what a client must be told of them."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

from asgi_gateway.testing import Upstream, refused_url
from tests.faults.client import Answer, Ending
from tests.faults.walk import GOOD, LIMIT, Service

SLACK = 2.0
"""Seconds by which a busy machine may be late."""


class Outcome(NamedTuple):
    """What a fault must look like to the client. Where several statuses are right, any of them."""

    statuses: tuple[int, ...]
    ending: Ending = "whole"
    at_least: float = 0.0

    def matches(self, answer: Answer) -> bool:
        if self.ending == "never":
            return answer.status in self.statuses and answer.ending == "never"
        in_time = self.at_least * 0.9 <= answer.seconds <= self.at_least + SLACK
        return answer.status in self.statuses and answer.ending == self.ending and in_time


BAD = Outcome((502,))
LATE = Outcome((504,), at_least=LIMIT)

ELSEWHERE: dict[str, Outcome] = {
    "refused": BAD,
    "blackhole": LATE,
    "unknown name": Outcome((502, 504)),  # 504 where the machine's resolver takes its time
    "expired certificate": BAD,
    "certificate of another": BAD,
    "unknown authority": BAD,
    "plaintext in place of TLS": BAD,
    "silence in place of TLS": LATE,
    "TLS in place of plaintext": BAD,
}


@contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of a listener that accepts nobody and whose queue is full: a SYN to it is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


@asynccontextmanager
async def services_elsewhere(folder: Path) -> AsyncIterator[dict[str, Service]]:
    """Services that cannot be connected to, or not securely."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificates = {
        "expired certificate": authority.issue_cert("127.0.0.1", not_after=past),
        "certificate of another": authority.issue_cert("other.example"),
        "unknown authority": trustme.CA().issue_cert("127.0.0.1"),
        "TLS in place of plaintext": authority.issue_cert("127.0.0.1"),
    }
    found = {"unknown name": "http://no-such-name.invalid"}
    async with AsyncExitStack() as stack:
        for name, certificate in certificates.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            found[name] = (await stack.enter_async_context(Upstream(GOOD, tls=context))).url
        found["TLS in place of plaintext"] = found["TLS in place of plaintext"].replace("https", "http")
        for name, behaviour in {
            "plaintext in place of TLS": _answer_at_once,
            "silence in place of TLS": _say_nothing,
        }.items():
            plain = await stack.enter_async_context(await asyncio.start_server(behaviour, "127.0.0.1", 0))
            found[name] = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        found["refused"] = stack.enter_context(refused_url())
        found["blackhole"] = stack.enter_context(full_backlog())
        yield {
            name: Service(
                options={"url": url} | ({"tls": {"ca": "ca.pem"}} if url.startswith("https") else {})
            )
            for name, url in found.items()
        }


async def _answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass
    writer.close()
