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
from types import FunctionType
from typing import Any, Final, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonEncoder
from pythonjsonlogger.json import JsonFormatter as _JsonFormatter

from asgi_gateway.context import request_id_var, trace_id_var
from asgi_gateway.errors import ResponseAborted

EXTRAS = "_extras"
"""Where a record may hold its extras once more, all together, to spare the formatter the search."""

# One encoder for all records: building it costs as much as using it. What is logged is flat.
encode: Final = JsonEncoder(separators=(",", ":"), check_circular=False).encode
"""A value as the JSON text that a line has for it."""

_INFO: Final = logging.INFO
_OWN_KEYS = frozenset({*RESERVED_ATTRS, "taskName", "color_message", "request_id", "trace_id"})
"""Attributes of a record that are no extras; `color_message` is uvicorn's second copy of the message."""


class JsonFormatter(_JsonFormatter):
    """A record as one JSON object: time, level, logger, message, request_id, trace_id, then its extras.

    `time` is ISO 8601 in UTC with milliseconds. A traceback is one string under ``exc_info``.
    """

    def __init__(self) -> None:
        super().__init__()
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
            self._second_text = second_text(second)
            self._second = second
        return f"{self._second_text}.{int((created - second) * 1000):03}Z"

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """The object as text."""
        return encode(log_data)


def second_text(second: int) -> str:
    """The time as a line says it, up to the second."""
    return datetime.fromtimestamp(second, UTC).isoformat()[:-6]


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

    plain: tuple[JsonFormatter, list[ContextFilter]] | None = None
    """The formatter and filters of `json_handler`: what it has as long as nobody changes it."""

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

    def keep(self, line: str) -> None:
        """Keep a finished line, its end included, until the end of the turn.

        It takes no lock. The line is kept before `_turn_of` is read, and `_end_of_turn` forgets the turn
        before it writes, so that a line of another thread is either in that write or has one to come.
        """
        self._lines.append(line)
        loop = self._turn_of
        if loop is None or not loop.is_running():  # cheaper than to ask which loop runs here
            self._schedule(line)

    def flush(self) -> None:
        """Write what is kept."""
        with self.lock or nullcontext():
            lines = self._lines[:]
            del self._lines[: len(lines)]  # and no line that `keep` was given since
            if lines:
                self.stream.write("".join(lines))
            self.stream.flush()

    def _schedule(self, line: str) -> None:
        loop = self._turn_of = _running_loop()
        if loop is not None:
            loop.call_soon(self._end_of_turn)
        else:
            self._write(line)

    def _end_of_turn(self) -> None:
        self._turn_of = None
        self._write("the lines of a turn of the event loop")

    def _write(self, what: str) -> None:
        """Flush; a failure is said on stderr, as what the loop would log of it came here to fail again."""
        try:
            self.flush()
        except Exception:  # noqa: BLE001 - as `emit` does
            self.handleError(logging.makeLogRecord({"msg": what}))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _plain(function: object) -> object:
    """The method of `Logger`, or None where a tool has put its own in the place, or a proxy."""
    theirs = logging.Logger.isEnabledFor.__code__.co_filename
    return function if type(function) is FunctionType and function.__code__.co_filename == theirs else None


_Logger = logging.Logger
_call_handlers = _plain(_Logger.callHandlers)


def direct_handler(logger: logging.Logger) -> TurnHandler | None:
    """The handler that alone gets what `logger` logs from info on, where it is ours with nothing changed.

    Its `keep` may then be given the line that a record would become. None where anything else would see
    or change the record: another handler, a filter, another class or factory, a monitoring tool in place
    of `Logger.callHandlers`. An application may change all that at any time, so this is asked anew for
    every line.
    """
    if type(logger) is not _Logger or logger.filters or logger.disabled:
        return None
    if _Logger.callHandlers is not _call_handlers or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    holder = logger
    while not (handlers := holder.handlers):
        if not holder.propagate or holder.parent is None:
            return None
        holder = holder.parent
    while (parent := holder.parent) is not None and holder.propagate:
        if parent.handlers:
            return None
        holder = parent
    handler = handlers[0]
    if (
        len(handlers) == 1
        and type(handler) is TurnHandler
        and handler.level <= _INFO
        and (handler.formatter, handler.filters) == handler.plain
    ):
        return handler
    return None


def json_handler(stream: TextIO) -> TurnHandler:
    """A handler that writes JSON lines to a stream."""
    handler = TurnHandler(stream)
    formatter, context = JsonFormatter(), ContextFilter()
    handler.setFormatter(formatter)
    handler.addFilter(context)
    handler.plain = formatter, [context]
    return handler


def stdout_handler() -> logging.Handler:
    """A handler that writes JSON lines to standard output."""
    return json_handler(sys.stdout)


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
