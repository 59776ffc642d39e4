"""The bars that the gateway has to clear, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.peers.classic import HAPROXY
from tests.benchmarks.peers.envoy import ENVOY, ENVOY_POLICIES
from tests.benchmarks.peers.libraries import AIOHTTP, HTTPX
from tests.benchmarks.peers.model_gateways import LITELLM_PROXY, PORTKEY
from tests.benchmarks.peers.ours import BARE, SOURCE_BARE, SOURCE_WHOLE, WHOLE, layered
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.works import SMALL_POST

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """`measure` finds the value in the figures; it raises KeyError where that was not measured."""

    name: str
    limit: float
    measure: Callable[[Figures], float]
    at_least: bool = True
    unit: str = ""
    by_cpu: Callable[[Figures], float] | None = None  # the same ratio in CPU time, which drifts less

    def value(self, figures: Figures) -> float | None:
        return _or_none(self.measure, figures)

    def cpu_value(self, figures: Figures) -> float | None:
        return _or_none(self.by_cpu, figures) if self.by_cpu else None

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _or_none(measure: Callable[[Figures], float], figures: Figures) -> float | None:
    try:
        return measure(figures)
    except KeyError:
        return None


def _of(figures: Figures, part: str, question: str, peer: Peer, key: str) -> float:
    return figures[part]["results"][question][peer.name][key]


def _small_post(peer: Peer, key: str) -> Callable[[Figures], float]:
    return lambda figures: _of(figures, "load", SMALL_POST.name, peer, key)


def _speed(name: str, ours: Peer, theirs: Peer, limit: float) -> Bar:
    rate, cpu = "requests_per_second", "cpu_us"
    return Bar(
        name,
        limit,
        lambda figures: _small_post(ours, rate)(figures) / _small_post(theirs, rate)(figures),
        by_cpu=lambda figures: _small_post(theirs, cpu)(figures) / _small_post(ours, cpu)(figures),
    )


def _p99(whole: Peer) -> Callable[[Figures], float]:
    ours, theirs = _small_post(whole, "p99_ms"), _small_post(ENVOY_POLICIES, "p99_ms")
    return lambda figures: ours(figures) / theirs(figures)


def _idle(key: str, whole: Peer) -> Callable[[Figures], float]:
    return lambda figures: _of(figures, "streams", "idle", whole, key)


def _event(question: str, whole: Peer) -> Callable[[Figures], float]:
    return lambda figures: _of(figures, "streams", question, whole, "event_added_us")


def _served(figures: Figures) -> float:
    return _idle("served", WHOLE)(figures) / _idle("streams", WHOLE)(figures)


def _gib_memory(figures: Figures) -> float:
    keys = ("down_memory_mib", "up_memory_mib")
    return (
        max(_of(figures, "weight", "weight", peer, key) for peer in (BARE, WHOLE) for key in keys) * 1.048576
    )


def _gib(template: str, *, inverted: bool = False) -> Callable[[Figures], float]:
    def slower_way(figures: Figures) -> float:
        ratios = []
        for way in ("down", "up"):
            ours, theirs = (
                _of(figures, "weight", "weight", peer, template.format(way)) for peer in (WHOLE, HAPROXY)
            )
            ratios.append(theirs / max(ours, 1e-9) if inverted else ours / theirs)
        return min(ratios)

    return slower_way


def layer_us(figures: Figures, layers: int) -> float:
    """What each of so many pass-through layers costs in CPU time."""
    without, with_them = (
        _of(figures, "layers", SMALL_POST.name, peer, "cpu_us") for peer in (SOURCE_BARE, layered(layers))
    )
    return (with_them - without) / layers


def _bars_of(bare: Peer, whole: Peer, how: str = "") -> list[Bar]:
    """Those that the gateway as it is installed is held to, and the one that is not compiled as well."""
    return [
        _speed(f"bare{how}, of Envoy", bare, ENVOY, 0.8),
        _speed(f"bare{how}, of a plain aiohttp proxy", bare, AIOHTTP, 2.2),
        _speed(f"bare{how}, of a plain httpx proxy", bare, HTTPX, 25),
        _speed(f"whole chain{how}, of Envoy with the same policies", whole, ENVOY_POLICIES, 0.45),
        _speed(f"whole chain{how}, of LiteLLM", whole, LITELLM_PROXY, 60),
        _speed(f"whole chain{how}, of Portkey", whole, PORTKEY, 8),
        _speed(f"whole chain{how}, of bare", whole, bare, 0.4),
        Bar(f"p99 of the whole chain{how}, of Envoy's with policies", 2.5, _p99(whole), at_least=False),
        Bar(
            f"added to an event, whole chain{how}, cores kept awake",
            80,
            _event("events_awake", whole),
            at_least=False,
            unit="us",
        ),
        Bar(
            f"added to an event, whole chain{how}, cores asleep in between",
            80,
            _event("events", whole),
            at_least=False,
            unit="us",
        ),
        Bar(
            f"memory of an open stream, whole chain{how}",
            20,
            _idle("kib_each", whole),
            at_least=False,
            unit="KiB",
        ),
    ]


BARS = [
    *_bars_of(BARE, WHOLE),
    *_bars_of(SOURCE_BARE, SOURCE_WHOLE, ", not compiled"),
    Bar("open streams served, of those asked for", 1, _served),
    Bar(
        "small requests beside open streams, of without",
        0.8,
        _idle("beside_of_alone", WHOLE),
        by_cpu=_idle("beside_of_alone_by_cpu", WHOLE),
    ),
    Bar("memory that 1 GiB up or down adds", 20, _gib_memory, at_least=False, unit="MB"),
    Bar(
        "1 GiB up and down, the slower, of HAProxy",
        0.7,
        _gib("{}_mib_per_second"),
        by_cpu=_gib("{}_cpu_seconds", inverted=True),
    ),
    Bar(
        "CPU time of each of 10 pass-through layers",
        3,
        lambda figures: layer_us(figures, 10),
        at_least=False,
        unit="us",
    ),
    Bar(
        "start to the first answer, whole chain",
        0.6,
        lambda figures: _of(figures, "weight", "weight", WHOLE, "start_seconds"),
        at_least=False,
        unit="s",
    ),
]
