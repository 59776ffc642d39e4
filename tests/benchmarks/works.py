"""The work that every proxy is given."""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks.starting import COMPLETIONS, JSON_HEADERS, PROMPT
from tests.benchmarks.wrk import Work

_LONG_PROMPT = PROMPT.replace("Hello!", "Hello! " * 300)[:2044] + '"}]}'

SMALL_POST = Work("small POST", COMPLETIONS, PROMPT, headers=JSON_HEADERS, is_completion=True)

LOAD = [
    SMALL_POST,
    Work("small GET", "/v1/models"),
    Work("2 KiB POST, 1 KiB answer", "/kilobyte", _LONG_PROMPT, headers=JSON_HEADERS),
]

CONNECTIONS = [
    replace(SMALL_POST, name=f"{count} connection{'s' * (count > 1)}", connections=count)
    for count in (1, 32, 512)
]


def _bodies(name: str, size: int, connections: int) -> list[Work]:
    return [
        Work(f"{name} down", f"/bytes/{size}", connections=connections, transferred=size),
        Work(f"{name} up", "/bytes/5", size, connections, transferred=size),
    ]


BODIES = [*_bodies("64 KiB", 2**16, 16), *_bodies("10 MiB", 10 * 2**20, 4)]
