"""The build hook of a wheel: what every request passes is compiled by mypyc, where that can be done well.

It leaves nothing behind in the source tree, where it would be imported in place of what is edited there.
An editable installation is never compiled. ``HATCH_BUILD_NO_HOOKS=true pip install .`` compiles nothing.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hatch_mypyc.plugin
import mypyc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# How the C library of mypyc hands an exception on to what is awaited. Python 3.12 deprecates it (CPython
# issue 96348): where warnings are errors, a cancellation would become one.
_AWAITING = Path(mypyc.__file__).parent / "lib-rt" / "misc_ops.c"
_THROW = "PyObject_CallFunctionObjArgs(_m, type, value, traceback, NULL)"
_MENDED_THROW = "PyObject_CallOneArg(_m, value)"


class CompiledWheel(hatch_mypyc.plugin.MypycBuildHook):
    """Compiles the modules that pyproject.toml lists."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile them into the source tree, from where the wheel takes them."""
        if version == "editable":
            return
        missing = _missing()
        if missing is None:
            with _mended_library():
                super().initialize(version, build_data)
        else:
            self.app.display_warning(f"asgi_gateway is not compiled: {missing}. It will be slower.")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take the results out of the source tree again."""
        if version != "editable":
            self.clean([version])


def _missing() -> str | None:
    """What keeps this machine from compiling, if anything does."""
    if platform.python_implementation() != "CPython" or sys.platform == "win32":
        return "this Python is not CPython on a Unix"
    if sys.version_info >= (3, 14) or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it was not tried with this version of Python"
    if _AWAITING.read_text().count(_THROW) != 1:
        return "this version of mypyc is not known"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the headers of Python are not installed"
    return None


@contextmanager
def _mended_library() -> Iterator[None]:
    """Within the block, the mended file is found before that of mypyc."""
    flags = os.environ.get("CFLAGS")
    with TemporaryDirectory() as directory:
        mended = _AWAITING.read_text().replace(_THROW, _MENDED_THROW)
        (Path(directory) / _AWAITING.name).write_text(mended)
        os.environ["CFLAGS"] = f"{flags or ''} -I{shlex.quote(directory)}"
        try:
            yield
        finally:
            del os.environ["CFLAGS"]
            if flags is not None:
                os.environ["CFLAGS"] = flags


def get_build_hook() -> type[BuildHookInterface[Any]]:
    """What hatchling is to use of this file."""
    return CompiledWheel
