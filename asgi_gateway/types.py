"""The types everything else is written in: ASGI's own, and the units of the configuration."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Header: TypeAlias = tuple[bytes, bytes]
Headers: TypeAlias = list[Header]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr  # noqa: PLC0414 - exported
else:

    def mypyc_attr(**_attributes: object) -> Callable[[type], type]:
        """What a class tells the compiler; nothing where it is not compiled."""
        return lambda cls: cls


_DURATION = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?"
_SIZE = r"(\d+)\s*(B|KB|MB|GB|KiB|MiB|GiB)?"
_STATUS = r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?"
_METHOD = r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]*"

_DURATION_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SIZE_UNITS = {
    "GiB": 2**30,
    "GB": 10**9,
    "MiB": 2**20,
    "MB": 10**6,
    "KiB": 2**10,
    "KB": 10**3,
    "B": 1,
}


def parse_duration(value: object) -> object:
    """Seconds of ``250ms``, ``5s``, ``2m``, ``1h``, ``1d`` or a bare number; anything else unchanged."""
    if not isinstance(value, str | bool):
        return value
    match = re.fullmatch(_DURATION, value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 250ms, 5s or 2m")
    return float(match[1]) * _DURATION_UNITS[match[2] or "s"]


def write_duration(seconds: float) -> str:
    """The duration as `parse_duration` reads it: 90.0 is ``90s``, 120.0 is ``2m``."""
    for unit in ("h", "m", "s", "ms"):
        amount = round(seconds / _DURATION_UNITS[unit], 9)
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_size(value: object) -> object:
    """Bytes of ``64KiB``, ``1MB`` or a bare number; anything else unchanged."""
    if not isinstance(value, str | bool):
        return value
    match = re.fullmatch(_SIZE, value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a size such as 64KiB or 1MiB")
    return int(match[1]) * _SIZE_UNITS[match[2] or "B"]


def write_size(size: int) -> str:
    """The size as `parse_size` reads it, in the largest unit that divides it."""
    unit = next(unit for unit, factor in _SIZE_UNITS.items() if size % factor == 0 and (size or factor == 1))
    return f"{size // _SIZE_UNITS[unit]}{unit}"


def parse_statuses(value: object) -> object:
    """The status codes of ``[500, 502-504, 4xx]``; anything but a list or one of its items unchanged."""
    if isinstance(value, int | str):
        value = [value]
    if not isinstance(value, list | tuple | set | frozenset):
        return value
    statuses: set[int] = set()
    for item in value:
        match = re.fullmatch(_STATUS, str(item))
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


def write_statuses(statuses: frozenset[int]) -> list[int | str]:
    """The set as `parse_statuses` reads it, runs of codes as ranges."""
    runs: list[list[int]] = []
    for status in sorted(statuses):
        if runs and status == runs[-1][1] + 1:
            runs[-1][1] = status
        else:
            runs.append([status, status])
    return [first if first == last else f"{first}-{last}" for first, last in runs]


def parse_methods(value: object) -> object:
    """Method names as a set; each must be an RFC 9110 token in upper case."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple | set | frozenset):
        return value
    methods = [str(item) for item in value]
    for method in methods:
        if not re.fullmatch(_METHOD, method):
            raise ValueError(f"expected method names in upper case such as GET, not {method!r}")
    return frozenset(methods)


_DURATION_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{_DURATION}$"}],
        "description": "A duration: 250ms, 5s, 2m, 1h; a bare number is seconds.",
    }
)
_SIZE_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE}$"}],
        "description": "A size: 64KiB, 1MB; a bare number is bytes.",
    }
)
_STATUS_ITEM = {
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": f"^({_STATUS})$"},
    ]
}
_STATUS_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "array", "items": _STATUS_ITEM}, _STATUS_ITEM],
        "description": "Status codes: [500, 502-504, 5xx].",
    }
)
_METHOD_ITEM = {"type": "string", "pattern": f"^{_METHOD}$"}
_METHODS_SCHEMA = WithJsonSchema(
    {
        "anyOf": [{"type": "array", "items": _METHOD_ITEM}, _METHOD_ITEM],
        "description": "Method names in upper case.",
    }
)

Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, allow_inf_nan=False),
    PlainSerializer(write_duration, return_type=str, when_used="json"),
    _DURATION_SCHEMA,
]
"""A duration in seconds, zero or more; YAML may say ``250ms``, ``5s``, ``2m``."""

PositiveSeconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0, allow_inf_nan=False),
    PlainSerializer(write_duration, return_type=str, when_used="json"),
    _DURATION_SCHEMA,
]
"""A duration in seconds, more than zero."""

Ratio = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""A part of a whole, above 0 and at most 1."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0),
    PlainSerializer(write_size, return_type=str, when_used="json"),
    _SIZE_SCHEMA,
]
"""A number of bytes; YAML may say ``64KiB``."""

StatusSet = Annotated[
    frozenset[int],
    BeforeValidator(parse_statuses),
    PlainSerializer(write_statuses, return_type=list[int | str], when_used="json"),
    _STATUS_SCHEMA,
]
"""A set of status codes; YAML may say ``[500, 502-504, 5xx]``."""

MethodSet = Annotated[
    frozenset[str],
    BeforeValidator(parse_methods),
    PlainSerializer(sorted, return_type=list[str], when_used="json"),
    _METHODS_SCHEMA,
]
"""A set of method names in upper case."""

Mode = Annotated[
    Literal["enforce", "shadow"],
    Field(description="With 'shadow' nothing is refused: what would have been is counted and logged."),
]
"""Whether a policy refuses, or only tells what it would have refused."""
