"""A request body that can be read more than once."""

from __future__ import annotations

from collections.abc import Awaitable

from asgi_gateway.asgi.headers import fields_of, get_header
from asgi_gateway.types import Message, Receive, Scope


def declared_length(scope: Scope) -> int | None:
    """How long a request's body is: 0 where it has none, None where that cannot be known beforehand.

    HTTP/1.1 announces a body by Content-Length or Transfer-Encoding (RFC 9112 section 6); later
    versions need not announce it.
    """
    headers = scope["headers"]
    fields = fields_of(headers)
    if fields is not None:
        coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    else:
        coding, length = get_header(headers, b"transfer-encoding"), get_header(headers, b"content-length")
    if coding is not None:
        return None
    if length is not None:
        return int(length) if length.isdigit() and len(length) < 20 else None
    return 0 if scope.get("http_version", "1.1").startswith("1") else None


class ReplayableBody:
    """Keeps a request body while it is first read, so that a later attempt reads the same bytes.

    Bytes are kept as the first attempt asks for them, never ahead of it, up to `max_size`. Past that they
    are dropped, the attempt reads on, and `replayable` is False from then on; so it is where the client
    leaves inside the body. `empty` is for a request known to have no body.

    Each attempt reads through its own `reader()`. After the body's end a reader delegates to the real
    ``receive``: the end of a body is not the end of the client.
    """

    __slots__ = ("_kept", "_max_size", "_receive", "_size", "_through", "_unread", "complete", "replayable")

    def __init__(self, receive: Receive, max_size: int, *, empty: bool = False) -> None:
        self._receive = receive
        self._max_size = max_size
        self._kept: list[bytes] = []
        self._size = 0
        self._unread = not empty
        self._through = False
        """Nothing that is still to come has to be looked at."""
        self.complete = empty
        """The body has been read to its end."""
        self.replayable = True
        """Another attempt can be given the whole body."""

    def reader(self) -> Receive:
        """The ``receive`` of one attempt."""
        if self._unread:
            return self._read
        kept: list[bytes] | None = self._kept  # an answer may begin, and release it, before it is read

        async def receive() -> Message:
            nonlocal kept
            if kept is None:
                return await self._read()
            body, kept = b"".join(kept), None
            return {"type": "http.request", "body": body, "more_body": not self.complete}

        return receive

    def release(self) -> None:
        """Keep no more, and what was kept only for a reader that is still to replay it."""
        self._kept = []
        self.replayable = False
        self._through = True

    async def disconnected(self) -> None:
        """Return when the client has left; to be awaited when the body is complete."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _read(self) -> Awaitable[Message]:
        return self._receive() if self._through else self._read_on()

    async def _read_on(self) -> Message:
        message = await self._receive()
        if self.complete:
            # A first attempt that did not ask for the empty body left its one message behind.
            while message["type"] == "http.request":
                message = await self._receive()
        elif message["type"] == "http.request":
            self._keep(message)
        else:
            self.replayable = False
        return message

    def _keep(self, message: Message) -> None:
        self._unread = False
        if not message.get("more_body"):
            self.complete = self._through = True
        if not self.replayable:
            return
        body = message.get("body", b"")
        self._size += len(body)
        if self._size > self._max_size:
            self.replayable = False
            self._kept.clear()
        else:
            self._kept.append(body)
