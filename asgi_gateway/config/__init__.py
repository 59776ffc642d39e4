"""The configuration file: read, checked, explained and written out again."""

from asgi_gateway.config.effective import effective_yaml
from asgi_gateway.config.load import load_config, parse_config
from asgi_gateway.config.mistakes import ConfigError, Mistake
from asgi_gateway.config.model import (
    Config,
    ConsistentHashing,
    EndpointSpec,
    Listen,
    Logging,
    MiddlewareSpec,
    Route,
    Service,
)
from asgi_gateway.config.schema import json_schema
from asgi_gateway.config.warnings import warnings_of
from asgi_gateway.policies.ejection import Ejection
from asgi_gateway.policies.health_check import HealthCheck
from asgi_gateway.proxy.transport import Connections, Timeouts, WebSocketOptions

__all__ = [
    "Config",
    "ConfigError",
    "Connections",
    "ConsistentHashing",
    "Ejection",
    "EndpointSpec",
    "HealthCheck",
    "Listen",
    "Logging",
    "MiddlewareSpec",
    "Mistake",
    "Route",
    "Service",
    "Timeouts",
    "WebSocketOptions",
    "effective_yaml",
    "json_schema",
    "load_config",
    "parse_config",
    "warnings_of",
]
