"""Where peers live that want an environment of their own."""

from __future__ import annotations

import os
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asgi_gateway" / "benchmarks"

LITELLM = Path(os.environ.get("BENCHMARK_LITELLM") or _CACHE / "litellm")
"""A virtual environment with ``litellm[proxy]``, whose pins differ from ours."""

NODE = Path(os.environ.get("BENCHMARK_NODE") or _CACHE / "node")
"""A folder that npm has installed into."""

INSTALLED = Path(os.environ.get("BENCHMARK_INSTALLED") or _CACHE / "installed")
"""A virtual environment with the gateway as it is installed, compiled."""
