"""How far TRACE and OPTIONS may still travel (RFC 9110 section 7.6.2), and CONNECT, which may not.

The first two are for asking a chain of servers about itself. At zero the gateway is the one that is
asked; else one is taken off before the request goes on. For other methods the field means nothing and passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asgi_gateway.asgi.headers import get_all, replaced
from asgi_gateway.asgi.paths import raw_request_path
from asgi_gateway.errors import Failure
from asgi_gateway.problem import Problem
from asgi_gateway.types import ASGIApp, Headers, Receive, Scope, Send

LIMITED: Final = frozenset({"CONNECT", "OPTIONS", "TRACE"})
"""The methods that do not simply go on: CONNECT never, the others as far as `Max-Forwards` says."""

NO_CONNECT: Final = Problem(501, Failure("not_implemented", "gateway"), "CONNECT is not served.")

FARTHEST: Final = 999_999_999
"""The most that is passed on, whatever the client says."""

REFLECTED: Final = frozenset({b"host", b"max-forwards", b"user-agent", b"via"})
"""What a TRACE is shown of its own headers.

RFC 9110 section 9.3.8 has the final recipient leave out what is likely to be sensitive. Nobody knows
every name for a secret, so what is shown is named in place of what is not: who was asked, by whom, and
the way it took.
"""

_FIELD: Final = b"max-forwards"


def limited(scope: Scope, allowed: Callable[[], str]) -> tuple[Scope, ASGIApp | None]:
    """The scope to forward such a request with, and in place of forwarding the app that answers it.

    `allowed` tells the methods for ``Allow``, where they are asked for.
    """
    if scope["method"] == "CONNECT":
        return scope, NO_CONNECT
    values = get_all(scope["headers"], _FIELD)
    if not values:
        return scope, None
    digits = values[0].lstrip(b"0")
    if len(values) > 1 or not values[0].isdigit():
        failure = Failure("bad_request", "client")
        return scope, Problem(400, failure, "Refused: its Max-Forwards is not one number.")
    if digits:
        left = int(digits) - 1 if len(digits) <= len(str(FARTHEST)) else FARTHEST
        return {**scope, "headers": replaced(scope["headers"], _FIELD, b"%d" % min(left, FARTHEST))}, None
    if scope["method"] == "TRACE":
        return scope, _reflect
    return scope, own_options(allowed())


def own_options(allowed: str) -> ASGIApp:
    """The gateway's own answer to OPTIONS; an empty `allowed` is the server as a whole (``*``)."""
    headers: Headers = [(b"content-length", b"0")]
    if allowed:
        headers.append((b"allow", allowed.encode("ascii")))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return answer


async def _reflect(scope: Scope, receive: Receive, send: Send) -> None:
    """The request as it came in, less what might be a secret."""
    query: bytes = scope.get("query_string", b"")
    target = raw_request_path(scope) + (b"?" + query if query else b"")
    lines = [b"TRACE %b HTTP/%b" % (target, scope.get("http_version", "1.1").encode("ascii"))]
    lines += [b"%b: %b" % pair for pair in scope["headers"] if pair[0].lower() in REFLECTED]
    body = b"\r\n".join([*lines, b"", b""])
    headers = [(b"content-type", b"message/http"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
