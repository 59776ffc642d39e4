"""One proxy under measurement."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a proxy starts: a directory for its files, its own port, the service's port."""

    directory: Path
    port: int
    service: int

    def write(self, name: str, text: str) -> str:
        """A file of this proxy's own; its path."""
        path = self.directory / f"{self.port}-{name}"
        path.write_text(text)
        return str(path)


def _nothing_missing() -> bool:
    return False


@dataclass(frozen=True)
class Peer:
    """One proxy.

    `command` starts it, `install` is the line that brings it here when it is `missing`. `prefix` stands
    before the service's paths. One that `speaks_json_only` takes chat completions and no other work.
    """

    name: str
    command: Callable[[Place], list[str]]
    install: str = ""
    missing: Callable[[], bool] = _nothing_missing
    prefix: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    service_env: str = ""  # an environment variable that is given the service's URL
    headers: Callable[[Place], Mapping[str, str]] = lambda _place: {}
    speaks_json_only: bool = False


def no_program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is None


def no_module(name: str) -> Callable[[], bool]:
    return lambda: find_spec(name) is None


def no_file(path: Path) -> Callable[[], bool]:
    return lambda: not path.exists()
