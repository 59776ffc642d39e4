"""What must be refused reaches no app, whatever comes behind it; what may be cleaned is seen clean."""

from pathlib import Path
from typing import Any

import pytest

from asgi_gateway.testing import RawClient, read_body
from asgi_gateway.types import Headers, Receive, Scope, Send
from tests.server import malformed_bodies, malformed_heads
from tests.server.listening import listening
from tests.server.malformed_bodies import CHUNKED, Cases, head

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
STATUSES = {400, 413, 414, 417, 431, 501, 505}
FAMILIES = {
    "lengths": malformed_bodies.lengths,
    "codings": malformed_bodies.codings,
    "chunks": malformed_bodies.chunks,
    "trailers": malformed_bodies.trailers,
    "hosts": malformed_heads.hosts,
    "targets": malformed_heads.targets,
    "start lines": malformed_heads.start_lines,
    "fields": malformed_heads.fields,
    "values": malformed_heads.values,
    "line ends": malformed_heads.line_ends,
    "sizes": malformed_heads.sizes,
    "other protocols": malformed_heads.other_protocols,
}


class Recorder:
    """An app that remembers the requests that reached it whole."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes, Headers, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
        except ConnectionError:  # what was refused inside its body
            return
        path = scope["raw_path"].decode()
        self.requests.append((scope["method"], path, scope["query_string"], scope["headers"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


async def status_of(url: str, raw: bytes) -> int:
    """How the first request was answered; raises `TimeoutError` where the connection does not end."""
    async with RawClient(url) as client:
        client.write(raw)
        received = await client.rest()
    return int(received[9:12]) if received else 0


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
async def test_what_is_malformed_is_refused_and_reaches_no_app(family: Any) -> None:
    app = Recorder()
    wrong: list[object] = []
    async with listening(app, ws="websockets-sansio") as server:
        for name, raw in family():
            status = await status_of(server.url, raw + SMUGGLED)
            if status not in STATUSES or app.requests:
                wrong.append((name, status, app.requests))
            app.requests = []
            assert await status_of(server.url, GOOD) == 200  # the others are served as before
            app.requests = []
    assert wrong == []


PLAIN = b"GET /plain HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
async def test_it_is_refused_behind_a_good_request_too(family: Any) -> None:
    """From the second request of a connection on, a plain head takes a shorter way."""
    app = Recorder()
    wrong: list[object] = []
    async with listening(app, ws="none") as server:
        for name, raw in family():
            async with RawClient(server.url) as client:
                await client.send(PLAIN)
                assert (await client.answer()).status == 200
                client.write(raw + SMUGGLED)
                received = await client.rest()
            if int(received[9:12] or 0) not in STATUSES or len(app.requests) != 1:
                wrong.append((name, received[:12], app.requests))
            app.requests = []
    assert wrong == []


def test_there_are_as_many_cases_as_the_documents_say_and_each_has_a_name_of_its_own() -> None:
    names = [(kind, name) for kind, family in FAMILIES.items() for name, _ in cases(family)]
    assert len(set(names)) == len(names)
    documented = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
    assert f"| {len(names)} malformed or ambiguous requests" in documented


def cases(family: Any) -> Cases:
    return family()


@pytest.mark.parametrize("size", [1, 7])
async def test_nothing_changes_where_it_comes_in_small_pieces(size: int) -> None:
    app = Recorder()
    wrong: list[object] = []
    short = [case for family in FAMILIES.values() for case in cases(family) if len(case[1]) < 300]
    async with listening(app, ws="none") as server:
        for name, raw in short:
            async with RawClient(server.url) as client:
                protocol = await server.newest()
                said = raw + SMUGGLED
                for start in range(0, len(said), size):
                    protocol.data_received(said[start : start + size])
                received = await client.rest()
            if int(received[9:12] or 0) not in STATUSES or app.requests:
                wrong.append((name, received[:12], app.requests))
            app.requests = []
    assert wrong == []


CHUNKED_SEEN = (b"transfer-encoding", b"chunked")
HOST_SEEN = (b"host", b"h")


def chunked(body: bytes, *fields: bytes) -> bytes:
    return head(CHUNKED, *fields) + body


# What may be taken in cleaned form: the bytes, and what the app sees of them.
CLEANED: dict[str, tuple[bytes, tuple[str, str, bytes, Headers, bytes]]] = {
    "upper-case chunk size": (
        chunked(b"A\r\n0123456789\r\n0\r\n\r\n"),
        ("POST", "/x", b"", [HOST_SEEN, CHUNKED_SEEN], b"0123456789"),
    ),
    "chunk size with zeros in front": (
        chunked(b"0005\r\nhello\r\n000\r\n\r\n"),
        ("POST", "/x", b"", [HOST_SEEN, CHUNKED_SEEN], b"hello"),
    ),
    "chunk extensions": (
        chunked(b'5;a;b=c;d="e;f"\r\nhello\r\n0;last\r\n\r\n'),
        ("POST", "/x", b"", [HOST_SEEN, CHUNKED_SEEN], b"hello"),
    ),
    "trailers are dropped": (
        chunked(
            b"2\r\nhi\r\n0\r\nAuthorization: a\r\nX-User-Id: 1\r\nHost: i\r\nX-Forwarded-For: ::1\r\n\r\n"
        ),
        ("POST", "/x", b"", [HOST_SEEN, CHUNKED_SEEN], b"hi"),
    ),
    "name of a coding in capitals": (
        head(b"TRANSFER-ENCODING: CHUNKED") + b"0\r\n\r\n",
        ("POST", "/x", b"", [HOST_SEEN, (b"transfer-encoding", b"CHUNKED")], b""),
    ),
    "space around a coding": (
        head(b"Transfer-Encoding: \t chunked  ") + b"2\r\nhi\r\n0\r\n\r\n",
        ("POST", "/x", b"", [HOST_SEEN, CHUNKED_SEEN], b"hi"),
    ),
    "space around a length": (
        head(b"Content-Length:\t 2 \t") + b"hi",
        ("POST", "/x", b"", [HOST_SEEN, (b"content-length", b"2")], b"hi"),
    ),
    "zero in front of a length": (
        head(b"Content-Length: 02") + b"hi",
        ("POST", "/x", b"", [HOST_SEEN, (b"content-length", b"02")], b"hi"),
    ),
    "space around values": (
        head(b"A:1", b"B:  2", b"C: 3  \t ", b"D: \t", b"E:", start=b"GET /x HTTP/1.1", host=b"Host:  h "),
        (
            "GET",
            "/x",
            b"",
            [HOST_SEEN, (b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b""), (b"e", b"")],
            b"",
        ),
    ),
    "tab and bytes outside ASCII in a value": (
        head(b"X: a\tb\x80\x85\xff", start=b"GET /x HTTP/1.1"),
        ("GET", "/x", b"", [HOST_SEEN, (b"x", b"a\tb\x80\x85\xff")], b""),
    ),
    "empty lines in front": (
        b"\r\n\r\n" + head(start=b"GET /x HTTP/1.1"),
        ("GET", "/x", b"", [HOST_SEEN], b""),
    ),
    "an old protocol's name": (head(start=b"GET /x RTSP/1.0"), ("GET", "/x", b"", [HOST_SEEN], b"")),
    "absolute target": (head(start=b"GET HTTP://H?a HTTP/1.1"), ("GET", "/", b"a", [HOST_SEEN], b"")),
    "two slashes": (head(start=b"GET //evil/x?? HTTP/1.1"), ("GET", "//evil/x", b"?", [HOST_SEEN], b"")),
}


@pytest.mark.parametrize(("raw", "seen"), CLEANED.values(), ids=CLEANED.keys())
async def test_what_may_be_cleaned_is_seen_clean_and_the_next_request_after_it(raw: bytes, seen: Any) -> None:
    app = Recorder()
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(raw + GOOD)
        await client.rest()
    assert app.requests[0] == seen
    assert [request[1] for request in app.requests[1:]] in ([], ["/good"])


async def test_trailers_that_come_late_are_dropped_too() -> None:
    app = Recorder()
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(chunked(b"2\r\nhi\r\n0\r\n"))
        await client.send(b"Authorization: secret\r\n")
        await client.send(b"Host: evil\r\n\r\n" + GOOD)
        await client.rest()
    assert [request[3] for request in app.requests] == [
        [HOST_SEEN, CHUNKED_SEEN],
        [HOST_SEEN, (b"connection", b"close")],
    ]


@pytest.mark.parametrize("begun", [b"2\r\nhi\r\n0\r\nX: ", b"2;a", b"2\r\nhi\r\n0;a"])
async def test_framing_without_end_costs_no_memory(begun: bytes) -> None:
    """A trailer or an extension that never ends is refused when it is as long as a head may be."""
    app = Recorder()
    async with listening(app) as server, RawClient(server.url) as client:
        await client.send(chunked(begun))
        await client.send(b"x" * 2**20)
        assert (await client.head()).startswith(b"HTTP/1.1 431")
    assert app.requests == []
