"""What httpcore 1.0 and h2 4 leave undone for HTTP/2.

httpcore forgets an abandoned stream without a word to the service, which then goes on sending, and
what it sends eats up the connection's flow control window for good (RFC 9113 sections 5.4.2 and 6.9).
There is no public way to reset one stream, so this reaches inside; tests hold that it works.

h2 finds a header that it will not send when it has compressed those before it: from then on the
service would read other headers than the following requests have. So they are looked at first.
"""

# ruff: noqa: SLF001 - for what the text above says

from __future__ import annotations

import contextlib
import re
from typing import Any, Final

import httpcore
import httpx

from asgi_gateway.proxy.transport import MalformedRequest
from asgi_gateway.types import Headers

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(rb"[\0\r\n]")


def check_headers(headers: Headers) -> None:
    """Raise `MalformedRequest` for a header that HTTP/2 forbids (RFC 9113 section 8.2.1)."""
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise MalformedRequest("a header that HTTP/2 forbids")


def protocol_errors() -> tuple[type[Exception], ...]:
    """What h2 raises where a service breaks the protocol; httpcore lets it through inside an answer."""
    from h2.exceptions import ProtocolError

    return (ProtocolError,)


def broke_off(error: Exception) -> bool:
    """Whether the service ended a stream or the connection, as it may, rather than broke the protocol."""
    from h2.events import ConnectionTerminated, StreamReset
    from h2.exceptions import StreamClosedError

    said = error.__cause__.args[0] if error.__cause__ is not None and error.__cause__.args else None
    if isinstance(said, StreamReset):
        return bool(said.remote_reset)
    closed_before = "ConnectionState.CLOSED" in str(error)
    return closed_before or isinstance(said, ConnectionTerminated | StreamClosedError)


async def reset_forgotten(transport: httpx.AsyncBaseTransport, seconds: float, *, retire: bool) -> None:
    """Reset every open stream that httpcore has forgotten; writing takes `seconds` at most.

    With `retire` their connection is used for no further one.
    """
    pool = getattr(transport, "_pool", None)
    for connection in getattr(pool, "connections", ()):
        http2: Any = getattr(connection, "_connection", None)
        if hasattr(http2, "_h2_state") and _reset(http2):
            http2._connection_error |= retire
            timeout = {"timeout": {"write": seconds}}
            with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException):
                await http2._write_outgoing_data(httpcore.Request("GET", "http://-", extensions=timeout))
            if _over(http2) and http2._connection_terminated is None:  # a breach, of which only one is told
                await http2.aclose()


def _over(http2: Any) -> bool:
    """Whether nothing can be said on a connection any more."""
    over: bool = http2._h2_state.state_machine.state.name == "CLOSED"
    return over


def _reset(http2: Any) -> bool:
    from h2.errors import ErrorCodes

    if _over(http2):
        return True
    state = http2._h2_state
    forgotten = [
        (number, stream)
        for number, stream in state.streams.items()
        if not stream.closed and number not in http2._events
    ]
    for number, stream in forgotten:
        window = stream._inbound_window_manager
        unread = window.max_window_size - window.current_window_size - window._bytes_processed
        if unread > 0:
            state.acknowledge_received_data(unread, number)
        state.reset_stream(number, ErrorCodes.CANCEL)
    return bool(forgotten)
