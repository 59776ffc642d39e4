"""Whether something leads to every service, and what middlewares name exists and leads in no circle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from pydantic import BaseModel

from asgi_gateway.asgi.targets import ServiceName
from asgi_gateway.config.document import Document
from asgi_gateway.config.mistakes import Mistake, Path, nearest
from asgi_gateway.config.model import MiddlewareSpec

NOTHING_LEADS_THERE: Final = "nothing leads to it: it has no routes, and no middleware names it"


def wrong_targets(document: Document, specs: Sequence[MiddlewareSpec]) -> Iterator[Mistake]:
    """Names of services that are not there, services in a circle, and those that nothing leads to."""
    services = document.data.get("services")
    names: list[str] = list(services) if isinstance(services, dict) else []
    led_to: set[str] = set()
    leads: dict[str, dict[str, Path]] = {name: {} for name in names}
    for spec in specs:
        for path, target in _targets(spec.options, spec.options_path):
            led_to.add(target)
            if target not in leads:
                known = nearest(target, names)
                yield document.mistake(path, f"there is no service {str(target)!r}", known)
            elif spec.path[0] == "services":
                leads[str(spec.path[1])].setdefault(target, path)
    for circle in _circles(leads):
        path = leads[circle[-2]][circle[-1]]
        yield document.mistake(path, f"requests would go in a circle: {' -> '.join(circle)}")
    if not document.mistakes:  # what is mistaken may be what leads there
        for name in names:
            if name not in led_to and not services[name].get("routes"):
                yield document.mistake(("services", name), NOTHING_LEADS_THERE, at="key")


def _targets(value: Any, path: Path) -> Iterator[tuple[Path, ServiceName]]:
    """Every service that is named within an option, and where."""
    if isinstance(value, ServiceName):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _targets(getattr(value, name), (*path, name))
    elif is_dataclass(value):
        for field in fields(value):
            yield from _targets(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _targets(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _targets(item, (*path, index))


def _circles(leads: Mapping[str, Mapping[str, Path]]) -> Iterator[list[str]]:
    """Each way by which a service leads back to itself, told once for the step that closes it."""
    done: set[str] = set()

    def walk(way: list[str]) -> Iterator[list[str]]:
        for target in leads[way[-1]]:
            if target in way:
                yield [*way[way.index(target) :], str(target)]
            elif target not in done:
                yield from walk([*way, target])
        done.add(way[-1])

    for name in leads:
        if name not in done:
            yield from walk([name])
