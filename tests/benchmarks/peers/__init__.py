"""Who is measured, and how each is started in front of the same service."""

from __future__ import annotations

from tests.benchmarks.peers.classic import CADDY, HAPROXY, HAPROXY_NO_DELAY, NGINX
from tests.benchmarks.peers.envoy import ENVOY, ENVOY_POLICIES
from tests.benchmarks.peers.libraries import AIOHTTP, ASGI_PROXY_LIB, FASTAPI_PROXY_LIB, FASTIFY, HTTPX
from tests.benchmarks.peers.model_gateways import LITELLM_PROXY, PORTKEY
from tests.benchmarks.peers.ours import (
    BARE,
    BARE_ROOMY,
    OTHER_SERVERS,
    SOURCE_BARE,
    SOURCE_WHOLE,
    SOURCE_WHOLE_ROOMY,
    WHOLE,
    WHOLE_ROOMY,
    layered,
)
from tests.benchmarks.peers.peer import Peer, Place

__all__ = ["ALL", "BARE", "LAYERED", "STREAMING", "WHOLE", "YARDSTICKS", "Peer", "Place"]

ALL = [
    NGINX,
    HAPROXY,
    CADDY,
    ENVOY,
    ENVOY_POLICIES,
    FASTIFY,
    LITELLM_PROXY,
    PORTKEY,
    AIOHTTP,
    HTTPX,
    FASTAPI_PROXY_LIB,
    ASGI_PROXY_LIB,
    BARE,
    WHOLE,
    SOURCE_BARE,
    SOURCE_WHOLE,
    *OTHER_SERVERS,
]

YARDSTICKS = [HAPROXY, ENVOY, ENVOY_POLICIES, BARE, WHOLE]
"""Whose weight is compared."""

STREAMING = [HAPROXY_NO_DELAY, ENVOY, ENVOY_POLICIES, BARE_ROOMY, WHOLE_ROOMY, SOURCE_WHOLE_ROOMY]
"""Whose streams are compared."""

LAYERED = [SOURCE_BARE, layered(1), layered(5), layered(10)]
