"""An answer that is always the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asgi_gateway.types import Headers, Receive, Scope, Send

_BODILESS = frozenset({204, 205, 304})


@dataclass(frozen=True)
class FixedAnswer:
    """An answer, as an ASGI app: ``await FixedAnswer(200, body={"ok": True})(scope, receive, send)``.

    A text is sent as it is, anything else as JSON. HEAD is answered without the body. Nothing is read of
    the request. A WebSocket handshake is refused with it where the server can carry an answer. Raises
    `ValueError` for a status outside 200 to 599, a header that cannot be sent, and a body where the status
    allows none.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    status: int = 200
    """The status, 200 to 599."""
    body: Any = None
    """A text, or anything that JSON can say; nothing by default."""
    content_type: str | None = None
    """By default text/plain or application/json, as the body is."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers."""

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError("status must be between 200 and 599")
        if self.status in _BODILESS and self.body is not None:
            raise ValueError(f"an answer {self.status} has no body")
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        content = b"" if self.body is None else text.encode()
        object.__setattr__(self, "_content", content)
        object.__setattr__(self, "_headers", self._built_headers(content))

    def _built_headers(self, content: bytes) -> Headers:
        kind = self.content_type
        if kind is None and self.body is not None:
            kind = "text/plain; charset=utf-8" if isinstance(self.body, str) else "application/json"
        built = [] if kind is None else [_header("content-type", kind)]
        if self.status not in _BODILESS:
            built.append((b"content-length", b"%d" % len(content)))
        for name, value in self.headers.items():
            if name.lower() in ("content-length", "content-type", "transfer-encoding"):
                raise ValueError(f"{name} follows from the body and content_type")
            built.append(_header(name, value))
        return built

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = "http.response"
        if scope["type"] == "websocket":
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            kind = "websocket.http.response"
        headers: Headers = self._headers  # type: ignore[attr-defined] # set once, the rest is frozen
        content: bytes = self._content  # type: ignore[attr-defined]
        await send({"type": f"{kind}.start", "status": self.status, "headers": [*headers]})
        await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else content})


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    if not name or not name.isascii() or not name.isprintable() or set(name) & set(' :()<>@,;\\"/[]?={}'):
        raise ValueError(f"{name!r} is not the name of a header")
    if not value.isprintable():
        raise ValueError(f"the value of {name} cannot be sent")
    return name.lower().encode("ascii"), value.encode("latin-1")
