"""Several endpoints as a user meets them: by configuration, through the whole chain."""

import json
from typing import Any

import pytest
from asgi_lifespan import LifespanManager

from asgi_gateway import Gateway
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import ManualClock, Upstream, behaviours, refused_url, request

RETRY = {"retry": {"attempts": 2, "backoff": {"initial": 0}}}


def settings(*urls: str, **service: Any) -> dict[str, Any]:
    data = {"endpoints": [{"url": url} for url in urls], "routes": [{"path": "/*"}], **service}
    return {"version": 1, "middleware": ["health", "gateway_headers"], "services": {"data": data}}


@pytest.mark.parametrize(
    "balance", ["least_in_flight", "round_robin", "weighted", {"consistent_hash": "header:X-User"}]
)
async def test_one_dead_endpoint_of_two_is_never_seen(balance: Any) -> None:
    async with Upstream(behaviours.answer()) as good:
        with refused_url() as dead:
            gateway = Gateway(
                settings(dead, good.url, balance=balance, middleware=[RETRY]),
                runtime=Runtime(clock=ManualClock()),
            )
            async with LifespanManager(gateway):
                answers = [
                    await request(gateway, "POST", headers=[(b"x-user", b"%d" % number)])
                    for number in range(60)
                ]
                health = json.loads((await request(gateway, path="/health")).body)
    assert {answer.status for answer in answers} == {200}
    attempts = [answer.header("x-gateway-attempts") for answer in answers]
    assert attempts.count("2") == 5  # until it was ejected
    states = [endpoint["state"] for endpoint in health["services"]["data"]["endpoints"]]
    assert states == ["ejected", "usable"]


async def test_a_breaker_outside_sees_one_outcome_a_request() -> None:
    """The endpoint that is bad is ejected, the service as a whole is well."""
    breaker = {"circuit_breaker": {"failure_threshold": 2}}
    async with Upstream(behaviours.answer(500)) as bad, Upstream(behaviours.answer()) as good:
        gateway = Gateway(settings(bad.url, good.url, middleware=[breaker, RETRY]))
        async with LifespanManager(gateway):
            assert {(await request(gateway)).status for _ in range(40)} == {200}
    assert len(bad.requests) == 5


async def test_a_service_with_one_url_has_nothing_of_it() -> None:
    gateway = Gateway(settings(url="http://127.0.0.1:1", endpoints=None))
    [proxy] = gateway._live.proxies
    assert type(proxy) is ProxyApp
    assert "endpoints" not in json.loads((await request(gateway, path="/health")).body)["services"]["data"]
