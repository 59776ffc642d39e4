"""Every fault of a service, under every server.

After each: the right status or a broken answer, within the right time; the next request is served. In the
end no connection, task, descriptor or memory is left behind.
"""

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from asgi_gateway.testing import Connection, Handler, behaviours
from tests.faults.client import ask
from tests.faults.elsewhere import BAD, ELSEWHERE, LATE, Outcome, services_elsewhere
from tests.faults.walk import LIMIT, SERVERS, Service, Walk

UPLOAD = 64 * 1024 * 1024
"""Bytes, more than all the buffers between a client and a service can hold."""

WHOLE = Outcome((200,))
BROKEN = Outcome((200,), "broken")
STALLED = Outcome((200,), "broken", at_least=LIMIT)
EARLY = Outcome((413,))

CHUNKED = b"Transfer-Encoding: chunked"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])


BEFORE_THE_ANSWER: dict[str, tuple[Handler, Outcome]] = {
    "reset before the head": (behaviours.reset_before_headers(), BAD),
    "reset inside the head": (behaviours.reset_inside_headers(), BAD),
    "end before the head": (behaviours.close_before_headers(), BAD),
    "end inside the head": (behaviours.raw(b"HTTP/1.1 200 OK\r\nContent-Le"), BAD),
    "bad status line": (behaviours.raw(b"HTTP/1.1 OK\r\n\r\n"), BAD),
    "not HTTP": (behaviours.raw(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1"), BAD),
    "huge head": (behaviours.raw(head(b"X: " + b"x" * 300_000)), BAD),
    "endless head": (behaviours.raw(head(*[b"X: x"] * 30_000)), BAD),
    "two lengths": (behaviours.raw(head(b"Content-Length: 1", b"Content-Length: 2") + b"xx"), BAD),
    "length and coding": (behaviours.raw(head(b"Content-Length: 1", CHUNKED) + b"0\r\n\r\n"), BAD),
    "slow head": (behaviours.trickle(interval=0.1, headers=True), LATE),
    "no answer": (behaviours.hang(), LATE),
    "unsolicited 101": (behaviours.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), BAD),
    "flood of 102": (behaviours.interim((102,) * 10_000), BAD),
    "flood of 103": (behaviours.interim((103,) * 10_000), BAD),
    "some 103": (behaviours.interim((103,) * 4), WHOLE),
    "extra bytes": (behaviours.extra_bytes(), WHOLE),
    "bytes after 204": (
        behaviours.raw(b"HTTP/1.1 204 No Content\r\n\r\n" + head(b"Content-Length: 0")),
        Outcome((204,)),
    ),
    "unannounced end": (behaviours.stale(), WHOLE),
    "unannounced reset": (behaviours.stale(reset=True), WHOLE),
    "unannounced late end": (behaviours.stale(after=0.05), WHOLE),
}
INSIDE_THE_ANSWER: dict[str, tuple[Callable[..., Handler], Outcome]] = {
    "reset inside a chunked body": (behaviours.reset_inside_body, BROKEN),
    "reset inside a counted body": (partial(behaviours.reset_inside_body, length=1000), BROKEN),
    "end inside a counted body": (behaviours.too_short, BROKEN),
    "end inside a chunked body": (partial(behaviours.chunked_cut, b"part"), BROKEN),
    "bad chunk": (lambda headers: _raw(headers, CHUNKED, body=b"4\r\npart\r\nzz\r\n"), BROKEN),
    "end inside a chunk": (lambda headers: _raw(headers, CHUNKED, body=b"8\r\npart"), BROKEN),
    "stall inside the body": (behaviours.hang_inside_body, STALLED),
    "slow body": (
        partial(behaviours.chunked, b"s", b"l", b"o", b"w", interval=0.3),
        Outcome((200,), at_least=0.9),
    ),
    "body to the end": (behaviours.close_delimited, WHOLE),
}
BESIDE_AN_UPLOAD: dict[str, tuple[Handler, Outcome]] = {
    "never reads": (lambda _, connection: _read_later(connection), LATE),
    "early answer and end": (behaviours.early_answer(413, close=True), EARLY),
    "early reset": (lambda _, connection: _reset(connection), BAD),
}


def _raw(headers: list[tuple[bytes, bytes]], *lines: bytes, body: bytes) -> Handler:
    return behaviours.raw(head(*[b"%b: %b" % pair for pair in headers], *lines) + body)


async def _reset(connection: Connection) -> None:
    connection.reset()


async def _read_later(connection: Connection) -> None:
    connection.pause_reading()
    await asyncio.sleep(3 * LIMIT)  # it is long out of time by then, and now sees that it is
    connection.resume_reading()


def request(method: bytes, target: bytes) -> bytes:
    length = {b"POST": b"Content-Length: 4\r\n", b"UPLOAD": b"Content-Length: %d\r\n" % UPLOAD}
    body = {b"POST": b"body", b"UPLOAD": bytes(UPLOAD)}
    return b"%b %b HTTP/1.1\r\nHost: g\r\nConnection: close\r\n%b\r\n%b" % (
        b"PUT" if method == b"UPLOAD" else method,
        target,
        length.get(method, b""),
        body.get(method, b""),
    )


EVENTS = [(b"Content-Type", b"text/event-stream")]
HERE = {
    **{name: handler for name, (handler, _) in BEFORE_THE_ANSWER.items()},
    **{name: make(headers=[]) for name, (make, _) in INSIDE_THE_ANSWER.items()},
    **{f"{name}, events": make(headers=EVENTS) for name, (make, _) in INSIDE_THE_ANSWER.items()},
    **{name: handler for name, (handler, _) in BESIDE_AN_UPLOAD.items()},
}
EXPECTED: dict[str, tuple[tuple[bytes, ...], Outcome]] = {
    **{name: ((b"GET", b"POST"), outcome) for name, (_, outcome) in BEFORE_THE_ANSWER.items()},
    **{name: ((b"GET", b"POST"), outcome) for name, (_, outcome) in INSIDE_THE_ANSWER.items()},
    **{f"{name}, events": ((b"GET",), outcome) for name, (_, outcome) in INSIDE_THE_ANSWER.items()},
    **{name: ((b"UPLOAD",), outcome) for name, (_, outcome) in BESIDE_AN_UPLOAD.items()},
    **{name: ((b"GET", b"POST"), outcome) for name, outcome in ELSEWHERE.items()},
}
DIFFERENT: dict[str, dict[str, tuple[Outcome, ...]]] = {
    "hypercorn": {
        "never reads": (Outcome((504,), "never"),),
        "early answer and end": (EARLY, Outcome((413,), "never")),
        "early reset": (BAD, Outcome((502,), "never")),
    },
    "granian": {
        name: (outcome._replace(statuses=(200, 0)),)
        for name, (_, outcome) in EXPECTED.items()
        if outcome.ending == "broken"
    },
}
"""What a server makes of a fault in its own way, at times or always. Each is told of in docs/servers.md."""

LEFT = {"hypercorn": {"tasks": 2 * len(BESIDE_AN_UPLOAD), "descriptors": len(BESIDE_AN_UPLOAD)}}
"""What it may leave behind by that."""


async def commit(walk: Walk, name: str, expected: tuple[Outcome, ...]) -> None:
    """The same fault by every method in turn, each time followed by a request that must be served."""
    for method in EXPECTED[name][0]:
        answer = await ask(walk.port, request(method, walk.target(name)))
        if not any(outcome.matches(answer) for outcome in expected):
            end = answer.received[:60], answer.received[-20:]
            walk.wrong.append(f"{name}, {method.decode()}: {answer[:3]} {end}, not {expected}")
        await walk.check_that_it_serves(name if name in HERE else "no answer")


@pytest.mark.parametrize("server", SERVERS)
async def test_every_fault_of_a_service_is_survived(server: str, tmp_path: Path) -> None:
    async with services_elsewhere(tmp_path) as elsewhere:
        services = {name: Service(handler) for name, handler in HERE.items()} | elsewhere
        if server in LEFT and sys.version_info >= (3, 12):
            # From 3.12 on it waits at its end for the connections that it has left behind.
            services = {name: service for name, service in services.items() if name not in BESIDE_AN_UPLOAD}
        async with Walk.over(SERVERS[server], services, tmp_path, left=LEFT.get(server, {})) as walk:
            different = DIFFERENT.get(server, {})
            await asyncio.gather(
                *(commit(walk, name, different.get(name, (EXPECTED[name][1],))) for name in services)
            )
