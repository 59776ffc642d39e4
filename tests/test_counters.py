"""Counters by name and labels."""

from asgi_gateway.counters import Counters
from asgi_gateway.runtime import Runtime


def test_the_same_name_and_labels_are_the_same_counter() -> None:
    counters = Counters()
    counters.counter("retries_total", service="ai", reason="budget").add()
    counters.counter("retries_total", reason="budget", service="ai").add(2)
    counters.counter("retries_total", reason="method", service="ai").add()
    assert [(counter.labels, counter.value) for counter in counters] == [
        ((("reason", "budget"), ("service", "ai")), 3),
        ((("reason", "method"), ("service", "ai")), 1),
    ]


def test_a_runtime_adds_the_service_in_whose_chain_it_is() -> None:
    runtime = Runtime()
    everywhere = runtime.counter("retries_total")
    assert everywhere.labels == ()
    assert runtime.scoped_to("ai").counter("retries_total").labels == (("service", "ai"),)
    assert runtime.counter("retries_total") is everywhere
