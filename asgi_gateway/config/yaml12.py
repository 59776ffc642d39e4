"""YAML 1.2 as a person reads it: only ``true`` and ``false`` are booleans, ``012`` is twelve.

PyYAML reads YAML 1.1, where ``on`` is true, ``012`` is ten and ``1:30`` is ninety. Its scanner and
parser serve both versions; the meaning of scalars is settled here, by the core schema of YAML 1.2.2
(section 10.3). Explicit tags are refused, so nothing in a file can ask for a Python object.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from yaml.composer import Composer
from yaml.error import MarkedYAMLError
from yaml.events import Event
from yaml.nodes import Node, ScalarNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

MAX_DEPTH = 64
MAX_DIGITS = 400

PLAIN_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"null|Null|NULL|~|"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9]+"), lambda text: int(text) if len(text) <= MAX_DIGITS else text),
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 0)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda text: float("nan")),
)
"""What a scalar without quotes may be instead of text, first match wins."""


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML as far as nodes with their positions, and no further."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise refused("tags such as !!str are not allowed", event.start_mark)
        if self._depth >= MAX_DEPTH:
            raise refused(f"nested more than {MAX_DEPTH} deep", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def compose(text: str) -> Node | None:
    """The node tree of the one document in `text`, None where it is empty; raises PyYAML's `YAMLError`."""
    return _Loader(text).get_single_node()


def refused(problem: str, mark: Any) -> MarkedYAMLError:
    """An error for what YAML allows and a configuration does not."""
    return MarkedYAMLError(problem=problem, problem_mark=mark)


def scalar_value(node: ScalarNode) -> Any:
    """What a scalar means; quoted and block scalars are text."""
    text: str = node.value
    if node.style is None:
        for pattern, convert in PLAIN_SCALARS:
            if pattern.fullmatch(text):
                return convert(text)
    return text
