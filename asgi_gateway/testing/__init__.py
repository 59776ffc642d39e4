"""Tools for testing middlewares and gateways; the project's own tests use nothing else."""

from asgi_gateway.testing import behaviours
from asgi_gateway.testing.asgi import (
    Answer,
    Conversation,
    ScriptedApp,
    http_scope,
    read_body,
    record,
    request,
    websocket_scope,
)
from asgi_gateway.testing.client import RawClient
from asgi_gateway.testing.clock import ManualClock, settle
from asgi_gateway.testing.connection import Connection, Handler
from asgi_gateway.testing.received import Request
from asgi_gateway.testing.server import Process, Server, run_process, serve
from asgi_gateway.testing.upstream import Upstream, refused_url

__all__ = [
    "Answer",
    "Connection",
    "Conversation",
    "Handler",
    "ManualClock",
    "Process",
    "RawClient",
    "Request",
    "ScriptedApp",
    "Server",
    "Upstream",
    "behaviours",
    "http_scope",
    "read_body",
    "record",
    "refused_url",
    "request",
    "run_process",
    "serve",
    "settle",
    "websocket_scope",
]
