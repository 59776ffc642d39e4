"""From a file to a `Config`, or to every mistake in it at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from asgi_gateway.config.chains import ChainReader
from asgi_gateway.config.document import Document, read_mapping, read_text
from asgi_gateway.config.explain import validate
from asgi_gateway.config.files import Files
from asgi_gateway.config.include import include
from asgi_gateway.config.interpolation import Interpolation
from asgi_gateway.config.mistakes import ConfigError, Mistake, Path, write_path
from asgi_gateway.config.model import Config, Route
from asgi_gateway.config.routes import clashes
from asgi_gateway.config.targets import wrong_targets
from asgi_gateway.registry import MiddlewareNotFound, Registry, load

_LOCATION = re.compile(r"https?://[^/]*", re.IGNORECASE)
"""What of a URL is the same in either case: scheme and host."""


def load_config(
    path: str | os.PathLike[str],
    *,
    registry: Registry | None = None,
    environ: Mapping[str, str] | None = None,
    files: Files | None = None,
) -> Config:
    """The configuration in a file and those it includes; raises `ConfigError` with every mistake in it.

    `registry` knows the middlewares, by default all that are installed; ``${NAME}`` is looked up in
    `environ`, by default the process's own. Relative paths start at the file's folder. All is read by way
    of `files`, which then tells whether anything has changed.
    """
    file = FilePath(path)
    files = files or Files()
    try:
        text = files.read(file).decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(file, f"cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _unreadable(file, "cannot read the file: it is not UTF-8 text") from None
    interpolate = Interpolation(os.environ if environ is None else environ, file.parent, files.read)
    document = read_text(text, str(file), interpolate)
    include(document, file.parent, interpolate, files)
    return _build(document, registry or Registry())


def parse_config(
    content: str | Mapping[str, Any],
    *,
    source: str = "<config>",
    registry: Registry | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The configuration in a YAML text or in plain data; `source` is what mistakes call it.

    Otherwise as `load_config`, with relative paths starting at the working directory.
    """
    files = Files()
    interpolate = Interpolation(os.environ if environ is None else environ, FilePath(), files.read)
    if isinstance(content, str):
        document = read_text(content, source, interpolate)
    else:
        document = read_mapping(content, source, interpolate)
    include(document, FilePath(), interpolate, files)
    return _build(document, registry or Registry())


def _unreadable(file: FilePath, message: str) -> ConfigError:
    return ConfigError([Mistake(str(file), None, None, "", message)])


def _build(document: Document, registry: Registry) -> Config:
    config: Config | None = None
    if isinstance(document.data, dict):
        chains = ChainReader(document, registry)
        config = validate(Config, _with_chains(document.data, chains), document, ())
        document.mistakes += _clashes(document)
        document.mistakes += _doubled_endpoints(document)
        document.mistakes += _missing_apps(document)
        document.mistakes += wrong_targets(document, chains.specs)
    elif not document.mistakes:
        empty = document.data is None
        message = "the file is empty" if empty else f"expected a mapping, got {document.show(())}"
        document.mistakes.append(document.mistake((), message))
    if config is None or document.mistakes:
        raise ConfigError(document.mistakes)
    return config


def _with_chains(data: dict[str, Any], chains: ChainReader) -> dict[str, Any]:
    """The data with every list of middlewares read into specs."""
    data = _with_chain(data, chains, ())
    services = data.get("services")
    if isinstance(services, dict):
        data["services"] = {
            name: _with_chain(service, chains, ("services", name)) if isinstance(service, dict) else service
            for name, service in services.items()
        }
    return data


def _with_chain(data: dict[str, Any], chains: ChainReader, path: Path) -> dict[str, Any]:
    if "middleware" not in data:
        return dict(data)
    return {**data, "middleware": chains.read(data["middleware"], (*path, "middleware"))}


def _clashes(document: Document) -> Iterator[Mistake]:
    for path, rival in clashes(_valid_routes(document)):
        earlier = f"{write_path(rival)} ({document.place(rival)})"
        yield document.mistake(path, f"asks for requests that {earlier} already takes")


def _doubled_endpoints(document: Document) -> Iterator[Mistake]:
    """Endpoints that stand twice in one service: a larger weight is what is meant."""
    services = document.data.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        endpoints = service.get("endpoints") if isinstance(service, dict) else None
        seen: dict[str, Path] = {}
        for index, endpoint in enumerate(endpoints if isinstance(endpoints, list) else ()):
            url = endpoint.get("url") if isinstance(endpoint, dict) else None
            if isinstance(url, str):
                path: Path = ("services", name, "endpoints", index, "url")
                first = seen.setdefault(_LOCATION.sub(lambda found: found[0].lower(), url.rstrip("/")), path)
                if first != path:
                    place = f"{write_path(first)} ({document.place(first)})"
                    yield document.mistake(
                        path, f"is the same endpoint as {place}; give that a larger weight"
                    )


def _missing_apps(document: Document) -> Iterator[Mistake]:
    """The services whose ``app`` cannot be imported."""
    services = document.data.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        reference = service.get("app") if isinstance(service, dict) else None
        if (
            isinstance(reference, str)
            and ":" in reference
            and not document.is_broken(("services", name, "app"))
        ):
            try:
                load(reference)
            except MiddlewareNotFound as error:
                yield document.foreign_mistake(("services", name, "app"), str(error))


def _valid_routes(document: Document) -> Iterator[tuple[Path, Route]]:
    """The routes that can be judged, even where other parts of the file are mistaken."""
    services = document.data.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        routes = service.get("routes") if isinstance(service, dict) else None
        for index, data in enumerate(routes if isinstance(routes, list) else ()):
            path: Path = ("services", name, "routes", index)
            with suppress(ValidationError):
                route = Route.model_validate(data)
                if not document.is_broken(path):
                    yield path, route
