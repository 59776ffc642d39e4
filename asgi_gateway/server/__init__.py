"""uvicorn set up for a gateway, and the protocol class that it serves through."""

from asgi_gateway.server.admin import AdminSocket, ask
from asgi_gateway.server.alone import serve_alone
from asgi_gateway.server.bounds import Bounds
from asgi_gateway.server.launch import CannotStart, bind, close, end_on_signals, server_config, url_of
from asgi_gateway.server.process import Settings
from asgi_gateway.server.protocol import HttpProtocol
from asgi_gateway.server.serve import Server
from asgi_gateway.server.supervisor import Supervisor, supervise
from asgi_gateway.server.websocket import WebSocketLimits

__all__ = [
    "AdminSocket",
    "Bounds",
    "CannotStart",
    "HttpProtocol",
    "Server",
    "Settings",
    "Supervisor",
    "WebSocketLimits",
    "ask",
    "bind",
    "close",
    "end_on_signals",
    "serve_alone",
    "server_config",
    "supervise",
    "url_of",
]
