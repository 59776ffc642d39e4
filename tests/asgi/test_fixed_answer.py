"""An answer that is settled beforehand."""

from typing import Any

import pytest

from asgi_gateway.asgi.fixed_answer import FixedAnswer
from asgi_gateway.testing import request


@pytest.mark.parametrize(
    ("body", "content", "content_type"),
    [
        ("später", "später".encode(), "text/plain; charset=utf-8"),
        ({"a": [1]}, b'{"a":[1]}', "application/json"),
        ([], b"[]", "application/json"),
    ],
)
async def test_a_text_is_sent_as_it_is_and_anything_else_as_json(
    body: Any, content: bytes, content_type: str
):
    answer = await request(FixedAnswer(body=body))
    assert (answer.status, answer.body, answer.header("content-type")) == (200, content, content_type)
    assert answer.header("content-length") == str(len(content))


async def test_head_gets_the_headers_alone():
    answer = await request(FixedAnswer(body="abc", content_type="text/csv"), "HEAD")
    assert (answer.body, answer.header("content-length"), answer.header("content-type")) == (
        b"",
        "3",
        "text/csv",
    )


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_content_has_none(status: int):
    answer = await request(FixedAnswer(status=status, body="abc", headers={"X-A": "b"}))
    assert (answer.body, [*answer.headers]) == (b"", [(b"x-a", b"b")])


@pytest.mark.parametrize("headers", [{"a b": "c"}, {"a": "b\r\nc: d"}, {"Content-Length": "5"}])
def test_headers_that_cannot_be_sent_are_refused(headers: dict[str, str]):
    with pytest.raises(ValueError, match=r"header|control"):
        FixedAnswer(headers=headers)
