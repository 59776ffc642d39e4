"""The protocol class of `asgi-gateway run`, in a hurry."""

from asgi_gateway.server import HttpProtocol


class FastProtocol(HttpProtocol):
    """Bounds of time that a test can wait for."""

    head_timeout = 1.0
    body_interval = 1.0
