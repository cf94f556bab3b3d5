"""Logging: structlog set up once, for people on a terminal and for machines everywhere else.

An event has a name and fields, never a sentence: `log.info("vip.withdrawn", vip=vip, reason=why)`. Names are stable;
ARCHITECTURE.md lists them, and a test holds the list to the code.
"""

import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(
    stream: TextIO | None = None,
    level: str = "info",
    environ: Mapping[str, str] = os.environ,
    note: structlog.typing.Processor | None = None,
) -> None:
    """Coloured lines on a terminal; under journald one JSON object a line with its priority; JSON lines elsewhere.

    Args:
        stream: where to; standard error when None.
        level: the least important level that is written: debug, info, warning, error.
        note: sees every event before it is written.
    """
    stream = stream or sys.stderr
    journal = "JOURNAL_STREAM" in environ
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _plain,
        *([note] if note is not None else []),
    ]
    if stream.isatty():
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
            structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in environ),
        ]
    elif journal:
        processors += [structlog.processors.JSONRenderer(), _journal_priority]
    else:
        processors += [structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )


def _plain(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Addresses, enums and the like become their text: a log line is for reading."""
    for key, value in event.items():
        if value is not None and not isinstance(value, str | int | float | bool | list | tuple | dict):
            event[key] = str(value)
    return event


def _journal_priority(_logger: object, method: str, line: Any) -> str:
    """The `<N>` that journald turns into a priority (sd-daemon(3))."""
    return f"<{_PRIORITY.get(method, 6)}>{line}"
