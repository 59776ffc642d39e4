"""The figures, drawn: small SVG files for the documentation. Needs matplotlib, the extra `benchmarks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.peers import BARE, WHOLE
from tests.benchmarks.peers.envoy import ENVOY, ENVOY_POLICIES
from tests.benchmarks.tables import number
from tests.benchmarks.works import CONNECTIONS, SMALL_POST

Figures = Mapping[str, Any]
Rows = Mapping[str, Mapping[str, float]]

_OURS, _THEIRS = "#0b6e99", "#b8bfc6"
# Text stays text: smaller, and read in the reader's own font. Equal figures give equal files.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "asgi_gateway", "font.size": 9}


def draw(figures: Figures, directory: Path) -> list[Path]:
    """One file a question, of those that were measured."""
    drawn = []
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for name, (part, question, plot) in _PLOTS.items():
            rows = figures.get(part, {}).get("results", {})
            if question and question not in rows:
                continue
            if rows:
                drawn.append(directory / f"{name}.svg")
                plot(rows[question] if question else rows, drawn[-1])
    return drawn


def _load(rows: Rows, path: Path) -> None:
    whose, base = _base(rows)
    values = {
        name: row["requests_per_second"] / base["requests_per_second"]
        for name, row in rows.items()
        if name != "direct"
    }
    _bars(values, f"requests a second, of {whose}'s", path, logarithmic=True)


def _base(rows: Rows) -> tuple[str, Mapping[str, float]]:
    """Whose speed is 1: Envoy's where it was measured, else the next best."""
    for name, whose in ((ENVOY.name, "Envoy"), (BARE.name, "the bare proxy")):
        if name in rows:
            return whose, rows[name]
    return "the service", rows["direct"]


def _events(rows: Rows, path: Path) -> None:
    values = {name: row["event_added_us"] for name, row in rows.items() if name != "direct"}
    _bars(values, "added to one event at the median, microseconds, cores kept awake", path)


def _idle(rows: Rows, path: Path) -> None:
    _bars({name: row["kib_each"] for name, row in rows.items()}, "memory of an open idle stream, KiB", path)


def _bars(values: Mapping[str, float], label: str, path: Path, *, logarithmic: bool = False) -> None:
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.26 * len(ordered)))
    colours = [_OURS if name.startswith("asgi_gateway") else _THEIRS for name, _ in ordered]
    bars = axes.barh([name for name, _ in ordered], [value for _, value in ordered], color=colours)
    axes.bar_label(bars, [number(value) for _, value in ordered], padding=3)
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    if logarithmic:
        axes.set_xscale("log")
    _save(figure, axes, path)


def _connections(works: Mapping[str, Rows], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3))
    whose, base = _base(works[f"{SMALL_POST.connections} connections"])
    for peer in (ENVOY, ENVOY_POLICIES, BARE, WHOLE):
        points = [
            (
                work.connections,
                works[work.name][peer.name]["requests_per_second"] / base["requests_per_second"],
            )
            for work in CONNECTIONS
            if peer.name in works.get(work.name, {})
        ]
        if points:
            line = "-" if peer in (BARE, WHOLE) else "--"
            axes.plot(*zip(*points, strict=True), line, marker="o", label=peer.name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(
        [work.connections for work in CONNECTIONS], [str(work.connections) for work in CONNECTIONS]
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_ylabel(f"requests a second, of {whose}'s\nat {SMALL_POST.connections} connections")
    if axes.lines:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, axes, path)


def _save(figure: Any, axes: Axes, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


_PLOTS: dict[str, tuple[str, str, Callable[[Any, Path], None]]] = {
    "load": ("load", SMALL_POST.name, _load),
    "connections": ("connections", "", _connections),
    "events": ("streams", "events_awake", _events),
    "idle": ("streams", "idle", _idle),
}
