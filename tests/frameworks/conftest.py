from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_gateway.testing import Upstream, behaviours


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A service behind the gateway."""
    async with Upstream(behaviours.answer(body=b"from the service")) as service:
        yield service


@pytest.fixture
def config(upstream: Upstream) -> dict[str, Any]:
    """A configuration with one route to that service."""
    return {
        "version": 1,
        "middleware": [
            "request_id",
            "access_log",
            "gateway_headers",
            {"rate_limit": {"limit": "100/minute"}},
        ],
        "services": {
            "api": {
                "url": upstream.url,
                "routes": [{"path": "/api/*", "strip_prefix": "/api"}],
                "middleware": ["circuit_breaker", "retry"],
            }
        },
    }
