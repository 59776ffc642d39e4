"""What is wrong with a configuration, said so that a person can go and mend it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands: ``("services", "ai", "routes", 0)``."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend: where it is written, what is wrong, and the nearest right name if one is near.

    `line` and `column` count from 1; they are None where the configuration was not read from text.
    """

    file: str
    line: int | None
    column: int | None
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        hint = f" (did you mean {self.suggestion!r}?)" if self.suggestion else ""
        return ": ".join(part for part in (place, self.path, self.message + hint) if part)


class ConfigError(ValueError):
    """A configuration that cannot be used; `mistakes` holds every reason, in the order of each file."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = sorted(mistakes, key=lambda m: (m.file, m.line or 0, m.column or 0))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


def write_path(path: Path) -> str:
    """A path as people write it: ``services.ai.routes[0]``."""
    return "".join(_step(part) for part in path).removeprefix(".")


def _step(part: str | int) -> str:
    if isinstance(part, str) and re.fullmatch(r"[\w-]+", part):
        return f".{part}"
    return f"[{part!r}]"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, if any is near."""
    matches = get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.6)
    return matches[0] if matches else None
