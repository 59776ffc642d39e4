"""Tools for testing middlewares and gateways; the project's own tests use nothing else."""

from asgi_gateway.testing.asgi import (
    Answer,
    Conversation,
    ScriptedApp,
    http_scope,
    read_body,
    record,
    request,
)
from asgi_gateway.testing.clock import ManualClock, settle

__all__ = [
    "Answer",
    "Conversation",
    "ManualClock",
    "ScriptedApp",
    "http_scope",
    "read_body",
    "record",
    "request",
    "settle",
]
