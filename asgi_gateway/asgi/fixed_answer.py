"""An answer that is settled beforehand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from asgi_gateway.types import Headers, Receive, Scope, Send

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset({"content-length", "content-type", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True)
class FixedAnswer:
    """An ASGI app that always answers the same and reads nothing of the request.

    A text is sent as it is, any other value as JSON. HEAD gets the headers alone (RFC 9110 section 9.3.2).
    A WebSocket is refused with it. Raises `ValueError` for a header that cannot be sent.

        FixedAnswer(status=200, body={"models": []})
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    status: Annotated[int, Field(ge=200, le=599)] = 200
    """The status of the answer."""
    body: str | dict[str, Any] | list[Any] | None = None
    """What it says: a text, or a value that is written as JSON."""
    content_type: str | None = None
    """Its media type; text/plain in UTF-8 or application/json where it is not told."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers."""

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
                raise ValueError(f"{name!r} cannot be a header here")
            if not _VALUE.fullmatch(value):
                raise ValueError(f"the value of {name} may not hold control characters")
        if self.content_type is not None and not _VALUE.fullmatch(self.content_type):
            raise ValueError("content_type may not hold control characters")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = b"" if self.status in (204, 304) else self._content()
        headers = self._headers(content)
        kind = "http"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            kind = "websocket.http"
        await send({"type": f"{kind}.response.start", "status": self.status, "headers": headers})
        body = b"" if scope.get("method") == "HEAD" else content
        await send({"type": f"{kind}.response.body", "body": body})

    def _content(self) -> bytes:
        if self.body is None:
            return b""
        text = self.body if isinstance(self.body, str) else json.dumps(self.body, separators=(",", ":"))
        return text.encode("utf-8")

    def _headers(self, content: bytes) -> Headers:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        if self.status not in (204, 304):
            if content or self.content_type:
                plain = self.body is None or isinstance(self.body, str)
                kind = self.content_type or ("text/plain; charset=utf-8" if plain else "application/json")
                headers.append((b"content-type", kind.encode("latin-1")))
            headers.append((b"content-length", b"%d" % len(content)))
        return headers
