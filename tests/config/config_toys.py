"""Middlewares for the tests of the configuration: nothing but constructors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from asgi_gateway.asgi.targets import Target
from asgi_gateway.types import PositiveSeconds, Seconds, Size, StatusSet

if TYPE_CHECKING:
    from nowhere import Unknown


@dataclass(frozen=True)
class Backoff:
    initial: PositiveSeconds = 1.0
    factor: float = 2.0


@dataclass(frozen=True)
class Named:
    name: str


class ToyMiddleware:
    """A toy.

    Nobody shows this paragraph.
    """

    def __init__(
        self,
        app: Any,
        *,
        count: Annotated[int, Field(ge=1, description="How many.")] = 3,
        wait: Annotated[Seconds, Field(description="How long.")] = 90.0,
        size: Size = 65536,
        statuses: StatusSet = frozenset({500, 502, 503}),
        mode: Literal["fast", "slow"] = "fast",
        names: str | list[str] = "x",
        deep: str | list[str | Named] | Named = "x",
        either: list[str] | Literal["all"] = "all",
        choice: list[str] | Size = 1024,
        ratio: float | None = None,
        flag: bool = False,
        backoff: Backoff = Backoff(),
        runtime: Any = None,
    ) -> None:
        self.app = app


class NeedyMiddleware:
    def __init__(self, app: Any, limit: int, anything: Unknown = None) -> None:
        self.app = app


@dataclass(frozen=True)
class Lead:
    to: Target


class LeadingMiddleware:
    def __init__(self, app: Any, *, to: list[Target] = [], deep: Lead | None = None) -> None:  # noqa: B006 - never changed
        self.app = app


NOTHING = object()


def _refuse(value: str) -> str:
    raise ValueError(f"I do not like {value}")


class FussyMiddleware:
    def __init__(self, app: Any, secret: Annotated[str, AfterValidator(_refuse)] = "x") -> None:
        self.app = app


def _fail(value: str) -> str:
    raise KeyError(value)


class FailingMiddleware:
    def __init__(self, app: Any, value: Annotated[str, AfterValidator(_fail)] = "x") -> None:
        self.app = app


class OpaqueMiddleware:
    def __init__(self, app: Any, target: Any = NOTHING, **others: Any) -> None:
        self.app = app


NOT_CALLABLE = 3
