"""What takes a WebSocket handshake where no package speaks the protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import get_remote_addr

from asgi_gateway.server.head import Refused
from asgi_gateway.server.refusal import answer_to, log_refusal

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState


class NoWebSocket(asyncio.Protocol):
    """Answer 501, for uvicorn's ``ws=``.

    Without it the handshake would be served as the plain GET that it would be without its `Upgrade`
    (RFC 9110 section 7.8 allows that), and a service would be asked what nobody meant to ask.
    """

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._server_state = server_state
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called with the handshake."""
        transport = self._transport
        if transport.is_closing():
            return
        refusal = Refused(501, "WebSocket is not spoken here, it needs the extra 'websocket'")
        now = asyncio.get_running_loop().time()
        log_refusal(refusal, get_remote_addr(transport), self._server_state, now)
        transport.write(answer_to(refusal))
        transport.close()
