"""The protocol class of `asgi-gateway run`, in a hurry."""

from functools import partial

from asgi_gateway.server import Bounds, HttpProtocol

BOUNDS = Bounds(head_timeout=1.0, body_interval=1.0)
"""Bounds of time that a test can wait for."""

FastProtocol = partial(HttpProtocol, bounds=BOUNDS)
