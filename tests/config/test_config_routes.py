from collections.abc import Callable

import pytest

from asgi_gateway.config import Config, Route
from asgi_gateway.config.routes import clashes

Mistakes = Callable[..., list[str]]


def clash(*routes: Route) -> list[tuple[int, int]]:
    found = clashes(((index,), route) for index, route in enumerate(routes))
    return [(int(later[0]), int(earlier[0])) for later, earlier in found]


@pytest.mark.parametrize(
    "routes",
    [
        (Route(path="/a"), Route(path="/a")),
        (Route(path="/a/*"), Route(path="/a/*")),
        (Route(path="/a", host="x"), Route(path="/a", host="X.")),
        (Route(path="/a", methods=frozenset({"GET", "PUT"})), Route(path="/a", methods=frozenset({"PUT"}))),
    ],
)
def test_two_routes_for_the_same_requests_clash(routes: tuple[Route, Route]) -> None:
    assert clash(*routes) == [(1, 0)]


@pytest.mark.parametrize(
    "routes",
    [
        (Route(path="/a"), Route(path="/a/*")),
        (Route(path="/a/*"), Route(path="/a/b/*")),
        (Route(path="/a"), Route(path="/a", host="x")),
        (Route(path="/a", host="x"), Route(path="/a", host="*.x")),
        (Route(path="/a"), Route(path="/a", methods=frozenset({"GET"}))),
        (Route(path="/a", methods=frozenset({"GET"})), Route(path="/a", methods=frozenset({"PUT"}))),
    ],
)
def test_routes_that_differ_do_not(routes: tuple[Route, Route]) -> None:
    assert clash(*routes) == []
    assert clash(*reversed(routes)) == []


def test_the_first_of_several_rivals_is_named() -> None:
    assert clash(Route(path="/a"), Route(path="/b"), Route(path="/a"), Route(path="/a")) == [(2, 0), (3, 0)]


def test_clashes_are_found_between_services_and_beside_other_mistakes(mistakes: Mistakes) -> None:
    found = mistakes(
        "version: 1\n"
        "services:\n"
        "  one: {url: nonsense, routes: [{path: /a}, {path: oops}]}\n"
        "  two: {url: 'http://x', routes: [{path: /b}, {path: /a}]}\n"
    )
    assert len(found) == 3
    assert (
        "services.two.routes[1]: asks for requests that services.one.routes[0] (3:33) already takes"
        in found[2]
    )


def test_the_order_of_more_and_less_specific_routes_does_not_matter(parse: Callable[..., Config]) -> None:
    routes = [{"path": "/*"}, {"path": "/a/*"}, {"path": "/a"}, {"path": "/a", "methods": ["GET"]}]
    assert parse({"version": 1, "services": {"x": {"url": "http://x", "routes": routes}}})
