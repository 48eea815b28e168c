"""Structured logs: one JSON object a line on stderr, readable lines on a terminal, fields in systemd's journal.

Code logs with ``structlog.get_logger()``: an event in lower case, values as keys. Records of
libraries that use `logging` join the same output from WARNING on. Values that look like secrets
are masked, wherever they stand.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from agent import journald

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console", "journal"]

MASK = "***"

_SECRET_KEY = re.compile(r"token|credential|authorization|password|secret|cookie|api[-_]?key", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer)\s+[^\s\"',;]+", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^@\s/]+@")

_FRAMES = 12
"""Frames of a traceback that are kept, counted from where it was raised."""

_CAUSES = 5
"""Exceptions of a chain, and depths of a group, that are kept."""


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section ``log``, of both programs: what is logged, and how.

    Attributes:
        level: What is less important is not written.
        format: ``auto`` is console on a terminal, journal in a service whose output goes there, json elsewhere.
    """

    level: Level = "info"
    format: Format = "auto"


def configure(level: str = "info", format: Format = "auto") -> None:  # noqa: A002 - the name of the setting
    """Set up logging for the whole process.

    Args:
        level: A `Level`, for our own events. Libraries are heard from WARNING on.
        format: ``auto`` is console where stderr is a terminal, journal where it is systemd's, and json elsewhere.
    """
    set_level(level)
    terminal = sys.stderr.isatty()
    if format == "auto":
        format = "console" if terminal else "journal" if journald.is_stderr(os.environ) else "json"  # noqa: A001
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    factory: Callable[..., WrappedLogger]
    if format == "json":
        processors += [_compact_exception, redact, _render_json]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    elif format == "journal":
        processors += [_compact_exception, redact, _as_it_is]
        entries = journald.Entries(otherwise=_write_json)
        factory = lambda *_: entries  # noqa: E731 - one for all loggers
    else:
        processors += [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback),
        ]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=_Logger,
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()], force=True)
    logging.captureWarnings(capture=True)


def set_level(level: str) -> None:
    """Write no more of our own events than those of a `Level` and above, from now on."""
    _least.number = logging.getLevelNamesMapping()[level.upper()]


class _Least:
    """The level below which nothing is written."""

    number = logging.INFO


_least = _Least()


class _Logger(structlog.make_filtering_bound_logger("debug")):  # type: ignore[misc]  # made at run time
    """A logger that costs next to nothing where the event is below the level.

    Loggers are kept for ever once they are used, so the level, which may change, is looked up with each event.
    """

    def _proxy_to_logger(self, method_name: str, event: str | None = None, **event_kw: Any) -> Any:
        if structlog.processors.NAME_TO_LEVEL[method_name] < _least.number:
            return None
        return super()._proxy_to_logger(method_name, event, **event_kw)


class _LibraryHandler(logging.Handler):
    """Writes the records of libraries as events, with the library's logger as key ``library``."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong format string, or its argument's __str__, must not fail its work
            message = str(record.msg)
        level = logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING
        structlog.get_logger().log(level, message, library=record.name, exc_info=record.exc_info or None)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the values of keys that name a secret, bearer tokens and passwords in URLs."""
    return {key: MASK if _SECRET_KEY.search(key) else _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\1{MASK}@", _BEARER.sub(rf"\1 {MASK}", value))
    if isinstance(value, Mapping):
        return {
            key: MASK if isinstance(key, str) and _SECRET_KEY.search(key) else _redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return _redacted(msgspec.structs.asdict(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _redacted({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, BaseException):
        return _redacted(f"{type(value).__name__}: {value}")
    return value


def _compact_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace ``exc_info`` by ``exception``: type, message and the innermost frames, with causes and groups."""
    exc_info = event.pop("exc_info", None)
    if isinstance(exc_info, BaseException):
        event["exception"] = _compact(exc_info, _CAUSES)
    elif isinstance(exc_info, tuple):
        event["exception"] = _compact(exc_info[1], _CAUSES)
    elif exc_info and sys.exc_info()[1] is not None:
        event["exception"] = _compact(sys.exc_info()[1], _CAUSES)
    return event


def _compact(error: BaseException | None, depth: int) -> dict[str, Any] | None:
    if error is None or depth == 0:
        return None
    # Without lookup_lines=False the source files would be read here, on the event loop.
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), limit=-_FRAMES, lookup_lines=False)
    compact: dict[str, Any] = {
        "type": type(error).__qualname__,
        "message": str(error),
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        compact["cause"] = _compact(cause, depth - 1)
    if isinstance(error, BaseExceptionGroup):
        compact["group"] = [_compact(inner, depth - 1) for inner in error.exceptions]
    return compact


def _as_it_is(_logger: WrappedLogger, _method: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, Any]]:
    return (event,), {}


def _write_json(event: EventDict) -> None:
    sys.stderr.buffer.write(_render_json(None, "", event) + b"\n")
    sys.stderr.buffer.flush()


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return msgspec.json.encode({**first, **event}, enc_hook=str)
