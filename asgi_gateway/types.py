"""The types everything else is written in: ASGI's own, and the units of the configuration."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Header: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = list[Header]

DURATION_PATTERN = r"^\d+(\.\d+)?(ms|s|m|h|d)?$"
SIZE_PATTERN = r"^\d+(B|KB|MB|GB|KiB|MiB|GiB)?$"
STATUS_PATTERN = r"^([1-5]xx|[1-5]\d\d(-[1-5]\d\d)?)$"

_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


def parse_duration(value: object) -> object:
    """Seconds of ``250ms``, ``5s``, ``2m``, ``1h``, ``1d`` or a bare number; anything else unchanged."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", value.strip())
    if match is None:
        raise ValueError("expected a duration such as 250ms, 5s or 2m")
    return float(match[1]) * _DURATION_UNITS[match[2] or ""]


def parse_size(value: object) -> object:
    """Bytes of ``64KiB``, ``1MB`` or a bare number; anything else unchanged."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+)\s*(B|KB|MB|GB|KiB|MiB|GiB)?", value.strip())
    if match is None:
        raise ValueError("expected a size such as 64KiB or 1MiB")
    return int(match[1]) * _SIZE_UNITS[match[2] or ""]


def parse_statuses(value: object) -> object:
    """The status codes of ``[500, 502-504, 4xx]``; anything but a list unchanged."""
    if isinstance(value, int | str):
        value = [value]
    if not isinstance(value, Iterable):
        return value
    statuses: set[object] = set()
    for item in value:
        match = re.fullmatch(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?", str(item))
        if match is None:
            raise ValueError(f"expected status codes such as [502-504] or [5xx], not {item!r}")
        if match[1]:
            statuses.update(range(int(match[1]) * 100, int(match[1]) * 100 + 100))
            continue
        first, last = int(match[2]), int(match[3] or match[2])
        if last < first:
            raise ValueError(f"the range {item} runs backwards")
        statuses.update(range(first, last + 1))
    return frozenset(statuses)


def parse_methods(value: object) -> object:
    """Method names as a set; each must be an RFC 9110 token in upper case."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable):
        return value
    methods = [str(item) for item in value]
    for method in methods:
        if not re.fullmatch(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]*", method):
            raise ValueError(f"expected method names in upper case such as GET, not {method!r}")
    return frozenset(methods)


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be greater than 0")
    return value


_DURATION_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": DURATION_PATTERN}],
        "description": "A duration: 250ms, 5s, 2m, 1h; a bare number is seconds.",
    }
)
_STATUS_SCHEMA = WithJsonSchema(
    {
        "type": "array",
        "items": {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": STATUS_PATTERN}]},
        "description": "Status codes: [500, 502-504, 5xx].",
    }
)
_METHODS_SCHEMA = WithJsonSchema(
    {"type": "array", "items": {"type": "string"}, "description": "Method names in upper case."}
)
_SIZE_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SIZE_PATTERN}],
        "description": "A size: 64KiB, 1MB; a bare number is bytes.",
    }
)

Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, allow_inf_nan=False),
    _DURATION_SCHEMA,
]
"""A duration in seconds, zero or more; YAML may say ``250ms``, ``5s``, ``2m``."""

PositiveSeconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    AfterValidator(_above_zero),
    Field(allow_inf_nan=False),
    _DURATION_SCHEMA,
]
"""A duration in seconds, more than zero."""

Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0), _SIZE_SCHEMA]
"""A number of bytes; YAML may say ``64KiB``."""

StatusSet = Annotated[frozenset[int], BeforeValidator(parse_statuses), _STATUS_SCHEMA]
"""A set of status codes; YAML may say ``[500, 502-504, 5xx]``."""

MethodSet = Annotated[frozenset[str], BeforeValidator(parse_methods), _METHODS_SCHEMA]
"""A set of method names in upper case."""
