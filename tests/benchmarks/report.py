"""What was measured, as Markdown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.bars import BARS, layer_us
from tests.benchmarks.peers import LAYERED, Peer
from tests.benchmarks.peers.envoy import ENVOY
from tests.benchmarks.tables import number, table

Rows = Mapping[str, Mapping[str, float]]

BEGIN, END = "<!-- figures: written by python -m tests.benchmarks -->", "<!-- end of figures -->"

# Heading, key of a row; a ratio is to Envoy's row.
_LOAD = [
    ("requests/s", "requests_per_second"),
    ("of Envoy", "requests_per_second:ratio"),
    ("CPU us", "cpu_us"),
    ("of Envoy's", "cpu_us:ratio"),
    ("p50 added ms", "p50_added_ms"),
    ("p99 added ms", "p99_added_ms"),
    ("MiB", "memory_mib"),
    ("errors", "errors"),
]
_START = [("start s", "start_seconds")]
_BODIES = [("MiB/s", "mib_per_second"), ("of Envoy", "mib_per_second:ratio"), *_LOAD[2:]]
_EVENTS = [
    ("first byte added us", "first_byte_added_us"),
    ("event added us", "event_added_us"),
    ("of Envoy's", "event_added_us:ratio"),
    ("event p99 added us", "event_p99_added_us"),
]
_IDLE = [
    ("asked for", "streams"),
    ("served", "served"),
    ("KiB each", "kib_each"),
    ("small requests/s", "small_requests"),
    ("beside them", "small_requests_beside"),
    ("of without", "beside_of_alone"),
    ("by CPU time", "beside_of_alone_by_cpu"),
]
_WEIGHT = [
    ("start s", "start_seconds"),
    ("MiB at rest", "memory_mib"),
    ("1 GiB down adds MiB", "down_memory_mib"),
    ("up adds MiB", "up_memory_mib"),
    ("down MiB/s", "down_mib_per_second"),
    ("up MiB/s", "up_mib_per_second"),
    ("CPU s down", "down_cpu_seconds"),
    ("CPU s up", "up_cpu_seconds"),
]
_COLUMNS = {
    "load": [*_LOAD, *_START],
    "bodies": _BODIES,
    "connections": _LOAD,
    "layers": _LOAD,
    "events_awake": _EVENTS[:-1],  # one in a hundred waits for the scheduler to send such a loop away
    "events": _EVENTS,
    "idle": _IDLE,
    "weight": _WEIGHT,
    "import": [("import s", "import_seconds")],
}
_TITLES = {
    "load": "{}",
    "bodies": "{}",
    "connections": "small POST, {}",
    "layers": "pass-through layers, {}",
    "events_awake": "event streams, cores kept awake",
    "events": "event streams, cores asleep between the events",
    "idle": "open idle streams",
    "weight": "weight",
    "import": "import",
}


def markdown(figures: Mapping[str, Any], parts: Sequence[str]) -> str:
    """The tables of the parts, then the bars."""
    blocks = []
    for part in (part for part in parts if part in figures):
        blocks += [_block(part, question, rows) for question, rows in figures[part]["results"].items()]
        if part == "layers":
            blocks.append(_layers(figures))
    return "\n\n".join([*blocks, _bars(figures), _conditions(figures, parts)]) + "\n"


def peers(all_peers: Sequence[Peer]) -> str:
    """Who is here, and how to install who is not."""
    rows = [(peer.name, "here" if not peer.missing() else peer.install) for peer in all_peers]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {state}" for name, state in rows)


def into_page(page: Path, text: str, plots: Sequence[Path] = ()) -> None:
    """Put the plots and the text between the two marks of the page."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for figures: {BEGIN} ... {END}")
    images = "".join(f"![{plot.stem}]({os.path.relpath(plot, page.parent)})\n\n" for plot in plots)
    page.write_text(f"{before}{BEGIN}\n\n{images}{text}\n{END}{after}")


def _block(part: str, question: str, rows: Rows) -> str:
    key = question if question in _COLUMNS else part
    return f"### {_sentence(_TITLES[key].format(question))}\n\n{_table(_COLUMNS[key], rows)}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _table(columns: Sequence[tuple[str, str]], rows: Rows) -> str:
    base = rows.get(ENVOY.name, {})
    shown = [column for column in columns if any(_cell(row, base, column[1]) for row in rows.values())]
    return table(
        ["", *(title for title, _ in shown)],
        [
            [name, *(_cell(row, base, key) for _, key in shown)]
            for name, row in sorted(rows.items(), key=_by_speed)
        ],
    )


def _by_speed(item: tuple[str, Mapping[str, float]]) -> float:
    return -item[1].get("requests_per_second", 0)


def _cell(row: Mapping[str, float], base: Mapping[str, float], key: str) -> str:
    key, _, ratio = key.partition(":")
    if key not in row or (key == "cpu_us" and not row[key]) or (key == "errors" and not row[key]):
        return ""
    if not ratio:
        return number(row[key])
    return number(row[key] / base[key]) if base.get(key) else ""


def _layers(figures: Mapping[str, Any]) -> str:
    counts = [count for peer in LAYERED[1:] if (count := int(peer.name.split()[1]))]
    rows = []
    for count in counts:
        try:
            rows.append([str(count), number(layer_us(figures, count))])
        except KeyError:
            continue
    return table(["layers", "CPU us of each"], rows)


def _bars(figures: Mapping[str, Any]) -> str:
    rows = []
    for bar in BARS:
        value = bar.value(figures)
        limit = f"{'at least' if bar.at_least else 'at most'} {number(bar.limit, bar.unit)}"
        met = "not measured" if value is None else "yes" if bar.met(value) else "no"
        rows.append([bar.name, limit, number(value, bar.unit), number(bar.cpu_value(figures)), met])
    return f"### Bars\n\n{table(['', 'bar', 'measured', 'by CPU time', 'met'], rows)}"


def _conditions(figures: Mapping[str, Any], parts: Sequence[str]) -> str:
    said: dict[str, list[str]] = {}
    for part in (part for part in parts if part in figures):
        seen = figures[part]["conditions"]
        took = seen["options"]
        versions = ", ".join(f"{name} {version}" for name, version in seen["versions"].items())
        text = (
            f"{seen['day']}, {took['rounds']} rounds of {took['seconds']} s, Python {seen['python']}, "
            f"{seen['cores']} cores of {seen['processor']}; {versions}."
        )
        said.setdefault(text, []).append(part)
    return "\n\n".join(f"{', '.join(named)}: {text}" for text, named in said.items())
