"""Counters and gauges by name and labels."""

import re
from pathlib import Path

from asgi_gateway.metrics import Metrics, summed
from asgi_gateway.runtime import Runtime


def test_the_same_name_and_labels_are_the_same_counter() -> None:
    metrics = Metrics()
    metrics.counter("retries_total", service="ai", reason="budget").add()
    metrics.counter("retries_total", reason="budget", service="ai").add(2)
    metrics.counter("retries_total", reason="method", service="ai").add()
    assert [(counter.labels, counter.value) for counter in metrics.counters] == [
        ((("reason", "budget"), ("service", "ai")), 3),
        ((("reason", "method"), ("service", "ai")), 1),
    ]


def test_a_runtime_adds_the_service_in_whose_chain_it_is() -> None:
    runtime = Runtime()
    everywhere = runtime.counter("retries_total")
    assert everywhere.labels == ()
    assert runtime.scoped_to("ai").counter("retries_total").labels == (("service", "ai"),)
    assert runtime.scoped_to("ai").gauge("limit", lambda: 1, key=None).labels == (("service", "ai"),)
    assert runtime.counter("retries_total") is everywhere


def test_a_gauge_is_read_when_somebody_asks() -> None:
    metrics = Metrics()
    waiting = ["one"]
    gauge = metrics.gauge("waiting", lambda: len(waiting))
    waiting.append("two")
    assert gauge.value == 2
    assert metrics.report()["gauges"] == [{"name": "waiting", "labels": {}, "value": 2}]


def test_of_two_gauges_with_one_name_the_later_is_read() -> None:
    metrics = Metrics()
    metrics.gauge("limit", lambda: 1, key="path")
    metrics.gauge("limit", lambda: 2, key="path")
    assert [gauge.value for gauge in metrics.gauges] == [2]


def test_the_gauges_of_a_part_are_seen_once_it_is_shown_and_until_another_is() -> None:
    metrics = Metrics()
    metrics.gauge("own", lambda: 1)
    first, second = metrics.part(), metrics.part()
    first.gauge("limit", lambda: 2)
    second.gauge("limit", lambda: 3)
    assert [gauge.value for gauge in metrics.gauges] == [1]
    metrics.show([first])
    assert [gauge.value for gauge in metrics.gauges] == [gauge.value for gauge in second.gauges] == [1, 2]
    metrics.show([second])
    assert [gauge.value for gauge in metrics.gauges] == [1, 3]
    first.counter("retries_total").add()
    assert metrics.counter("retries_total").value == 1


def test_the_counters_of_several_processes_are_added_up() -> None:
    one, two = Metrics(), Metrics()
    one.counter("retries_total", service="ai").add(2)
    two.counter("retries_total", service="ai").add(3)
    two.counter("retries_total").add()
    together = summed(metrics.report()["counters"] for metrics in (one, two))
    assert [(counter["labels"], counter["value"]) for counter in together] == [
        ({"service": "ai"}, 5),
        ({}, 1),
    ]
    assert one.counter("retries_total", service="ai").value == 2


def test_every_counter_and_gauge_of_the_package_is_documented_and_no_other() -> None:
    root = Path(__file__).parent.parent
    page = (root / "docs" / "operations.md").read_text()
    source = "".join(file.read_text() for file in (root / "asgi_gateway").rglob("*.py"))
    for kind in ("counter", "gauge"):
        _, _, table = page.partition(f"| {kind} | labels")
        names = [row.split("|")[1] for row in table.partition("\n\n")[0].splitlines()[2:]]
        documented = {name for cell in names for name in re.findall(r"`(\w+)`", cell)}
        assert documented == set(re.findall(rf'\.{kind}\(\s*"(\w+)"', source))
