"""What becomes of a request that is refused before any app sees it: an answer, and a line in the log."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from asgi_gateway.policies.repeats import Repeats
from asgi_gateway.problem import TYPE_PREFIX
from asgi_gateway.server.head import Refused
from asgi_gateway.server.lines import STATUS_LINES

if TYPE_CHECKING:
    from uvicorn.server import ServerState

CODES: Final = {
    400: "bad_request",
    408: "request_timeout",
    414: "target_too_long",
    417: "expectation_failed",
    431: "head_too_large",
    501: "not_implemented",
    505: "version_not_supported",
}
"""The stable code of each status with which the server refuses."""

_REPEATS: Final = "asgi_gateway.repeats"

_logger = logging.getLogger("asgi_gateway.server")


def answer_to(refusal: Refused) -> bytes:
    """The whole response: a problem (RFC 9457) with an id that the log knows too; it ends the connection."""
    status, code, request_id = refusal.status, CODES[refusal.status], refusal.request_id
    members = {
        "type": TYPE_PREFIX + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": f"Refused: {refusal}.",
        "code": code,
        "request_id": request_id,
    }
    body = json.dumps(members).encode()
    lines = (
        STATUS_LINES[status],
        b"content-type: application/problem+json",
        b"content-length: %d" % len(body),
        b"cache-control: no-store",
        b"x-gateway-error: " + code.encode(),
        b"x-request-id: " + request_id.encode(),
        b"connection: close",
        b"",
        body,
    )
    return b"\r\n".join(lines)


def log_refusal(refusal: Refused, client: tuple[str, int] | None, server: ServerState, now: float) -> None:
    """Say in the log what was refused to whom, unless it has just been said.

    The server's state is the one thing that all its connections share, so what was said is kept there.
    """
    repeats: Repeats = vars(server).setdefault(_REPEATS, Repeats())
    unlogged = repeats.tell(f"{refusal.status} {refusal}", now)
    if unlogged is None:
        return
    extra = {
        "status": refusal.status,
        "failure": CODES[refusal.status],
        "client_address": client[0] if client else None,
        "request_id": refusal.request_id,
        "unlogged": unlogged,
    }
    _logger.warning("refused a request: %s", refusal, extra=extra)
