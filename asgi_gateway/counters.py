"""How often something happened, by name and labels: what metrics are made of."""

from __future__ import annotations

from collections.abc import Iterator


class Counter:
    """One number that only grows."""

    __slots__ = ("labels", "name", "value")

    def __init__(self, name: str, labels: tuple[tuple[str, str], ...] = ()) -> None:
        self.name = name
        self.labels = labels
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count `amount` more."""
        self.value += amount

    def __repr__(self) -> str:
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels)
        return f"<Counter {self.name}{{{labels}}} {self.value}>"


class Counters:
    """Every counter of a process. The same name with the same labels is the same counter, always.

    Names follow the conventions of Prometheus: ``retries_total``. Ask for a counter when the chain is
    built, not for each request.
    """

    def __init__(self) -> None:
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], Counter] = {}

    def counter(self, name: str, **labels: str | None) -> Counter:
        """The counter of that name; labels that are None are left out."""
        known = tuple(sorted((label, value) for label, value in labels.items() if value is not None))
        return self._counters.setdefault((name, known), Counter(name, known))

    def __iter__(self) -> Iterator[Counter]:
        return iter(list(self._counters.values()))
