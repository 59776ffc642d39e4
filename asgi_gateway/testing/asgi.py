"""Raw ASGI from both sides: a driver that plays the server, an app that follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from asgi_gateway.types import ASGIApp, Headers, Message, Receive, Scope, Send


def http_scope(
    method: str = "GET",
    path: str = "/",
    *,
    query: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    raw_path: bytes | None = None,
    client: tuple[str, int] | None = ("127.0.0.1", 50000),
    **extra: Any,
) -> Scope:
    """A scope such as uvicorn makes. A Host header is added where none is given."""
    pairs = list(headers)
    if not any(name == b"host" for name, _ in pairs):
        pairs.insert(0, (b"host", b"testserver"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode() if raw_path is None else raw_path,
        "query_string": query,
        "root_path": "",
        "headers": pairs,
        "client": client,
        "server": ("127.0.0.1", 8000),
        "state": {},
        **extra,
    }


def websocket_scope(
    path: str = "/", *, headers: Iterable[tuple[bytes, bytes]] = (), denial: bool = True, **extra: Any
) -> Scope:
    """A handshake's scope; `denial` says whether the server can carry an HTTP answer to it."""
    scope = http_scope("GET", path, headers=headers, **extra)
    del scope["method"]
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    return {**scope, "type": "websocket", "scheme": "ws", "subprotocols": [], "extensions": extensions}


@dataclass
class Answer:
    """What the app sent."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        """The first value of a header, None where it is absent."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]


class Conversation:
    """One request driven message by message, the test in the server's place.

        async with Conversation(app, http_scope("POST", "/")) as talk:
            talk.body(b"first", more=True)
            talk.body(b"last")
            start = await talk.next()
            talk.disconnect()

    `receive` blocks until the test gives a message, as a real server's does. Leaving the block
    cancels an app that still runs; `finish` waits for it and lets its exception through.
    """

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self.app = app
        self.scope = scope
        self.answer = Answer()
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._running()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])

    def body(self, data: bytes = b"", *, more: bool = False) -> None:
        """Give the app one ``http.request`` message."""
        self.give({"type": "http.request", "body": data, "more_body": more})

    def give(self, message: Message) -> None:
        """Give the app any message."""
        self._to_app.put_nowait(message)

    def disconnect(self) -> None:
        """The client leaves: ``http.disconnect`` now and on every later ``receive``."""
        self._gone.set()

    def cancel(self) -> None:
        """Cancel the app's task, as a server that shuts down does."""
        self._running().cancel()

    async def next(self, seconds: float = 5.0) -> Message:
        """The next message the app sends."""
        getter = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait([getter, self._running()], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if getter.done():
            return getter.result()
        getter.cancel()
        if self._running().done():
            await self._running()
            raise AssertionError("the app returned without sending another message")
        raise AssertionError(f"the app sent nothing for {seconds} s")

    async def finish(self, seconds: float = 5.0) -> Answer:
        """Wait until the app returns; raises what it raised."""
        await asyncio.wait_for(asyncio.shield(self._running()), seconds)
        return self.answer

    @property
    def done(self) -> bool:
        """Whether the app has returned."""
        return self._running().done()

    def _running(self) -> asyncio.Task[None]:
        if self._task is None:
            raise RuntimeError("use the conversation as an async context manager")
        return self._task

    async def _run(self) -> None:
        await self.app(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._to_app.empty():
            return self._to_app.get_nowait()
        getter = asyncio.ensure_future(self._to_app.get())
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait([getter, gone], return_when=asyncio.FIRST_COMPLETED)
            return getter.result() if getter.done() else {"type": "http.disconnect"}
        finally:
            getter.cancel()
            gone.cancel()

    async def _send(self, message: Message) -> None:
        record(self.answer, message)
        self._from_app.put_nowait(message)


def record(answer: Answer, message: Message) -> None:
    """Add one sent message to an answer, refusing what the ASGI specification refuses."""
    answer.messages.append(message)
    kind = message["type"]
    if kind == "http.response.start":
        if answer.status:
            raise RuntimeError("http.response.start was sent twice")
        answer.status = message["status"]
        answer.headers = list(message.get("headers", ()))
    elif kind == "http.response.body":
        if not answer.status:
            raise RuntimeError("http.response.body was sent before http.response.start")
        if answer.complete:
            raise RuntimeError("http.response.body was sent after the last one")
        if message.get("body"):
            answer.chunks.append(message["body"])
        answer.complete = not message.get("more_body", False)


async def request(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    *,
    body: bytes | Sequence[bytes] = b"",
    **scope: Any,
) -> Answer:
    """Send one request and wait for the app to return; `scope` goes to `http_scope`."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    async with Conversation(app, http_scope(method, path, **scope)) as talk:
        for number, chunk in enumerate(chunks, 1):
            talk.body(chunk, more=number < len(chunks))
        return await talk.finish()


class ScriptedApp:
    """An inner app that answers from a list and remembers what it was asked.

        app = ScriptedApp(503, 503, 200)

    Each step is a status, an ``(status, headers, [chunks])`` triple, an exception to raise, or an
    ASGI app to hand the request to. The last step is repeated. `calls` holds the scopes, `bodies`
    the request bodies of the steps that this class answered itself.
    """

    def __init__(self, *steps: int | BaseException | ASGIApp | tuple[int, Headers, list[bytes]]) -> None:
        self.steps = steps or (200,)
        self.calls: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Play the next step."""
        step = self.steps[min(len(self.calls), len(self.steps) - 1)]
        self.calls.append(scope)
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            await step(scope, receive, send)
            return
        status, headers, chunks = (step, [], [b"ok"]) if isinstance(step, int) else step
        self.bodies.append(await read_body(receive))
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read_body(receive: Receive) -> bytes:
    """The whole request body; raises `ConnectionError` where the client left inside it."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left inside the body")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
