"""uvicorn set up for a gateway, and the protocol class that it serves through."""

from asgi_gateway.server.hangup import reload_on_hangup
from asgi_gateway.server.launch import (
    CannotStart,
    Server,
    bind,
    close,
    end_on_signals,
    run_server,
    server_config,
    url_of,
)
from asgi_gateway.server.protocol import HttpProtocol
from asgi_gateway.server.websocket import WebSocketLimits

__all__ = [
    "CannotStart",
    "HttpProtocol",
    "Server",
    "WebSocketLimits",
    "bind",
    "close",
    "end_on_signals",
    "reload_on_hangup",
    "run_server",
    "server_config",
    "url_of",
]
