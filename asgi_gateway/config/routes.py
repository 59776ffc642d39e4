"""Two routes for one request: which of the routes of a configuration can never be chosen.

An exact path is tried before a prefix and the longest prefix wins; at the same path a route with a
host comes before one without, and then one with methods before one without. So two routes get in each
other's way only when path and host are the same and there is a method that both serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asgi_gateway.config.mistakes import Path
from asgi_gateway.config.model import Route


def clashes(routes: Iterable[tuple[Path, Route]]) -> Iterator[tuple[Path, Path]]:
    """Each route that asks for requests which an earlier one takes, and that earlier one."""
    seen: dict[tuple[str, str | None], list[tuple[Path, Route]]] = {}
    for path, route in routes:
        earlier = seen.setdefault((route.path, route.host), [])
        rival = next((place for place, other in earlier if _share_a_method(route, other)), None)
        if rival is not None:
            yield path, rival
        earlier.append((path, route))


def _share_a_method(one: Route, other: Route) -> bool:
    if one.methods is None or other.methods is None:
        return one.methods is other.methods
    return not one.methods.isdisjoint(other.methods)
