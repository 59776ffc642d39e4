"""Every fault of a service and of a client, against the real process.

After each fault: the right status or a broken connection, within the right time; the next request is
served; and in the end no connection, descriptor or memory is left behind.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from asgi_gateway.testing import Handler, Process, Upstream, behaviours, run_process

CONFIG = """\
version: 1
middleware: [request_id, tracing, client_address, access_log, gateway_headers, errors, health]
services:
  faulty:
    url: http://127.0.0.1:{faulty}
    timeouts: {{connect: 1s, first_byte: 500ms, idle: 500ms}}
    routes: [{{path: /faulty/*, strip_prefix: /faulty}}]
    middleware:
      - circuit_breaker: {{failure_threshold: 1000000}}
      - timeout: {{total: 5s}}
      - retry: {{attempts: 1}}
  refusing:
    url: http://127.0.0.1:{refusing}
    routes: [{{path: /refusing/*}}]
  nowhere:
    url: http://no-such-name.invalid
    routes: [{{path: /nowhere/*}}]
"""
GET = b"GET /faulty/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
POST = b"POST /faulty/x HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"
# Closing, so that a fault meets a new connection: on a kept one a safe request is sent once more.
OK = behaviours.answer(headers=[(b"Connection", b"close")], body=b"still here")


class Outcome(NamedTuple):
    """What a fault must look like to the client: a status, or a broken answer."""

    status: int
    broken: bool = False
    seconds: float = 1.0


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])


CHUNKED = b"Transfer-Encoding: chunked"
RESET = Outcome(502)
BROKEN = Outcome(200, broken=True)
STALLED = Outcome(200, broken=True, seconds=2.0)
LATE = Outcome(504, seconds=2.0)
FAULTS: dict[str, tuple[Handler, Outcome]] = {
    "reset before the head": (behaviours.reset_before_headers(), RESET),
    "end before the head": (behaviours.close_before_headers(), RESET),
    "reset inside the head": (behaviours.reset_inside_headers(), RESET),
    "reset inside the body": (behaviours.reset_inside_body(), BROKEN),
    "reset inside a counted body": (behaviours.reset_inside_body(length=1000), BROKEN),
    "end inside a counted body": (behaviours.too_short(), BROKEN),
    "end inside a chunked body": (behaviours.chunked_cut(b"part"), BROKEN),
    "bad chunk": (behaviours.raw(head(CHUNKED) + b"4\r\npart\r\nzz\r\n"), BROKEN),
    "bad status line": (behaviours.raw(b"HTTP/1.1 OK\r\n\r\n"), RESET),
    "not HTTP": (behaviours.raw(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1"), RESET),
    "huge head": (behaviours.raw(head(b"X: " + b"x" * 300_000)), RESET),
    "two lengths": (behaviours.raw(head(b"Content-Length: 1", b"Content-Length: 2") + b"xx"), RESET),
    "length and coding": (behaviours.raw(head(b"Content-Length: 1", CHUNKED) + b"0\r\n\r\n"), RESET),
    "slow head": (behaviours.trickle(interval=0.1, headers=True), LATE),
    "no answer": (behaviours.hang(), LATE),
    "stall inside the body": (behaviours.hang_inside_body(), STALLED),
    "early answer and end": (behaviours.early_answer(413, close=True), Outcome(413)),
    "unsolicited 101": (behaviours.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), RESET),
    "flood of 1xx": (behaviours.interim((102,) * 10_000), RESET),
    "extra bytes": (behaviours.extra_bytes(), Outcome(200)),
    "stale connection": (behaviours.stale(), Outcome(200)),
    "slow body": (behaviours.trickle(b"slow", interval=0.2), Outcome(200, seconds=2.0)),
}


class Switch:
    """A service whose next answer is chosen by the test; every other one is proper."""

    def __init__(self) -> None:
        self.next: Handler | None = None

    async def __call__(self, request: Any, connection: Any) -> None:
        handler, self.next = self.next or OK, None
        await handler(request, connection)


class Setting(NamedTuple):
    gateway: Process
    upstream: Upstream
    switch: Switch


@pytest.fixture
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    switch = Switch()
    async with Upstream(switch) as upstream, Upstream(OK) as closed:
        refusing = closed.port
        await closed.__aexit__(None, None, None)
        config = tmp_path / "gateway.yaml"
        config.write_text(CONFIG.format(faulty=upstream.port, refusing=refusing))
        async with run_process(["run", str(config), "--port", "0"]) as gateway:
            yield Setting(gateway, upstream, switch)


class Client:
    def __init__(self, gateway: Process) -> None:
        self._port = gateway.port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def everything(self) -> bytes:
        received = b""
        try:
            async with asyncio.timeout(10):
                while piece := await self.reader.read(65536):
                    received += piece
        except ConnectionError:
            pass
        return received


async def ask(gateway: Process, raw: bytes) -> bytes:
    async with Client(gateway) as client:
        client.writer.write(raw)
        return await client.everything()


def ended_properly(received: bytes) -> bool:
    raw_head, _, body = received.partition(b"\r\n\r\n")
    for line in raw_head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name == b"content-length":
            return len(body) == int(value)
    return body.endswith(b"0\r\n\r\n")


def descriptors(gateway: Process) -> int:
    return len(list(Path(f"/proc/{gateway.process.pid}/fd").iterdir()))


async def settled_descriptors(gateway: Process, upstream: Upstream) -> int:
    """The descriptors once every connection to the service has ended, or too many after a second."""
    await upstream.wait_for(lambda: upstream.connections.open == 0, 10)
    await asyncio.sleep(0.2)  # for the process's own ends of them
    return descriptors(gateway)


async def test_every_fault_of_a_service_is_survived(setting: Setting) -> None:
    gateway, upstream, switch = setting
    assert (await ask(gateway, GET)).startswith(b"HTTP/1.1 200")
    before = await settled_descriptors(gateway, upstream)
    wrong: list[str] = []
    for name, (fault, expected) in FAULTS.items():
        for method, raw in (("GET", GET), ("POST", POST)):
            switch.next = fault
            began = time.monotonic()
            received = await ask(gateway, raw)
            took = time.monotonic() - began
            status = int(received[9:12] or 0)
            if (status, not ended_properly(received)) != (expected.status, expected.broken):
                wrong.append(f"{name}, {method}: {received[:60]!r} ... {received[-20:]!r}")
            if took > expected.seconds:
                wrong.append(f"{name}, {method}: took {took:.2f} s")
            following = await ask(gateway, GET)
            if not following.endswith(b"still here"):
                wrong.append(f"after {name}, {method}: {following[:60]!r}")
    assert wrong == []
    assert await settled_descriptors(gateway, upstream) <= before


@pytest.mark.parametrize("path", [b"refusing", b"nowhere"])
async def test_a_service_that_is_not_there_is_a_502(setting: Setting, path: bytes) -> None:
    received = await ask(setting.gateway, GET.replace(b"/faulty/", b"/" + path + b"/"))
    assert received.startswith(b"HTTP/1.1 502")
    assert b"x-gateway-error: upstream_connect" in received


CLIENT_FAULTS = {
    "leaves inside the head": b"GET /faulty/x HT",
    "leaves before the answer": GET,
    "leaves inside a counted upload": b"POST /faulty/x HTTP/1.1\r\nHost: g\r\nContent-Length: 99\r\n\r\npart",
    "leaves inside a chunked upload": b"POST /faulty/x HTTP/1.1\r\nHost: g\r\n"
    + CHUNKED
    + b"\r\n\r\n4\r\npart\r\n",
    "sends a bad chunk": b"POST /faulty/x HTTP/1.1\r\nHost: g\r\n" + CHUNKED + b"\r\n\r\n4\r\npart\r\nzz\r\n",
    "sends nonsense": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1",
}


async def test_every_fault_of_a_client_is_survived(setting: Setting) -> None:
    gateway, upstream, switch = setting
    assert (await ask(gateway, GET)).startswith(b"HTTP/1.1 200")
    before = await settled_descriptors(gateway, upstream)
    for raw in CLIENT_FAULTS.values():
        for reset in (False, True):
            switch.next = behaviours.hang()
            async with Client(gateway) as client:
                client.writer.write(raw)
                await asyncio.sleep(0.1)
                if not reset:
                    client.writer.close()
            switch.next = None
            assert (await ask(gateway, GET)).endswith(b"still here")
    assert all(request.ended != "complete" for request in upstream.requests if request.method == "POST")
    assert await settled_descriptors(gateway, upstream) <= before


async def test_a_client_that_never_reads_pauses_the_service_and_is_forgotten(setting: Setting) -> None:
    gateway, upstream, switch = setting
    sent = 0

    async def endless(_: object, connection: Any) -> None:
        nonlocal sent
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        while True:
            await connection.send_chunk(b"x" * 65536)
            sent += 65536

    def resident() -> int:
        text = Path(f"/proc/{gateway.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0])

    await ask(gateway, GET)
    before = resident()
    switch.next = endless
    async with Client(gateway) as client:
        client.writer.transport.pause_reading()
        client.writer.write(GET)
        seen = -1
        while seen != sent or not sent:
            seen = sent
            await asyncio.sleep(0.1)
        assert resident() - before < 8 * 1024
    await upstream.wait_for(lambda: upstream.connections.open == 0, 5)
    assert (await ask(gateway, GET)).endswith(b"still here")
