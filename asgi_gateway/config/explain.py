"""Pydantic's errors in the words of someone who edits YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from asgi_gateway.config.document import Document, steps_of
from asgi_gateway.config.mistakes import Mistake, Path, nearest
from asgi_gateway.config.shapes import known_keys, types_at

M = TypeVar("M", bound=BaseModel)

MISSING = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})
UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
FOREIGN = frozenset({"value_error", "assertion_error"})
"""Raised by the validator of an option, in words that are not ours."""

EXPECTED: dict[str, str] = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "callable_type": "text",  # a file can only name one
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "frozen_set_type": "a list",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "none_required": "nothing",
    "set_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What a value of the wrong type should have been."""

LIMITS: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda ctx: f"must be greater than {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']:g}",
    "less_than": lambda ctx: f"must be less than {ctx['lt']:g}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']:g}",
    "multiple_of": lambda ctx: f"must be a multiple of {ctx['multiple_of']:g}",
    "finite_number": lambda ctx: "must be a finite number",
    "string_too_short": lambda ctx: f"must have at least {ctx['min_length']} characters",
    "string_too_long": lambda ctx: f"must have at most {ctx['max_length']} characters",
    "string_pattern_mismatch": lambda ctx: f"must match {ctx['pattern']}",
    "too_short": lambda ctx: f"needs at least {ctx['min_length']} of them",
    "too_long": lambda ctx: f"may have at most {ctx['max_length']} of them",
}
"""What a value of the right type does not keep to."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """One of pydantic's errors, its location read as a path in the data."""

    details: ErrorDetails
    path: Path
    of_key: bool
    of_choice: bool


def validate(model: type[M], data: object, document: Document, base: Path) -> M | None:
    """The data at `base` as a model, or None, and what is wrong with it among the document's mistakes."""
    validated: M | None = None
    mistakes: list[Mistake] = []
    try:
        validated = model.model_validate(data, context=document)
    except ValidationError as error:
        mistakes = list(explain(error, document, base, model))
    said = {mistake.path for mistake in mistakes}
    mistakes += (m for m in explain_booleans(document, base, model) if m.path not in said)
    document.mistakes += mistakes
    return None if mistakes else validated


def explain(
    error: ValidationError, document: Document, base: Path, model: type[BaseModel]
) -> Iterator[Mistake]:
    """The mistakes that validating the data at `base` against `model` has shown, one for each path."""
    found: dict[Path, list[_Finding]] = {}
    for details in error.errors(include_url=False):
        finding = _locate(details, document.get(base))
        found.setdefault(finding.path, []).append(finding)
    for path, findings in found.items():
        below = any(len(other) > len(path) and other[: len(path)] == path for other in found)
        if findings[0].of_choice and below:
            continue  # another choice of the union came further, and says more
        if not document.is_broken((*base, *path)):
            yield _mistake(findings, document, base, model)


def explain_booleans(document: Document, base: Path, model: type[BaseModel]) -> Iterator[Mistake]:
    """The places where a number is wanted and true or false stands, which pydantic reads as 1 and 0."""
    for path in _booleans(document.get(base), ()):
        wanted = types_at(model, path)
        if wanted and set(wanted) <= {int, float, type(None)}:
            noun = "a whole number" if int in wanted else "a number"
            yield document.mistake((*base, *path), f"expected {noun}, got {document.show((*base, *path))}")


def _booleans(data: object, path: Path) -> Iterator[Path]:
    if isinstance(data, bool):
        yield path
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _booleans(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _booleans(value, (*path, index))


def _locate(details: ErrorDetails, data: Any) -> _Finding:
    """Pydantic's location as a path: the names it gives to the choices of a union are left out."""
    path: list[str | int] = []
    of_choice = False
    for position, part in enumerate(details["loc"], start=1):
        missing = position == len(details["loc"]) and details["type"] in MISSING
        if part in steps_of(data):
            data = data[part]
        elif not missing:
            of_choice = of_choice or part != "[key]"
            continue
        path.append(part)
    return _Finding(details, tuple(path), details["loc"][-1:] == ("[key]",), of_choice)


def _mistake(findings: list[_Finding], document: Document, base: Path, model: type[BaseModel]) -> Mistake:
    first = findings[0]
    path = (*base, *first.path)
    kind = first.details["type"]
    if kind in MISSING:
        return document.mistake(path[:-1], f"missing key {path[-1]!r}", at="key")
    if kind in UNKNOWN:
        suggestion = nearest(str(path[-1]), known_keys(model, first.path[:-1]))
        return document.mistake(path, f"unknown key {path[-1]!r}", suggestion, at="key")
    if first.of_key:
        return document.mistake(path, _reason(first.details), at="key")
    told = next((f.details for f in findings if _expected(f.details) is None), None)
    return _of_type(findings, path, document) if told is None else _of_value(told, path, document)


def _of_type(findings: list[_Finding], path: Path, document: Document) -> Mistake:
    """No choice of the type was right: say them all, and the name that was nearest."""
    expected = " or ".join(dict.fromkeys(str(_expected(finding.details)) for finding in findings))
    value = document.get(path)
    guess = isinstance(value, str) and path not in document.secrets
    suggestion = nearest(value, re.findall(r"'([^']*)'", expected)) if guess else None
    return document.mistake(path, f"expected {expected}, got {document.show(path)}", suggestion)


def _of_value(details: ErrorDetails, path: Path, document: Document) -> Mistake:
    """The type was right, and what the value may not be says more than what else it could have been."""
    shown = document.show(path)
    foreign = details["type"] in FOREIGN
    reason = _reason(details)
    quoted = foreign and shown in reason
    if not quoted and not isinstance(document.get(path), dict | list):
        reason = f"{reason}, got {shown}"
    return (document.foreign_mistake if foreign else document.mistake)(path, reason)


def _expected(details: ErrorDetails) -> str | None:
    if details["type"] in ("literal_error", "enum"):
        return str(details["ctx"]["expected"])
    return EXPECTED.get(details["type"])


def _reason(details: ErrorDetails) -> str:
    if details["type"] in FOREIGN:
        return str(details["ctx"]["error"])
    limit = LIMITS.get(details["type"])
    if limit is not None:
        return limit(details.get("ctx", {}))
    return details["msg"].replace("Input should be", "must be")
