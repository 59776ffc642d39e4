"""Windows: what a rate limit says of one key at one moment."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """The outcome of one look at a limit. Durations are seconds from now."""

    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    """Until the whole limit is free again if nothing more comes."""
    retry_after: float
    """Until the same request would pass; 0 where it passed."""
