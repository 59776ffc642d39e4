"""A configuration as read: plain data, and for every value where it stands and whether it is secret."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from yaml.error import Mark
from yaml.nodes import Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from asgi_gateway.config.interpolation import Interpolation
from asgi_gateway.config.mistakes import Mistake, Path, write_path
from asgi_gateway.config.yaml12 import compose, refused, scalar_value

MAX_VALUES = 200_000
MASK = "***"

_USERINFO = re.compile(r"(?<=://)\S*@")


@dataclass
class Document:
    """The data of a configuration and the knowledge of where each value came from.

    Documents compare equal: where something is written is no part of what it says.
    """

    file: str = field(default="<config>", compare=False)
    data: Any = field(default=None, compare=False, repr=False)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    expressions: dict[Path, str] = field(default_factory=dict, compare=False, repr=False)
    secrets: set[Path] = field(default_factory=set, compare=False, repr=False)
    broken: set[Path] = field(default_factory=set, compare=False, repr=False)
    mistakes: list[Mistake] = field(default_factory=list, compare=False, repr=False)
    origins: dict[Path, str] = field(default_factory=dict, compare=False, repr=False)
    """Which file the services come from that do not stand in `file`."""

    def mistake(
        self,
        path: Path,
        message: str,
        suggestion: str | None = None,
        *,
        at: Literal["key", "value"] = "value",
    ) -> Mistake:
        """A mistake at the place of a key or of a value, or else of what holds it."""
        line, column = self._place(path, at)
        return Mistake(self._file_of(path), line, column, write_path(path), message, suggestion)

    def take(self, services: set[Path], part: Document) -> None:
        """Know what `part` knows of `services`, which are given by their paths."""
        self.origins |= dict.fromkeys(services, part.file)
        self.keys |= {path: place for path, place in part.keys.items() if path[:2] in services}
        self.values |= {path: place for path, place in part.values.items() if path[:2] in services}
        self.expressions |= {path: text for path, text in part.expressions.items() if path[:2] in services}
        self.secrets |= {path for path in part.secrets if path[:2] in services}
        self.broken |= {path for path in part.broken if path[:2] in services}

    def _file_of(self, path: Path) -> str:
        return self.origins.get(path[:2], self.file)

    def foreign_mistake(self, path: Path, reason: str) -> Mistake:
        """A mistake whose reason is in words that are not ours, and so may quote any value at `path`."""
        if self._holds_secret(path):
            reason = "is not accepted; the reason is not shown, as it may quote a secret"
        return self.mistake(path, mask_userinfo(" ".join(reason.split())))

    def _place(self, path: Path, at: Literal["key", "value"]) -> tuple[int, int] | tuple[None, None]:
        first, second = (self.keys, self.values) if at == "key" else (self.values, self.keys)
        for length in range(len(path), -1, -1):
            place = first.get(path[:length]) or second.get(path[:length])
            if place is not None:
                return place
        return None, None

    def place(self, path: Path, *, with_file: bool = False) -> str:
        """``line:column`` of a key or list item, for messages that name two places.

        The file is said as well where there are several.
        """
        line, column = self._place(path, "key")
        if not line:
            return write_path(path)
        return f"{self._file_of(path)}:{line}:{column}" if with_file or self.origins else f"{line}:{column}"

    def get(self, path: Path) -> Any:
        """The data at a path; None where there is none."""
        value = self.data
        for part in path:
            if part not in steps_of(value):
                return None
            value = value[part]
        return value

    def show(self, path: Path) -> str:
        """The value at a path, short and safe to print."""
        value = self.get(path)
        if path in self.secrets:
            return MASK
        if isinstance(value, Mapping):
            return "a mapping"
        if isinstance(value, list):
            return "a list"
        if value is None or isinstance(value, bool):
            return {None: "nothing", True: "true", False: "false"}[value]
        text = repr(mask_userinfo(value) if isinstance(value, str) else value)
        return text if len(text) <= 80 else text[:60] + "..." + text[-1]

    def _holds_secret(self, path: Path) -> bool:
        return any(secret[: len(path)] == path for secret in self.secrets)

    def is_broken(self, path: Path) -> bool:
        """Whether a mistake already explains whatever else is wrong at a path."""
        return any(b[: len(path)] == path or path[: len(b)] == b for b in self.broken)


def steps_of(value: Any) -> Collection[str | int]:
    """The keys or indices that lead on from a value."""
    if isinstance(value, dict):
        return value
    return range(len(value)) if isinstance(value, list) else ()


def mask_userinfo(text: str) -> str:
    """A text with the user and password of every URL in it masked, malformed URLs too."""
    return _USERINFO.sub(MASK + "@", text)


def read_text(text: str, file: str, interpolate: Interpolation) -> Document:
    """The document in a YAML text. Its `mistakes` say what could not be read."""
    reader = _Reader(file, interpolate)
    try:
        node = compose(text)
        reader.document.data = None if node is None else reader.node(node, ())
    except yaml.YAMLError as error:
        line, column = _error_place(error, text)
        reader.document.mistakes[:] = [Mistake(file, line, column, "", _explain(error, text))]
    return reader.document


def read_mapping(mapping: Mapping[str, Any], file: str, interpolate: Interpolation) -> Document:
    """The document of data that was not read from text; it has no positions."""
    reader = _Reader(file, interpolate)
    reader.document.data = reader.plain(mapping, ())
    return reader.document


class _Reader:
    """Walks a configuration once, from nodes or from data, and notes what it meets."""

    def __init__(self, file: str, interpolate: Interpolation) -> None:
        self.document = Document(file)
        self._interpolate = interpolate
        self._open: list[Node] = []
        self._count = 0

    def node(self, node: Node, path: Path) -> Any:
        self.document.values[path] = _place(node.start_mark)
        self._count += 1
        if node in self._open:
            raise refused("an alias stands inside its own anchor", node.start_mark)
        if self._count > MAX_VALUES:
            raise refused(f"more than {MAX_VALUES} values, aliases counted each time", node.start_mark)
        if isinstance(node, ScalarNode):
            return self._scalar(scalar_value(node), path)
        self._open.append(node)
        try:
            if isinstance(node, SequenceNode):
                return [self.node(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: Node, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._note(path, "a key must be plain text", _place(key.start_mark))
            elif key.value in data:
                first = self.document.place((*path, key.value))
                message = f"duplicate key {key.value!r}, first written at {first}"
                self._note((*path, key.value), message, _place(key.start_mark))
            elif key.value == "<<" and key.style is None:
                self._note((*path, "<<"), "merge keys (<<) are not supported", _place(key.start_mark))
            else:
                self.document.keys[(*path, key.value)] = _place(key.start_mark)
                data[key.value] = self.node(value, (*path, key.value))
        return data

    def plain(self, data: Any, path: Path) -> Any:
        if isinstance(data, Mapping):
            return {str(key): self.plain(value, (*path, str(key))) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.plain(item, (*path, index)) for index, item in enumerate(data)]
        return self._scalar(data, path)

    def _scalar(self, value: Any, path: Path) -> Any:
        if not isinstance(value, str) or "${" not in value:
            return value
        result = self._interpolate(value)
        for message in result.mistakes:
            self.document.mistakes.append(self.document.mistake(path, message))
            self.document.broken.add(path)
        if result.secret:
            self.document.secrets.add(path)
        self.document.expressions[path] = result.shown
        return result.value

    def _note(self, path: Path, message: str, place: tuple[int, int]) -> None:
        mistake = Mistake(self.document.file, *place, write_path(path), message)
        self.document.mistakes.append(mistake)


def _place(mark: Mark) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _error_place(error: yaml.YAMLError, text: str) -> tuple[int, int] | tuple[None, None]:
    if isinstance(error, ReaderError):
        before = text[: error.position]
        return before.count("\n") + 1, len(before) - before.rfind("\n")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return _place(mark) if mark else (None, None)


def _explain(error: yaml.YAMLError, text: str) -> str:
    if isinstance(error, ReaderError):
        return f"not valid YAML: the character {chr(error.character)!r} is not allowed"
    mark = getattr(error, "problem_mark", None)
    message = f"not valid YAML: {getattr(error, 'problem', None) or error}"
    if mark is not None and "${" in text[: mark.index + 1].rpartition("\n")[2]:
        message += "; inside { } and [ ], put ${...} in quotes"
    return message
