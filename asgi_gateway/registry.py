"""Names of middlewares and the classes behind them.

Built-ins follow a rule: ``rate_limit`` is `RateLimitMiddleware` in `asgi_gateway.middleware.rate_limit`.
Plug-ins are entry points of the group ``asgi_gateway.middleware``. Nothing is imported before it is
asked for, and nothing is registered by being imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, TypeAlias

GROUP = "asgi_gateway.middleware"
PACKAGE = "asgi_gateway.middleware"

Factory: TypeAlias = Callable[..., Any]
"""A middleware class, or a function, that takes the inner app and returns an ASGI app."""


class MiddlewareNotFound(LookupError):
    """A middleware that cannot be had; `suggestion` is the name that was most likely meant."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


class Registry:
    """The middlewares that a configuration may name, as installed when the registry was made."""

    def __init__(self, plugins: Iterable[EntryPoint] | None = None) -> None:
        self.built_in = frozenset(
            module.name
            for module in pkgutil.iter_modules(_locations(PACKAGE))
            if not module.name.startswith("_")
        )
        self._plugins: dict[str, list[EntryPoint]] = {}
        for plugin in entry_points(group=GROUP) if plugins is None else plugins:
            self._plugins.setdefault(plugin.name, []).append(plugin)

    @property
    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self.built_in.union(self._plugins))

    def find(self, name: str) -> Factory:
        """The class that a name stands for; raises `MiddlewareNotFound`."""
        plugins = self._plugins.get(name, [])
        if name in self.built_in:
            if plugins:
                raise MiddlewareNotFound(f"{_sources(plugins)} may not replace the built-in {name!r}")
            return load(f"{PACKAGE}.{name}:{class_name(name)}")
        if len(plugins) > 1:
            raise MiddlewareNotFound(f"{name!r} is registered more than once: by {_sources(plugins)}")
        if plugins:
            return load(plugins[0].value)
        if ":" in name:
            raise MiddlewareNotFound(f"a class is written 'use: {name}'")
        near = get_close_matches(name.lower().replace("-", "_"), self.names, n=1)
        raise MiddlewareNotFound(f"unknown middleware {name!r}", near[0] if near else None)


def class_name(name: str) -> str:
    """``rate_limit`` is `RateLimitMiddleware`."""
    return "".join(word.capitalize() for word in name.split("_")) + "Middleware"


def load(reference: str) -> Factory:
    """The callable that ``package.module:Class`` names; raises `MiddlewareNotFound` and says why."""
    module_name, _, attributes = reference.partition(":")
    if not module_name or not attributes:
        raise MiddlewareNotFound(f"expected package.module:Class, got {reference!r}")
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:
        # Whatever a foreign module does while it is imported, the reader of the configuration gets
        # one line, and never a traceback.
        raise MiddlewareNotFound(f"cannot import {reference!r}: {_reason(error)}") from error
    if not callable(found):
        raise MiddlewareNotFound(f"{reference!r} is not a class or function")
    factory: Factory = found
    return factory


def _reason(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _sources(plugins: Iterable[EntryPoint]) -> str:
    return " and ".join(sorted(f"the plug-in {plugin.value}" for plugin in plugins))


def _locations(package: str) -> Iterable[str]:
    spec = find_spec(package)
    return (spec.submodule_search_locations if spec else None) or ()
