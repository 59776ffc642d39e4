"""``include``: services that stand in files of their own."""

from __future__ import annotations

from glob import escape
from pathlib import Path as FilePath

from asgi_gateway.config.document import Document, read_text
from asgi_gateway.config.files import Files
from asgi_gateway.config.interpolation import Interpolation
from asgi_gateway.config.mistakes import Path, nearest

ONLY = ("version", "services")
"""What an included file may hold."""


def include(document: Document, folder: FilePath, interpolate: Interpolation, files: Files) -> None:
    """Put the services of the files that ``include`` names into the document, in whose mistakes theirs are.

    Relative patterns start at `folder`. The list itself is taken out of the data.
    """
    if not isinstance(document.data, dict) or "include" not in document.data:
        return
    patterns = document.data.pop("include")
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
        document.mistakes.append(document.mistake(("include",), "expected a list of files or patterns"))
        return
    seen = {FilePath(document.file).resolve()}
    for number, pattern in enumerate(patterns):
        found = files.matching(FilePath(escape(str(folder))) / pattern)
        if not found and not any(character in pattern for character in "*?["):
            message = "cannot read the file: No such file or directory"
            document.mistakes.append(document.mistake(("include", number), message))
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                _add(document, file, ("include", number), interpolate, files)


def _add(document: Document, file: FilePath, path: Path, interpolate: Interpolation, files: Files) -> None:
    try:
        text = files.read(file).decode("utf-8-sig")
    except OSError as error:
        reason = f"cannot read {file}: {error.strerror}"
        document.mistakes.append(document.mistake(path, reason))
        return
    except UnicodeDecodeError:
        document.mistakes.append(document.mistake(path, f"cannot read {file}: it is not UTF-8 text"))
        return
    part = read_text(text, str(file), interpolate)
    document.mistakes += part.mistakes
    if part.data is None:
        return
    if not isinstance(part.data, dict):
        document.mistakes.append(part.mistake((), f"expected a mapping, got {part.show(())}"))
        return
    for key in part.data.keys() - set(ONLY):
        message = f"unknown key {key!r}: an included file holds services only"
        document.mistakes.append(part.mistake((key,), message, nearest(key, ONLY), at="key"))
    if part.data.get("version", 1) != 1:
        document.mistakes.append(part.mistake(("version",), "must be 1"))
    services = part.data.get("services")
    if isinstance(services, dict):
        _merge(document, part, services)
    elif services is not None:
        document.mistakes.append(part.mistake(("services",), "expected a mapping"))


def _merge(document: Document, part: Document, services: dict[str, object]) -> None:
    own = document.data.setdefault("services", {})
    if not isinstance(own, dict):
        if own is not None:
            return  # which is a mistake that validation finds
        own = document.data["services"] = {}
    document.values.setdefault(("services",), (1, 1))
    taken: set[Path] = set()
    for name, service in services.items():
        path: Path = ("services", name)
        if name in own:
            first = document.place(path, with_file=True)
            message = f"the service {name!r} is already in {first}"
            document.mistakes.append(part.mistake(path, message, at="key"))
            continue
        own[name] = service
        taken.add(path)
    document.take(taken, part)
