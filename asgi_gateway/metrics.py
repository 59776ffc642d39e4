"""How often something happened and how something stands, by name and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]


class Counter:
    """One number that only grows."""

    __slots__ = ("labels", "name", "value")

    def __init__(self, name: str, labels: Labels = ()) -> None:
        self.name = name
        self.labels = labels
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count `amount` more."""
        self.value += amount

    def __repr__(self) -> str:
        return f"<Counter {_text(self.name, self.labels)} {self.value}>"


class Gauge:
    """One number that goes up and down. It is read where it is known, and only when somebody asks."""

    __slots__ = ("_read", "labels", "name")

    def __init__(self, name: str, labels: Labels, read: Callable[[], float]) -> None:
        self.name = name
        self.labels = labels
        self._read = read

    @property
    def value(self) -> float:
        """What it is now."""
        return self._read()

    def __repr__(self) -> str:
        return f"<Gauge {_text(self.name, self.labels)} {self.value}>"


class Metrics:
    """Every counter and gauge of a process.

    The same name with the same labels is the same counter, always. Of gauges the one that was made last
    is read. Names follow the conventions of Prometheus: ``retries_total``. Ask for them when the chain is
    built, not for each request.
    """

    def __init__(self) -> None:
        self._counters: dict[tuple[str, Labels], Counter] = {}
        self._gauges: dict[tuple[str, Labels], Gauge] = {}
        self._shown = [self._gauges]

    def counter(self, name: str, **labels: str | None) -> Counter:
        """The counter of that name; labels that are None are left out."""
        known = _known(labels)
        return self._counters.setdefault((name, known), Counter(name, known))

    def gauge(self, name: str, read: Callable[[], float], **labels: str | None) -> Gauge:
        """A gauge of that name whose value `read` tells; labels that are None are left out."""
        known = _known(labels)
        gauge = self._gauges[name, known] = Gauge(name, known, read)
        return gauge

    def part(self) -> Metrics:
        """The same metrics for what may go, a chain: its gauges are not seen until they are shown."""
        part = Metrics()
        part._counters, part._shown = self._counters, self._shown
        return part

    def show(self, parts: Iterable[Metrics]) -> None:
        """Have the gauges of these parts seen, and of no other."""
        gauges = (part._gauges for part in parts)  # noqa: SLF001 - of the same class
        self._shown[:] = [self._gauges, *gauges]

    @property
    def counters(self) -> list[Counter]:
        """Every counter."""
        return list(self._counters.values())

    @property
    def gauges(self) -> list[Gauge]:
        """Every gauge that is to be seen."""
        return [gauge for gauges in self._shown for gauge in gauges.values()]

    def report(self) -> dict[str, list[dict[str, Any]]]:
        """All of them as plain data: ``counters`` and ``gauges``, each with name, labels and value."""
        return {"counters": [*map(_told, self.counters)], "gauges": [*map(_told, self.gauges)]}


def summed(reports: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The counters of several processes as one list: what has the same name and labels is added up."""
    sums: dict[tuple[str, Labels], dict[str, Any]] = {}
    for report in reports:
        for counter in report:
            key = counter["name"], tuple(counter["labels"].items())
            value = counter["value"] + (sums[key]["value"] if key in sums else 0)
            sums[key] = {**counter, "value": value}
    return list(sums.values())


def _known(labels: dict[str, str | None]) -> Labels:
    return tuple(sorted((label, value) for label, value in labels.items() if value is not None))


def _told(metric: Counter | Gauge) -> dict[str, Any]:
    return {"name": metric.name, "labels": dict(metric.labels), "value": metric.value}


def _text(name: str, labels: Labels) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in labels)
    return f"{name}{{{inner}}}"
