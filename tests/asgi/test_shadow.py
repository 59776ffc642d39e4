"""What a policy in shadow mode tells of a request that it would have refused."""

import logging

import pytest

from asgi_gateway.asgi.shadow import Shadow
from asgi_gateway.context import Exchange
from asgi_gateway.runtime import Runtime


def test_it_is_counted_logged_and_told_to_the_exchange(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(service="ai")
    shadow = Shadow("rate_limit", runtime)
    exchange = Exchange()
    with caplog.at_level(logging.INFO, "asgi_gateway.shadow"):
        shadow.would_reject(exchange)
    assert exchange.would_reject == ("rate_limit",)
    (counter,) = runtime.metrics.counters
    assert (counter.name, counter.value) == ("shadow_rejected_total", 1)
    assert dict(counter.labels) == {"service": "ai", "middleware": "rate_limit"}
    (record,) = caplog.records
    assert record.getMessage() == "rate_limit would have refused a request"
    assert vars(record)["service"] == "ai"
