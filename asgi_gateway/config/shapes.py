"""Which keys and types an annotation allows at a path: for suggestions and for better messages."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict

from asgi_gateway.config.mistakes import Path


def types_at(annotation: Any, path: Path) -> list[Any]:
    """The types, unions taken apart, that a value at `path` below a value of this type may have."""
    found: list[Any] = []
    for choice in _choices(annotation):
        if not path:
            found.append(choice)
            continue
        inner = fields_of(choice).get(str(path[0])) or _item(choice, path[0])
        if inner is not None:
            found.extend(types_at(inner, path[1:]))
    return found


def known_keys(annotation: Any, path: Path) -> list[str]:
    """The keys that a mapping at `path` may have."""
    return [name for choice in types_at(annotation, path) for name in fields_of(choice)]


def fields_of(choice: Any) -> dict[str, Any]:
    """The fields of a model, dataclass or typed dictionary."""
    if isinstance(choice, type) and issubclass(choice, BaseModel):
        return {name: field.annotation for name, field in choice.model_fields.items()}
    if dataclasses.is_dataclass(choice) or is_typeddict(choice):
        return get_type_hints(choice)
    return {}


def _choices(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _choices(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for choice in get_args(annotation):
            yield from _choices(choice)
    else:
        yield annotation


def _item(choice: Any, part: str | int) -> Any:
    arguments = get_args(choice)
    origin = get_origin(choice)
    if not arguments or not isinstance(origin, type):
        return None
    if issubclass(origin, dict):
        return arguments[1]
    return arguments[0] if isinstance(part, int) else None
