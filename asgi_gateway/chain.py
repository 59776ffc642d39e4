"""Ordered composition: middlewares around an app, outermost first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from asgi_gateway.config import MiddlewareSpec
from asgi_gateway.options import accepts_runtime
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp


class ChainError(ValueError):
    """A middleware would not be built from options that are valid one by one."""

    def __init__(self, spec: MiddlewareSpec, reason: Exception) -> None:
        super().__init__(str(reason))
        self.spec = spec


def build_chain(specs: Sequence[MiddlewareSpec], app: ASGIApp, runtime: Runtime) -> ASGIApp:
    """The app inside its middlewares, the first of them outermost; raises `ChainError`."""
    runtime = replace(runtime, twins={})
    for spec in reversed(specs):
        handed_in = {"runtime": runtime} if accepts_runtime(spec.factory) else {}
        try:
            app = spec.factory(app, **spec.options, **handed_in)
        except Exception as error:  # whatever a foreign constructor raises, the reader gets one line
            raise ChainError(spec, error) from error
    return app
