"""Requests, and the apps that are told of them."""

import asyncio
from collections.abc import Callable

from asgi_gateway.types import Message, Receive, Scope, Send

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
DISCONNECT = {"type": "http.disconnect"}


def post(data: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(data)
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: h", length, *headers, b"", data])


def given(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


async def respond(send: Send, data: bytes = b"ok", status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


class Listener:
    """An app that keeps what it is told until `until` says that it has heard enough, then answers."""

    def __init__(self, until: Callable[[Message], bool] = lambda message: True) -> None:
        self.scopes: list[Scope] = []
        self.heard: list[Message] = []
        self.done = asyncio.Event()
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        while True:
            message = await receive()
            self.heard.append(message)
            if self._until(message):
                break
        await respond(send)
        self.heard.append(await receive())
        self.done.set()

    async def over(self) -> None:
        await asyncio.wait_for(self.done.wait(), 5)

    @property
    def whole(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.heard)


def is_last(message: Message) -> bool:
    return message["type"] != "http.request" or not message["more_body"]


def is_gone(message: Message) -> bool:
    return message["type"] == "http.disconnect"
