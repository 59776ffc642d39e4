"""The services of the demo: `ai` speaks OpenAI's chat completions, `data` answers JSON.

Both listen to ``POST /switch/<mode>``: ``ok`` serves, ``fail`` answers 500, ``hang`` says nothing,
``reset`` breaks the connection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from asgi_gateway.clock import Clock, SystemClock
from asgi_gateway.testing import Connection, Handler, Request

MODES = ("ok", "fail", "hang", "reset")

REPLY = (
    "Every word of this sentence is an event of its own, and the gateway passes it on the moment it arrives."
)


class Switched:
    """A service that serves, fails, hangs or resets as it was last told."""

    def __init__(self, serve: Handler) -> None:
        self._serve = serve
        self.mode = "ok"

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Obey a switch, or answer as the mode says."""
        path = path_of(request)
        if path.startswith("/switch/"):
            await self._turn(path.removeprefix("/switch/"), request, connection)
        elif self.mode == "fail":
            await answer(connection, {"error": "this service was told to fail"}, status=500)
        elif self.mode == "hang":
            await connection.hang()
        elif self.mode == "reset":
            connection.reset()
        else:
            await self._serve(request, connection)

    async def _turn(self, mode: str, request: Request, connection: Connection) -> None:
        if request.method != "POST":
            await answer(connection, {"error": "a switch is turned by POST"}, status=405)
        elif mode not in MODES:
            await answer(connection, {"error": f"the switch knows {', '.join(MODES)}"}, status=404)
        else:
            self.mode = mode
            await answer(connection, {"mode": mode})


class Completions:
    """``POST /v1/chat/completions``, whole or, with ``"stream": true``, as server-sent events.

    `delay` is the pause in seconds before each word.
    """

    def __init__(self, delay: float = 0.08, clock: Clock | None = None) -> None:
        self.delay = delay
        self._clock = clock or SystemClock()

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        if path_of(request) != "/v1/chat/completions" or request.method != "POST":
            await answer(connection, {"error": {"message": "try POST /v1/chat/completions"}}, status=404)
            return
        try:
            asked = json.loads(await request.body())
            model, stream = str(asked.get("model", "demo")), asked.get("stream") is True
        except (ValueError, AttributeError):
            error = {"message": "the body is not a JSON object", "type": "invalid_request_error"}
            await answer(connection, {"error": error}, status=400)
            return
        if stream:
            await self._stream(model, connection)
        else:
            await self._whole(model, connection)

    async def _whole(self, model: str, connection: Connection) -> None:
        words = REPLY.split()
        await connection.pause(self.delay * len(words) / 4)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": REPLY},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 8, "completion_tokens": len(words), "total_tokens": 8 + len(words)}
        await answer(connection, self._head("chat.completion", model) | {"choices": [choice], "usage": usage})

    async def _stream(self, model: str, connection: Connection) -> None:
        headers = [(b"Content-Type", b"text/event-stream"), (b"Transfer-Encoding", b"chunked")]
        await connection.send_head(200, [*headers, (b"Cache-Control", b"no-cache")])
        head = self._head("chat.completion.chunk", model)
        for delta, reason in deltas():
            await connection.pause(self.delay)
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            await connection.send_chunk(b"data: %b\n\n" % json.dumps(head | {"choices": [choice]}).encode())
        await connection.send_chunk(b"data: [DONE]\n\n")
        await connection.send_chunk(b"")

    def _head(self, kind: str, model: str) -> dict[str, Any]:
        return {"id": "chatcmpl-demo", "object": kind, "created": int(self._clock.wall()), "model": model}


class Data:
    """JSON at ``/items``; ``/flaky`` fails twice, answers once, and so on."""

    def __init__(self) -> None:
        self._flaky = cycle((503, 503, 200))

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        path = path_of(request)
        if path == "/items":
            await answer(connection, {"items": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]})
        elif path == "/flaky":
            status = next(self._flaky)
            await answer(connection, {"flaky": "answered" if status == 200 else "failed"}, status=status)
        else:
            await answer(connection, {"error": "try /items or /flaky"}, status=404)


async def answer(connection: Connection, body: object, *, status: int = 200) -> None:
    """One whole JSON answer."""
    content = json.dumps(body).encode() + b"\n"
    await connection.respond(status, [(b"Content-Type", b"application/json")], content)


def path_of(request: Request) -> str:
    """The path without its query."""
    return request.target.partition(b"?")[0].decode("latin-1")


def deltas() -> Iterator[tuple[dict[str, str], str | None]]:
    """What each event of a streamed completion adds, and why the last one ends it."""
    yield {"role": "assistant", "content": ""}, None
    for number, word in enumerate(REPLY.split()):
        yield {"content": f" {word}" if number else word}, None
    yield {}, "stop"
