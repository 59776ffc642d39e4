"""``${NAME}``, ``${NAME:-default}`` and ``${file:/run/secrets/name}`` in the texts of a configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PIECE = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<inside>[^}]*)\}|\$\{")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>.*))?", re.DOTALL)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


@dataclass(slots=True)
class Interpolated:
    """What became of one text.

    `shown` is safe to print and means the same when it is read again: the text as written, with
    the defaults of secrets masked.
    """

    value: str = ""
    shown: str = ""
    secret: bool = False
    mistakes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Fills in references from `environ` and from files; relative paths start at `folder`.

    A default is used where the variable is unset or empty, as in a shell. ``$${`` stands for ``${``.
    What comes from a file, or from a variable whose name says so, is a secret.
    """

    environ: Mapping[str, str]
    folder: Path
    read: Callable[[Path], bytes] = Path.read_bytes

    def __call__(self, text: str) -> Interpolated:
        """The text with its references filled in; check `mistakes` before use."""
        result = Interpolated()
        position = 0
        for piece in _PIECE.finditer(text):
            self._literal(text[position : piece.start()], result)
            position = piece.end()
            if piece["escaped"]:
                result.value += "${"
                result.shown += "$${"
            else:
                self._reference(piece["inside"], result)
        self._literal(text[position:], result)
        return result

    @staticmethod
    def _literal(text: str, result: Interpolated) -> None:
        result.value += text
        result.shown += text

    def _reference(self, inside: str | None, result: Interpolated) -> None:
        if inside is None:
            result.mistakes.append("'${' without its '}'; write $${ for the characters themselves")
            return
        variable = _VARIABLE.fullmatch(inside)
        if variable is not None and "${" not in inside:
            self._variable(variable["name"], variable["default"], result)
        elif inside.startswith("file:"):
            self._file(inside.removeprefix("file:"), result)
        else:
            result.mistakes.append("expected ${NAME}, ${NAME:-default} or ${file:/path} after '${'")

    def _variable(self, name: str, default: str | None, result: Interpolated) -> None:
        value = self.environ.get(name)
        if default is not None:
            value = value or default
        if value is None:
            result.mistakes.append(f"the environment variable {name} is not set and has no default")
            return
        secret = _SECRET_NAME.search(name) is not None
        result.value += value
        result.secret |= secret
        result.shown += f"${{{name}}}" if default is None else f"${{{name}:-{'***' if secret else default}}}"

    def _file(self, name: str, result: Interpolated) -> None:
        try:
            result.value += self.read(self.folder / name).decode("utf-8").rstrip("\r\n")
        except OSError as error:
            result.mistakes.append(f"cannot read {name}: {error.strerror}")
        except UnicodeDecodeError:
            result.mistakes.append(f"cannot read {name}: it is not UTF-8 text")
        except ValueError:
            result.mistakes.append(f"cannot read {name!r}: no file can be called that")
        result.secret = True
        result.shown += f"${{file:{name}}}"
