from collections.abc import Callable
from typing import Any

import pytest
from least_options import least

from asgi_gateway.config import Config, warnings_of
from asgi_gateway.config.orders import ORDERS
from asgi_gateway.registry import Registry

Parse = Callable[..., Config]


def config(parse: Parse, chain: list[Any], service: list[Any] | None = None, **options: Any) -> Config:
    services = {"x": {"url": "http://x", "routes": [{"path": "/*"}], "middleware": service or [], **options}}
    return parse({"version": 1, "middleware": chain, "services": services})


def warned(parse: Parse, chain: list[Any], service: list[Any] | None = None, **options: Any) -> list[str]:
    return [warning.message for warning in warnings_of(config(parse, chain, service, **options))]


def test_every_rule_names_middlewares_that_exist() -> None:
    names = {name for order in ORDERS for name in (order.outer, order.inner)}
    assert names <= Registry(()).built_in


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: f"{order.outer}-{order.inner}")
def test_every_rule_warns_one_way_and_not_the_other(parse: Parse, order: Any) -> None:
    told = f"{order.outer} stands outside {order.inner} (middleware[1]): {order.reason}"
    outer, inner = least(order.outer), least(order.inner)
    assert told in warned(parse, [outer, inner])
    if order.outer != order.inner:
        assert told not in warned(parse, [inner, outer])
    assert told not in warned(parse, [outer])


def test_a_rule_holds_from_the_global_chain_into_the_services(parse: Parse) -> None:
    told = warned(parse, ["retry"], ["circuit_breaker"])
    assert told == [
        (
            "retry stands outside circuit_breaker (services.x.middleware[0]): "
            "every attempt counts at the breaker, so one request may open it"
        )
    ]


def test_services_do_not_stand_outside_each_other(parse: Parse) -> None:
    services = {
        name: {"url": "http://x", "routes": [{"path": f"/{name}"}], "middleware": [name]}
        for name in ("retry", "circuit_breaker")
    }
    assert warnings_of(parse({"version": 1, "services": services})) == []


def test_another_one_further_out_makes_an_order_good(parse: Parse) -> None:
    assert warned(parse, ["circuit_breaker", "retry", "circuit_breaker"]) == []


def test_a_limit_by_something_else_needs_no_address(parse: Parse) -> None:
    assert warned(parse, [{"rate_limit": {"key": "path"}}, "client_address"]) == []
    assert warned(parse, [{"rate_limit": {"key": ["path", "client_address"]}}, "client_address"]) != []


def test_a_limit_that_exempts_health_may_stand_outside_it(parse: Parse) -> None:
    assert warned(parse, [{"rate_limit": {"exempt": ["/health/*"]}}, "health"]) == []
    assert warned(parse, [{"rate_limit": {"exempt": ["/health"]}}, "health"]) != []


def test_a_warning_stands_where_the_outer_one_is_written(parse: Parse) -> None:
    text = "version: 1\nmiddleware:\n  - rate_limit\n  - access_log\n"
    (warning,) = warnings_of(parse(text))
    assert str(warning) == (
        "g.yaml:3:5: middleware[0]: rate_limit stands outside access_log (4:5): what it refuses is not logged"
    )


def test_an_order_in_the_global_chain_is_told_once(parse: Parse) -> None:
    services = {n: {"url": "http://x", "routes": [{"path": f"/{n}"}]} for n in ("one", "two", "three")}
    chain = ["rate_limit", "access_log"]
    assert len(warnings_of(parse({"version": 1, "middleware": chain, "services": services}))) == 1


def test_one_breaker_for_several_services_is_told(parse: Parse) -> None:
    services = {n: {"url": "http://x", "routes": [{"path": f"/{n}"}]} for n in ("one", "two")}
    (warning,) = warnings_of(parse({"version": 1, "middleware": ["circuit_breaker"], "services": services}))
    assert "one breaker for all services" in warning.message
    assert warned(parse, ["circuit_breaker"]) == []


@pytest.mark.parametrize("name", ["rate_limit", "concurrency_limit"])
@pytest.mark.parametrize("key", ["service", ["path", "service"]])
def test_no_service_is_known_before_the_router(parse: Parse, name: str, key: str | list[str]) -> None:
    limit = {name: {"key": key}}
    assert any("key: service" in told for told in warned(parse, [limit]))
    assert warned(parse, [], [limit]) == []


@pytest.mark.parametrize(("total", "warns"), [("10s", True), ("30s", True), ("31s", False)])
def test_a_timer_that_cannot_run_out(parse: Parse, total: str, warns: bool) -> None:
    chain = [{"timeout": {"total": total}}]
    told = warned(parse, [], chain, timeouts={"first_byte": "30s"})
    assert bool(told) == warns
    assert all(f"timeout (services.x.middleware[0], total {total}) ends the request" in text for text in told)


@pytest.mark.parametrize("inner", ["retry", "circuit_breaker", "rate_limit"])
def test_a_hedge_stands_innermost(parse: Parse, inner: str) -> None:
    options = {"rate_limit": {"limit": "1/second"}} if inner == "rate_limit" else inner
    (told,) = warned(parse, ["hedge"], [options])
    assert told.startswith(f"hedge stands outside {inner}")
    assert warned(parse, [], [options, "hedge"]) == []


def test_a_timer_that_nobody_set_is_nobodys_mistake(parse: Parse) -> None:
    assert warned(parse, [], [{"timeout": {"total": "3s"}}], timeouts={"idle": "60s"}) == []


@pytest.mark.parametrize(("total", "possible"), [("500ms", 1), ("1s", 1), ("2s", 2), ("3s", 2), ("7s", 3)])
def test_attempts_that_the_deadline_leaves_no_time_for(parse: Parse, total: str, possible: int) -> None:
    retry = {"retry": {"attempts": 4, "backoff": {"initial": "1s", "factor": 2}}}
    (told,) = warned(parse, [{"timeout": {"total": total}}], [retry])
    assert told.startswith(f"only {possible} of 4 attempts are possible: the last would begin after 7s")


def test_attempts_that_fit_are_not_told(parse: Parse) -> None:
    retry = {"retry": {"attempts": 4, "backoff": {"initial": "1s", "factor": 2}}}
    assert warned(parse, [], [{"timeout": {"total": "7.5s"}}, retry]) == []


def test_a_route_behind_the_health_page_is_told(parse: Parse) -> None:
    told = warned(parse, ["health"], routes=[{"path": "/health/live"}, {"path": "/*"}])
    assert told == ["health (middleware[0]) answers /health, /health/live, /health/ready before this route"]
