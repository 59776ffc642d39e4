"""Several attempts that hear one client."""

import asyncio

from asgi_gateway.asgi.hearing import Hearing
from asgi_gateway.testing import settle
from asgi_gateway.types import Message

BODY: Message = {"type": "http.request", "body": b"ab", "more_body": False}
EMPTY: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


def server(*messages: Message) -> tuple[Hearing, asyncio.Queue[Message]]:
    """A server whose messages are there for one call of ``receive`` each."""
    queue: asyncio.Queue[Message] = asyncio.Queue()
    for message in messages:
        queue.put_nowait(message)
    return Hearing(queue.get), queue


async def test_messages_come_as_the_server_gives_them():
    hearing, _ = server({**BODY, "more_body": True}, BODY)
    assert [(await hearing())["more_body"] for _ in range(2)] == [True, False]
    assert hearing.task is None


async def test_every_attempt_is_told_that_the_client_left():
    hearing, queue = server(BODY)
    assert await hearing() == BODY
    waiting = [asyncio.ensure_future(hearing()) for _ in range(3)]
    await settle()
    queue.put_nowait(GONE)
    assert await asyncio.gather(*waiting) == [GONE] * 3
    assert await hearing() == GONE


async def test_an_attempt_that_is_cancelled_takes_nothing_with_it():
    hearing, queue = server(BODY)
    await hearing()
    first, second = (asyncio.ensure_future(hearing()) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    queue.put_nowait(GONE)
    assert await second == GONE


async def test_one_that_listens_leaves_the_empty_body_to_one_that_has_not_read_it():
    hearing, queue = server(EMPTY)
    listening = asyncio.ensure_future(hearing.after_body())
    await settle()
    assert await hearing() == EMPTY
    queue.put_nowait(GONE)
    assert await listening == GONE
    assert await hearing() == GONE
