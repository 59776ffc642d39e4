"""ASGI messages by what they carry."""

from __future__ import annotations

from typing import Final

RESPONSE_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
"""Messages that begin an answer and carry its headers; a plain refusal of a WebSocket carries none."""
