"""The files that a configuration is made of: read once, remembered, and compared with what is there now."""

from __future__ import annotations

import errno
from glob import glob
from pathlib import Path
from typing import Self


class Files:
    """Reads files and keeps what it read, which is all that a configuration hangs on but the environment.

    Comparison is by content, through the path: a symbolic link that leads elsewhere is seen, and so is a
    file that was replaced or changed within one tick of the file system's clock.
    """

    def __init__(
        self,
        contents: dict[str, bytes | None] | None = None,
        matches: dict[str, list[str]] | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        self._contents = {} if contents is None else contents
        self._matches = {} if matches is None else matches
        self._frozen = frozen

    def frozen(self) -> Self:
        """The same content for a later reader, also in another process, whatever the files say then."""
        return type(self)(self._contents, self._matches, frozen=True)

    def read(self, path: Path) -> bytes:
        """The content of a file; raises `OSError`."""
        name = str(path)
        if self._frozen:
            content = self._contents.get(name)
            if content is None:
                raise FileNotFoundError(errno.ENOENT, "No such file was read")
            return content
        if name not in self._contents:
            self._contents[name] = None
            self._contents[name] = path.read_bytes()
        content = self._contents[name]
        return path.read_bytes() if content is None else content

    def matching(self, pattern: Path) -> list[Path]:
        """The files that a pattern stands for, by name."""
        name = str(pattern)
        if name not in self._matches and not self._frozen:
            self._matches[name] = _matching(name)
        return [Path(match) for match in self._matches.get(name, ())]

    def again(self) -> Self:
        """The same files and patterns as they are now."""
        contents = {name: _content(name) for name in self._contents}
        return type(self)(contents, {name: _matching(name) for name in self._matches})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Files):
            return NotImplemented
        return self._contents == other._contents and self._matches == other._matches

    __hash__ = None  # type: ignore[assignment] # it grows

    def __repr__(self) -> str:
        return f"<Files {', '.join(self._contents)}>"


def _content(name: str) -> bytes | None:
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError):  # a name that no file can have, such as one with a NUL
        return None


def _matching(pattern: str) -> list[str]:
    try:
        return sorted(glob(pattern, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    except ValueError:  # as above
        return []
