"""Logging as JSON lines: one object a line, with the ids of the request that it belongs to.

    logging.config.dictConfig(log_config("info"))

Everything outside ASCII and every control character is escaped, so that nothing a client sends can
end a line, begin another or colour a terminal.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonEncoder
from pythonjsonlogger.json import JsonFormatter as _JsonFormatter

from asgi_gateway.context import request_id_var, trace_id_var
from asgi_gateway.errors import ResponseAborted

EXTRAS = "_extras"
"""Where a record may hold its extras once more, all together, to spare the formatter the search."""

_OWN_KEYS = frozenset({*RESERVED_ATTRS, "taskName", "color_message", "request_id", "trace_id"})
"""Attributes of a record that are no extras; `color_message` is uvicorn's second copy of the message."""


class JsonFormatter(_JsonFormatter):
    """A record as one JSON object: time, level, logger, message, request_id, trace_id, then its extras.

    `time` is ISO 8601 in UTC with milliseconds. A traceback is one string under ``exc_info``.
    """

    def __init__(self) -> None:
        super().__init__()
        # One encoder for all records: building it costs as much as using it. What is logged is flat.
        self._encode = JsonEncoder(separators=(",", ":"), check_circular=False).encode
        self._second = -1
        self._second_text = ""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill in the object; replaces the base class's general rules by this one's fixed ones."""
        fields = record.__dict__
        log_data["time"] = self._time(record.created)
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data["request_id"] = fields.get("request_id")
        log_data["trace_id"] = fields.get("trace_id")
        log_data.update(message_dict)
        extras = fields.get(EXTRAS)
        if extras is None:
            extras = {key: value for key, value in fields.items() if key not in _OWN_KEYS}
        log_data.update(extras)

    def _time(self, created: float) -> str:
        """ISO 8601 in UTC with milliseconds; all but those is the same for a whole second."""
        second = int(created)
        if second != self._second:
            self._second_text = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
            self._second = second
        return f"{self._second_text}.{int((created - second) * 1000):03}Z"

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """The object as text."""
        return self._encode(log_data)


class ContextFilter(logging.Filter):
    """Puts the current request's id and trace id on every record; drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what the record does not say itself."""
        fields = record.__dict__
        if "request_id" not in fields:
            fields["request_id"] = request_id_var.get()
        if "trace_id" not in fields:
            fields["trace_id"] = trace_id_var.get()
        return True


class AbortFilter(logging.Filter):
    """Drops the server's traceback for `ResponseAborted`: our signal to it, not a mistake in the app."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record tells of anything else."""
        return not (record.exc_info and isinstance(record.exc_info[1], ResponseAborted))


class TurnHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of one turn of the event loop at once; outside of a loop, each line at once.

    Under load a turn serves many requests, and one system call for all their lines is cheaper than
    one for each. Nothing waits longer than for the callbacks that are ready now.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._turn_of: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's line until the end of the turn."""
        try:
            self._lines.append(self.format(record) + self.terminator)
            loop = _running_loop()
            if loop is None:
                self.flush()
            elif loop is not self._turn_of:
                self._turn_of = loop
                loop.call_soon(self._end_of_turn)
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)

    def flush(self) -> None:
        """Write what is kept."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _end_of_turn(self) -> None:
        self._turn_of = None
        self.flush()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def stdout_handler() -> logging.Handler:
    """A handler that writes JSON lines to standard output."""
    handler = TurnHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(ContextFilter())
    return handler


def log_config(level: str = "info") -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig` and for uvicorn's ``log_config``.

    Everything from `level` on is written to standard output; uvicorn's own access log is off.
    """
    here = __name__
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"aborts": {"()": f"{here}.AbortFilter"}},
        "handlers": {
            "stdout": {"()": f"{here}.stdout_handler"},
            "nowhere": {"class": "logging.NullHandler"},
        },
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": {
            "uvicorn.error": {"filters": ["aborts"]},
            "uvicorn.access": {"handlers": ["nowhere"], "propagate": False},
        },
    }
