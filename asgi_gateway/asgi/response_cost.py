"""What a response says that its request has cost, read as it passes: a header, or a member of a JSON body."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, WithJsonSchema

from asgi_gateway.asgi.headers import get_all, get_header
from asgi_gateway.types import Message, Send

CostReader: TypeAlias = Callable[[Send, Callable[[int], None]], Send]
"""A ``send`` around another, that calls a function with the cost as soon as it is known, at most once."""

LONGEST_BODY: Final = 2**20
"""Bytes of a JSON body that are kept to be read at its end. A longer one says nothing."""

_LARGEST: Final = 2**53 - 1  # what JSON carries exactly everywhere, RFC 7493 section 2.2
_SOURCE: Final = r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+|json:[^.]+(\.[^.]+)*"


def _checked(source: str) -> str:
    cost_reader(source)
    return source


CostSource: TypeAlias = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^({_SOURCE})$",
            "examples": ["header:X-Token-Cost", "json:usage.total_tokens"],
        }
    ),
]
"""The option of a middleware: ``header:<name>``, or ``json:<member>.<member>``."""


def cost_reader(source: str) -> CostReader:
    """The reader for ``header:<name>`` of the response, or ``json:<member>.<member>`` of its body.

    What is no whole number from 0 up to 2**53 - 1 is no cost. A body is read where its type is JSON and it
    has no Content-Encoding. Nothing is held back for it. Raises `ValueError` for any other source.
    """
    kind, _, rest = source.partition(":")
    if re.fullmatch(_SOURCE, source) is None:
        raise ValueError(f"expected header:<name> or json:<member>.<member>, not {source!r}")
    if kind == "header":
        return _by_header(rest.lower().encode("ascii"))
    path = rest.split(".")
    return lambda send, tell: _JsonReader(path, send, tell).send


def _by_header(name: bytes) -> CostReader:
    def reader(send: Send, tell: Callable[[int], None]) -> Send:
        def reading(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                values = get_all(message.get("headers", ()), name)
                text = values[0].strip() if len(values) == 1 else b""
                if text.isdigit() and len(text) < 17 and int(text) <= _LARGEST:
                    tell(int(text))
            return send(message)

        return reading

    return reader


class _JsonReader:
    """Keeps what passes of a JSON body, as long as it is short enough, and reads it when it has passed."""

    __slots__ = ("_kept", "_path", "_send", "_size", "_tell")

    def __init__(self, path: list[str], send: Send, tell: Callable[[int], None]) -> None:
        self._path = path
        self._send = send
        self._tell = tell
        self._kept: list[bytes] | None = None
        self._size = 0

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.start":
            headers = [*message.get("headers", ())]
            self._kept = [] if _is_plain_json(headers) else None
        elif self._kept is not None:
            if kind != "http.response.body":  # an extension's, that carries a part which is not seen here
                self._kept = None
                return self._send(message)
            body = message.get("body", b"")
            self._size += len(body)
            if self._size > LONGEST_BODY:
                self._kept = None
                return self._send(message)
            self._kept.append(body)
            if not message.get("more_body", False):
                return self._end(message, self._kept)
        return self._send(message)

    async def _end(self, message: Message, kept: list[bytes]) -> None:
        self._kept = None
        try:
            await self._send(message)  # first: reading takes a while
        finally:  # whoever leaves with the last piece has had all of it
            cost = _member(b"".join(kept), self._path)
            if cost is not None:
                self._tell(cost)


def _is_plain_json(headers: list[Any]) -> bool:
    kind = (get_header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    return (kind == b"application/json" or kind.endswith(b"+json")) and (
        get_header(headers, b"content-encoding") is None
    )


def _member(body: bytes, path: list[str]) -> int | None:
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if type(found) is int and 0 <= found <= _LARGEST else None
