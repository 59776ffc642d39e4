"""The ``middleware`` lists of a configuration: names and options to validated specs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from asgi_gateway.config.document import Document
from asgi_gateway.config.explain import validate
from asgi_gateway.config.mistakes import Path, nearest
from asgi_gateway.config.model import MiddlewareSpec
from asgi_gateway.options import option_values, options_model
from asgi_gateway.registry import Factory, MiddlewareNotFound, Registry, load

EXPECTED_ENTRY = "expected a middleware's name, a name with its options, or 'use: package.module:Class'"


class ChainReader:
    """Reads the entries of every chain of one document; what is wrong goes to the document's mistakes."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self._document = document
        self._registry = registry
        self._models: dict[Factory, type[BaseModel]] = {}
        self.specs: list[MiddlewareSpec] = []
        """Every middleware that was read without a mistake."""

    def read(self, entries: object, path: Path) -> object:
        """The specs of a list; anything else unchanged, for the model to refuse."""
        if not isinstance(entries, list):
            return entries
        specs = (self._entry(entry, (*path, index)) for index, entry in enumerate(entries))
        return [spec for spec in specs if spec is not None]

    def _entry(self, entry: object, path: Path) -> MiddlewareSpec | None:
        if isinstance(entry, str):
            return self._named(entry, path, (*path, entry))
        if not isinstance(entry, dict) or not entry:
            self._refuse(path, f"{EXPECTED_ENTRY}, got {self._document.show(path)}")
            return None
        if "use" in entry:
            return self._used(entry, path)
        name, *others = entry
        if others:
            known = name in self._registry.names
            hint = f"indent the options of {name!r} further" if known else EXPECTED_ENTRY
            self._refuse(path, f"one entry is one middleware, but here are {len(entry)} keys: {hint}")
            return None
        return self._named(name, path, (*path, name))

    def _named(self, name: str, path: Path, options_path: Path) -> MiddlewareSpec | None:
        if path in self._document.broken:
            return None
        if path in self._document.secrets:
            self._refuse(path, "a middleware's name may not come from a secret")
            return None
        try:
            factory = self._registry.find(name)
        except MiddlewareNotFound as error:
            self._refuse(path, str(error), error.suggestion)
            return None
        return self._spec(name, factory, path, options_path)

    def _used(self, entry: dict[str, Any], path: Path) -> MiddlewareSpec | None:
        for key in entry.keys() - {"use", "options"}:
            hint = nearest(key, ("use", "options"))
            unknown = self._document.mistake((*path, key), f"unknown key {key!r}", hint, at="key")
            self._document.mistakes.append(unknown)
        reference = entry["use"]
        where = (*path, "use")
        if where in self._document.broken:
            return None
        if not isinstance(reference, str) or where in self._document.secrets:
            self._refuse(where, f"expected package.module:Class, got {self._document.show(where)}")
            return None
        try:
            factory = load(reference)
        except MiddlewareNotFound as error:
            self._refuse(where, str(error), error.suggestion)
            return None
        return self._spec(reference, factory, path, (*path, "options"))

    def _spec(self, name: str, factory: Factory, path: Path, options_path: Path) -> MiddlewareSpec | None:
        options = self._document.get(options_path)
        try:
            model = self._models.get(factory) or self._models.setdefault(factory, options_model(factory))
            validated = validate(model, {} if options is None else options, self._document, options_path)
        except Exception as error:  # noqa: BLE001 - foreign annotations and validators raise what they like
            reason = f"the options of {name} cannot be checked: {type(error).__name__}: {error}"
            self._document.mistakes.append(self._document.foreign_mistake(path, reason))
            return None
        if validated is None:
            return None
        spec = MiddlewareSpec(name, factory, option_values(validated), validated, path, options_path)
        self.specs.append(spec)
        return spec

    def _refuse(self, path: Path, message: str, suggestion: str | None = None) -> None:
        self._document.mistakes.append(self._document.mistake(path, message, suggestion))
