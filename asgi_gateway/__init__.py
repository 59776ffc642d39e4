"""An API gateway for AI and data services, made of standalone ASGI middlewares.

    app = Gateway("gateway.yaml")                     # in front of services
    app = Gateway("gateway.yaml", app=existing_app)   # around an application

A single middleware is imported from `asgi_gateway.middleware` and brings no gateway with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asgi_gateway.config import ConfigError as ConfigError
    from asgi_gateway.gateway import Gateway as Gateway
    from asgi_gateway.gateway import create_app as create_app

__all__ = ["ConfigError", "Gateway", "__version__", "create_app"]

_HOMES = {
    "ConfigError": "asgi_gateway.config",
    "Gateway": "asgi_gateway.gateway",
    "create_app": "asgi_gateway.gateway",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("asgi-gateway")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
