from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from asgi_gateway.server import HttpProtocol


@pytest.fixture(params=[HttpProtocol, HttpToolsProtocol], ids=["ours", "uvicorn"])
def http(request: pytest.FixtureRequest) -> Any:
    return request.param
