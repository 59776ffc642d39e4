"""What httpcore 1.0 leaves undone for HTTP/2: ending the streams that nobody reads any more.

httpcore forgets an abandoned stream without a word to the service, which then goes on sending, and
what it sends eats up the connection's flow control window for good (RFC 9113 sections 5.4.2 and 6.9).
There is no public way to reset one stream, so this reaches inside; tests hold that it works.
"""

# ruff: noqa: SLF001 - for what the text above says

from __future__ import annotations

from typing import Any

import httpcore
import httpx


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
            await http2._write_outgoing_data(httpcore.Request("GET", "http://-", extensions=timeout))


def _reset(http2: Any) -> bool:
    from h2.errors import ErrorCodes

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
