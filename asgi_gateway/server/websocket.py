"""What the server in front must allow a WebSocket client, so that the services' own limits decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from asgi_gateway.config import Config

PING_INTERVAL = 20.0
"""Seconds between two pings to a client; proxies and NAT drop what is silent for about a minute."""

ANSWER_WITHIN = 20.0
"""Seconds that a client has to answer a ping once it is listened to."""


@dataclass(frozen=True, slots=True)
class WebSocketLimits:
    """uvicorn's own limits; they hold for all services, so each must suffice for the one that allows most.

    While a service leaves a message untaken its client is not listened to, and a pong is not heard.
    `ping_timeout` is therefore longer than the longest `timeouts.idle`, after which the service is given up.
    """

    max_message: int = 16 * 2**20
    ping_timeout: float = 60.0 + ANSWER_WITHIN

    @classmethod
    def of(cls, config: Config) -> Self:
        """The limits for the services of a configuration."""
        services = config.services.values()
        if not services:
            return cls()
        return cls(
            max(service.websocket.max_message for service in services),
            max(service.timeouts.idle for service in services) + ANSWER_WITHIN,
        )
