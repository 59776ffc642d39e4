"""The replayed body, message by message, against a receive that is given the messages."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.asgi.replay import ReplayableBody, declared_length
from asgi_gateway.testing import http_scope, read_body, settle
from asgi_gateway.types import Message, Receive

DISCONNECT: Message = {"type": "http.disconnect"}


class Client:
    """A `receive` that hands out chunks, then disconnects for ever."""

    def __init__(self, *chunks: bytes) -> None:
        self.messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
            for number, chunk in enumerate(chunks, 1)
        ]

    async def receive(self) -> Message:
        return self.messages.pop(0) if self.messages else DISCONNECT


def body_of(*chunks: bytes, max_size: int = 100) -> ReplayableBody:
    return ReplayableBody(Client(*chunks).receive, max_size)


@given(chunks=st.lists(st.binary(max_size=5), min_size=1, max_size=8), read_before=st.integers(0, 8))
async def test_every_attempt_reads_the_same_bytes(chunks: list[bytes], read_before: int):
    body = body_of(*chunks)
    first = body.reader()
    for _ in range(min(read_before, len(chunks))):
        await first()
    for _ in range(3):
        assert await read_body(body.reader()) == b"".join(chunks)
    assert body.complete
    assert body.replayable


async def test_nothing_is_read_before_an_attempt_asks():
    client = Client(b"a", b"b", b"c")
    first = ReplayableBody(client.receive, 100).reader()
    assert (await first())["body"] == b"a"
    assert len(client.messages) == 2


async def test_after_the_body_a_reader_hears_the_real_client():
    body = body_of(b"a")
    for _ in range(2):
        reader = body.reader()
        await read_body(reader)
        assert await reader() == DISCONNECT


async def test_past_the_cap_the_attempt_reads_on_and_there_is_no_other():
    body = body_of(b"aaa", b"bbb", b"ccc", max_size=5)
    assert await read_body(body.reader()) == b"aaabbbccc"
    assert not body.replayable
    assert len(body._kept) == 0


async def test_a_body_of_exactly_the_cap_is_kept():
    body = body_of(b"aaa", b"bb", max_size=5)
    await read_body(body.reader())
    assert body.replayable
    assert await read_body(body.reader()) == b"aaabb"


async def test_a_client_that_leaves_inside_the_body_ends_replaying():
    client = Client(b"a", b"b")
    del client.messages[1]
    body = ReplayableBody(client.receive, 100)
    reader = body.reader()
    await reader()
    assert await reader() == DISCONNECT
    assert not body.replayable
    assert not body.complete


@pytest.mark.parametrize("read_by_the_first", [0, 1])
async def test_a_request_without_a_body_is_replayed_as_one(read_by_the_first: int):
    client = Client(b"")
    for _ in range(read_by_the_first):
        await client.receive()
    reader: Receive = ReplayableBody(client.receive, 0, empty=True).reader()
    assert await reader() == {"type": "http.request", "body": b"", "more_body": False}
    assert await reader() == DISCONNECT


async def test_waiting_for_the_client_to_leave_passes_over_an_unread_empty_body():
    client = Client(b"")
    await ReplayableBody(client.receive, 0, empty=True).disconnected()
    assert client.messages == []


@pytest.mark.parametrize(
    ("headers", "version", "length"),
    [
        ([], "1.1", 0),
        ([(b"content-length", b"0")], "1.1", 0),
        ([(b"Content-Length", b"12")], "1.1", 12),
        ([(b"Transfer-Encoding", b"chunked")], "1.1", None),
        ([(b"content-length", b"nonsense")], "1.1", None),
        ([(b"content-length", b"9" * 5000)], "1.1", None),
        ([], "2", None),
        ([(b"content-length", b"12")], "2", 12),
    ],
)
def test_the_length_that_a_request_declares(
    headers: list[tuple[bytes, bytes]], version: str, length: int | None
):
    assert declared_length(http_scope(headers=headers, http_version=version)) == length


async def test_once_released_it_keeps_nothing_and_reads_on():
    client = Client(b"a", b"b", b"c")
    body = ReplayableBody(client.receive, 100)
    reader = body.reader()
    await reader()
    body.release()
    assert (body._kept, body.replayable) == ([], False)
    assert await read_body(reader) == b"bc"
    assert body._kept == []


@given(
    chunks=st.lists(st.binary(max_size=5), min_size=1, max_size=8),
    read_before=st.integers(1, 8),
    releases_at=st.integers(0, 8),
)
async def test_an_attempt_that_is_the_last_reads_it_whole_all_the_same(
    chunks: list[bytes], read_before: int, releases_at: int
):
    """Whether it has read anything or not when its answer begins."""
    body = body_of(*chunks)
    first = body.reader()
    for _ in range(min(read_before, len(chunks))):
        await first()
    last = body.reader()
    got: list[bytes] = []
    more = True
    reads = 0
    while more:
        if reads == releases_at:
            body.release()
        reads += 1
        message = await last()
        got.append(message["body"])
        more = message["more_body"]
    assert b"".join(got) == b"".join(chunks)
    assert await last() == DISCONNECT


async def test_a_replayed_body_is_let_go_of_when_it_was_read():
    class Piece(bytearray):
        """What can be referred to weakly."""

    client = Client(b"")
    client.messages[0]["body"] = Piece(b"ab")
    kept = weakref.ref(client.messages[0]["body"])
    body = ReplayableBody(client.receive, 100)
    await read_body(body.reader())
    last = body.reader()
    body.release()
    assert (await last())["body"] == b"ab"
    gc.collect()
    assert kept() is None


async def test_a_piece_that_was_awaited_when_it_was_released_is_not_kept():
    arrived = asyncio.Event()

    async def receive() -> Message:
        await arrived.wait()
        return {"type": "http.request", "body": b"late", "more_body": False}

    body = ReplayableBody(receive, 100)
    reading = asyncio.ensure_future(body.reader()())
    await settle()
    body.release()
    arrived.set()
    assert (await reading)["body"] == b"late"
    assert body._kept == []


async def test_after_the_body_the_first_reader_hands_on_the_real_receive():
    calls: list[object] = []

    def receive() -> Awaitable[Message]:
        calls.append(client.receive())
        return calls[-1]  # type: ignore[return-value]

    client = Client(b"a")
    reader = ReplayableBody(receive, 100).reader()
    await reader()
    waiting = reader()
    assert waiting is calls[-1]
    assert await waiting == DISCONNECT


async def test_bodies_that_are_not_bytes_objects_are_replayed_as_bytes():
    client = Client(b"a", b"b")
    client.messages[0]["body"] = bytearray(b"a")
    body = ReplayableBody(client.receive, 100)
    await read_body(body.reader())
    assert (await body.reader()())["body"] == b"ab"


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"12")],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"12"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"12"), (b"content-length", b"13")],
    ],
)
def test_plain_and_other_headers_declare_the_same_length(headers: list[tuple[bytes, bytes]], version: str):
    plain = declared_length(http_scope(headers=headers, http_version=version))
    headers = [*headers, (b"Not-Lower", b"1"), (b"twice", b"1"), (b"twice", b"2")]
    assert declared_length(http_scope(headers=headers, http_version=version)) == plain
