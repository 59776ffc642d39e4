"""The configuration file: read, checked, explained and written out again."""

from asgi_gateway.config.effective import effective_yaml
from asgi_gateway.config.files import Files
from asgi_gateway.config.load import load_config, parse_config
from asgi_gateway.config.mistakes import ConfigError, Mistake
from asgi_gateway.config.model import (
    Admin,
    Config,
    ConsistentHashing,
    EndpointSpec,
    Listen,
    Logging,
    MiddlewareSpec,
    Reload,
    Route,
    Service,
    Shutdown,
    State,
)
from asgi_gateway.config.schema import json_schema
from asgi_gateway.config.warnings import warnings_of
from asgi_gateway.policies.ejection import Ejection
from asgi_gateway.policies.health_check import HealthCheck
from asgi_gateway.proxy.tls import Tls
from asgi_gateway.proxy.transport import Connections, Timeouts, WebSocketOptions

__all__ = [
    "Admin",
    "Config",
    "ConfigError",
    "Connections",
    "ConsistentHashing",
    "Ejection",
    "EndpointSpec",
    "Files",
    "HealthCheck",
    "Listen",
    "Logging",
    "MiddlewareSpec",
    "Mistake",
    "Reload",
    "Route",
    "Service",
    "Shutdown",
    "State",
    "Timeouts",
    "Tls",
    "WebSocketOptions",
    "effective_yaml",
    "json_schema",
    "load_config",
    "parse_config",
    "warnings_of",
]
