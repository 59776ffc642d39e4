"""The build hook of a wheel: what every request passes is compiled by mypyc, where that can be done well.

It leaves nothing behind in the source tree, where it would be imported in place of what is edited there.
An editable installation is never compiled. ``HATCH_BUILD_NO_HOOKS=true pip install .`` compiles nothing.
"""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import hatch_mypyc.plugin
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledWheel(hatch_mypyc.plugin.MypycBuildHook):
    """Compiles the modules that pyproject.toml lists."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile them into the source tree, from where the wheel takes them."""
        if version == "editable":
            return
        missing = _missing()
        if missing is None:
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
    if sys.version_info >= (3, 12):
        # What mypyc makes of an await hands exceptions on in a way that is deprecated since: where warnings
        # are errors, a cancellation would become one.
        return "mypyc is not ready for this version of Python"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the headers of Python are not installed"
    return None


def get_build_hook() -> type[BuildHookInterface[Any]]:
    """What hatchling is to use of this file."""
    return CompiledWheel
