"""A protocol class on real sockets in the test's own loop: what uvicorn's server does for one, without it.

The test sees the server's state and the protocol objects, and hundreds of tests take no time.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from asgi_gateway.server import HttpProtocol
from asgi_gateway.types import ASGIApp


class Listening:
    """A server of one protocol class. `state` is what the lifespan is said to have left."""

    def __init__(self, config: uvicorn.Config, state: dict[str, Any]) -> None:
        config.load()
        self.config = config
        self.state = state
        self.server_state = ServerState()
        self.server_state.default_headers = config.encoded_headers
        self.protocols: list[Any] = []
        self.url = ""
        self._asked = 0

    def make_protocol(self) -> asyncio.Protocol:
        protocol = self.config.http_protocol_class(
            config=self.config, server_state=self.server_state, app_state=self.state
        )
        self.protocols.append(protocol)
        return protocol

    async def newest(self) -> Any:
        """The protocol of the connection that was opened last; waits for one that nobody asked for yet."""
        while len(self.protocols) == self._asked:
            await asyncio.sleep(0)
        self._asked = len(self.protocols)
        return self.protocols[-1]

    def shut_down(self) -> None:
        """Tell every connection what uvicorn tells them when it is told to stop."""
        for protocol in list(self.server_state.connections):
            protocol.shutdown()


@asynccontextmanager
async def listening(
    app: ASGIApp,
    http: Any = HttpProtocol,
    *,
    state: dict[str, Any] | None = None,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Listening]:
    """Serve `app` through a protocol class; `options` go to `uvicorn.Config`."""
    quiet = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
    config = uvicorn.Config(
        app, **{"http": http, "lifespan": "off", "date_header": False, **quiet, **options}
    )
    listening = Listening(config, {} if state is None else state)
    server = await asyncio.get_running_loop().create_server(listening.make_protocol, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    listening.url = f"http://{host}:{port}"
    try:
        yield listening
    finally:
        server.close()
        for protocol in list(listening.server_state.connections):
            protocol.transport.abort()
        tasks = list(listening.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
