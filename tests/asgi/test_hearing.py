"""Several attempts that hear one client."""

import asyncio
from collections.abc import Callable

import pytest

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


class OneCallback:
    """A server that keeps one callback, the latest, as ours does."""

    def __init__(self) -> None:
        self.callback: Callable[[], None] | None = None
        self.left = False

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        def forget() -> None:
            if self.callback is callback:
                self.callback = None

        self.callback = callback
        if self.left:
            asyncio.get_running_loop().call_soon(callback)
        return forget

    def leave(self) -> None:
        self.left = True
        if self.callback is not None:
            self.callback()


class Attempts:
    """Attempts that have themselves called back, and those that were."""

    def __init__(self) -> None:
        self.server = OneCallback()
        self.told: list[str] = []
        self._on_disconnect = Hearing(server()[0], self.server.on_disconnect).on_disconnect

    def register(self, name: str) -> Callable[[], None]:
        assert self._on_disconnect is not None
        return self._on_disconnect(lambda: self.told.append(name))


async def test_every_attempt_is_called_back_once():
    attempts = Attempts()
    taking_back = [attempts.register(name) for name in ("one", "other")]
    attempts.server.leave()
    attempts.server.leave()
    assert attempts.told == ["one", "other"]
    for take_back in taking_back:
        take_back()
    assert attempts.server.callback is None


@pytest.mark.parametrize("ended", ["one", "other"])
async def test_an_attempt_that_is_over_leaves_the_other_its_callback(ended: str):
    attempts = Attempts()
    taking_back = {name: attempts.register(name) for name in ("one", "other")}
    taking_back.pop(ended)()
    attempts.server.leave()
    assert attempts.told == [*taking_back]


async def test_what_the_server_was_given_is_taken_back_with_the_last():
    attempts = Attempts()
    taking_back = [attempts.register(name) for name in ("one", "other")]
    assert attempts.server.callback is not None
    for take_back in taking_back:
        take_back()
    assert attempts.server.callback is None


async def test_an_attempt_that_registers_late_is_called_back_too():
    attempts = Attempts()
    attempts.register("one")
    attempts.server.leave()
    attempts.register("other")
    await settle()
    assert attempts.told == ["one", "other"]


async def test_where_the_server_calls_nobody_back_there_is_nothing_to_register_with():
    assert server()[0].on_disconnect is None
