"""What is read of a response as it passes, and that it passes as if nobody read."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.asgi.response_cost import LONGEST_BODY, cost_reader
from asgi_gateway.types import Message

JSON = [(b"content-type", b"application/json")]
BODY = b'{"usage": {"total_tokens": 42, "input": {"of": 7}}, "total": 3}'


async def read(source: str, *messages: Message) -> list[Any]:
    """What happened, in order: each message that was passed on, and each cost that was told."""
    happened: list[Any] = []

    async def send(message: Message) -> None:
        happened.append(message)

    reading = cost_reader(source)(send, happened.append)
    for message in messages:
        await reading(message)
    return happened


def costs(happened: list[Any]) -> list[int]:
    return [each for each in happened if isinstance(each, int)]


def start(headers: Any) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


@pytest.mark.parametrize(
    ("values", "cost"),
    [
        ([b"0"], 0),
        ([b"1200"], 1200),
        ([b" 7 "], 7),
        ([b"9007199254740991"], 2**53 - 1),
        ([b"9007199254740992"], None),
        ([b"9" * 5000], None),
        ([], None),
        ([b""], None),
        ([b"-1"], None),
        ([b"+1"], None),
        ([b"1.5"], None),
        ([b"1_0"], None),
        ([b"many"], None),
        ([b"1, 2"], None),
        ([b"1", b"2"], None),
        ([b"\xb2"], None),
    ],
)
async def test_a_header_is_a_cost_where_it_is_one_whole_number(values: list[bytes], cost: int | None):
    headers = [[b"X-Token-Cost", value] for value in values]
    happened = await read("header:x-token-cost", start(headers), body(b""))
    assert costs(happened) == ([] if cost is None else [cost])
    if cost is not None:
        assert happened[0] == cost, "it is told before the response begins, so that its headers can say it"
    assert [each for each in happened if not isinstance(each, int)] == [start(headers), body(b"")]


@pytest.mark.parametrize(
    ("source", "text", "cost"),
    [
        ("json:usage.total_tokens", BODY, 42),
        ("json:usage.input.of", BODY, 7),
        ("json:total", BODY, 3),
        ("json:total", b'\xef\xbb\xbf{"total": 3}', 3),
        ("json:total", '{"total": 3}'.encode("utf-16"), 3),
        ("json:total", b'{"total": 0}', 0),
        ("json:nothing", BODY, None),
        ("json:usage", BODY, None),
        ("json:total.more", BODY, None),
        ("json:total", b'{"total": -3}', None),
        ("json:total", b'{"total": 3.0}', None),
        ("json:total", b'{"total": "3"}', None),
        ("json:total", b'{"total": true}', None),
        ("json:total", b'{"total": null}', None),
        ("json:total", b'{"total": 9007199254740992}', None),
        ("json:total", b'{"total": ' + b"9" * 5000 + b"}", None),
        ("json:total", b"[1]", None),
        ("json:total", b"3", None),
        ("json:total", b'{"total": 3', None),
        ("json:total", b"", None),
        ("json:total", b"\xff\xfe\xff", None),
        ("json:total", b"[" * 100_000, None),
    ],
)
async def test_a_member_of_a_json_body_is_a_cost_where_it_is_a_whole_number(
    source: str, text: bytes, cost: int | None
):
    assert costs(await read(source, start(JSON), body(text))) == ([] if cost is None else [cost])


@given(st.lists(st.integers(0, len(BODY)), max_size=6))
async def test_however_a_body_is_cut_it_passes_as_it_is_and_is_read_when_it_has_passed(cuts: list[int]):
    bounds = [0, *sorted(cuts), len(BODY)]
    pieces = [BODY[one:other] for one, other in pairwise(bounds)]
    messages = [start(JSON), *(body(piece, more=True) for piece in pieces), body(b"")]
    happened = await read("json:usage.total_tokens", *messages)
    assert happened == [*messages, 42]
    assert all(one is other for one, other in zip(happened, messages, strict=False))


@pytest.mark.parametrize(
    ("headers", "is_read"),
    [
        ([(b"Content-Type", b"Application/JSON; charset=utf-8")], True),
        ([(b"content-type", b"application/problem+json")], True),
        ([(b"content-type", b"text/event-stream")], False),
        ([(b"content-type", b"text/plain")], False),
        ([(b"content-type", b"application/jsonl")], False),
        ([], False),
        ([*JSON, (b"content-encoding", b"gzip")], False),
    ],
)
async def test_only_plain_json_is_read(headers: Any, is_read: bool):
    assert costs(await read("json:total", start(headers), body(BODY))) == ([3] if is_read else [])


@pytest.mark.parametrize(("size", "cost"), [(LONGEST_BODY, [3]), (LONGEST_BODY + 1, [])])
async def test_a_body_that_is_too_long_says_nothing(size: int, cost: list[int]):
    text = b'{"total": 3}'.ljust(size)
    pieces = [text[at : at + 65536] for at in range(0, size, 65536)]
    messages = [start(JSON), *(body(piece, more=True) for piece in pieces), body(b"")]
    assert costs(await read("json:total", *messages)) == cost


async def test_a_body_that_breaks_off_says_nothing():
    assert costs(await read("json:total", start(JSON), body(BODY, more=True))) == []


async def test_a_part_that_is_not_seen_makes_the_rest_say_nothing():
    unseen = {"type": "http.response.zerocopysend", "file": 3, "more_body": True}
    happened = await read("json:total", start(JSON), unseen, body(b'{"total": 3}'))
    assert costs(happened) == []
    assert happened[1] is unseen


async def test_what_comes_before_the_response_and_after_it_passes():
    hint = {"type": "http.response.informational", "status": 103, "headers": JSON}
    trailers: Message = {"type": "http.response.trailers", "headers": []}
    for source in ("json:total", "header:x"):
        happened = await read(source, hint, start(JSON), body(BODY), trailers)
        assert [each for each in happened if not isinstance(each, int)] == [
            hint,
            start(JSON),
            body(BODY),
            trailers,
        ]


async def test_a_client_who_leaves_with_the_last_piece_has_had_it_all():
    told: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client left")

    reading = cost_reader("json:total")(send, told.append)
    await reading(start(JSON))
    with pytest.raises(OSError, match="the client left"):
        await reading(body(BODY))
    assert told == [3]


@given(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.dictionaries(st.text("ab"), v)))
async def test_no_body_does_harm(value: object):
    expected: Any = value
    for name in ("a", "b"):
        expected = expected.get(name) if isinstance(expected, dict) else None
    known = isinstance(expected, int) and 0 <= expected < 2**53
    told = costs(await read("json:a.b", start(JSON), body(json.dumps(value).encode())))
    assert told == ([expected] if known else [])


@pytest.mark.parametrize(
    "source", ["", "x", "header:", "header:a b", "header:a:b", "json:", "json:a..b", "json:.a"]
)
def test_a_source_that_means_nothing_is_refused(source: str):
    with pytest.raises(ValueError, match="expected header:<name> or json:<member>"):
        cost_reader(source)
