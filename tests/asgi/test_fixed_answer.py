"""An answer that is always the same."""

import pytest

from asgi_gateway.asgi.fixed_answer import FixedAnswer
from asgi_gateway.testing import Conversation, request, websocket_scope


async def test_a_text_and_a_json_value_are_sent_with_their_type_and_length() -> None:
    text = await request(FixedAnswer(200, body="grüß", headers={"X-One": "1"}))
    assert (text.body, text.header("content-type")) == ("grüß".encode(), "text/plain; charset=utf-8")
    assert (text.header("content-length"), text.header("x-one")) == ("6", "1")
    value = await request(FixedAnswer(201, body={"a": [1]}))
    assert (value.status, value.body, value.header("content-type")) == (
        201,
        b'{"a": [1]}',
        "application/json",
    )


async def test_head_has_the_length_of_the_body_and_no_body() -> None:
    answer = await request(FixedAnswer(body="four"), "HEAD")
    assert (answer.header("content-length"), answer.body) == ("4", b"")


async def test_no_content_has_no_length() -> None:
    answer = await request(FixedAnswer(204))
    assert (answer.status, answer.headers) == (204, [])


async def test_a_handshake_is_refused_with_it() -> None:
    async with Conversation(FixedAnswer(503, body="x"), websocket_scope()) as talk:
        assert (await talk.next())["status"] == 503
    async with Conversation(FixedAnswer(503), websocket_scope(denial=False)) as talk:
        assert await talk.next() == {"type": "websocket.close", "code": 1008}


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 199},
        {"status": 204, "body": "x"},
        {"headers": {"a b": "1"}},
        {"headers": {"a": "1\r\nb: 2"}},
        {"headers": {"Content-Length": "1"}},
    ],
)
def test_what_cannot_be_sent_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        FixedAnswer(**wrong)  # type: ignore[arg-type]
