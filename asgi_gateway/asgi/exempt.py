"""Paths that a middleware leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from asgi_gateway.asgi.paths import PathPattern, request_path, resolved
from asgi_gateway.types import Scope


def _checked(pattern: str) -> str:
    PathPattern(pattern)
    return pattern


Paths: TypeAlias = tuple[Annotated[str, AfterValidator(_checked)], ...]
"""The option of a middleware: ``/health`` for itself, ``/health/*`` with all below it."""


def is_exempt(patterns: Sequence[PathPattern], scope: Scope) -> bool:
    """A path is, if it is in every reading: some services resolve dot segments, some do not."""
    spelled = request_path(scope)
    path = resolved(spelled)
    for pattern in patterns:
        if pattern.matches(path) and (path is spelled or pattern.matches(spelled)):
            return True
    return False
