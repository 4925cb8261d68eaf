"""Logs: keyed events on standard error, as text for people or JSON lines for machines."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from engine.config import LogSettings
from engine.text import shown

_SECRET_IN_URL = re.compile(r"://[^@/\s]*@")


def get_logger(name: str) -> Any:
    """Return a logger whose calls are ``log.info("event_name", key=value)``."""
    return structlog.get_logger(module=name.removeprefix("engine."))


def configure(settings: LogSettings, process: str) -> None:
    """Set up this process's logs; ``process`` says who speaks, as in ``subscriber 2/4``."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask_credentials,
    ]
    if settings.format == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        processors += [
            _quote,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=_traceback_as_shown
            ),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


class _Quoted:
    """A text that a log line holds as Python writes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _quote(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Quote what does not print: a key may hold what a terminal obeys."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = _Quoted(value)
    return event


def _traceback_as_shown(stream: TextIO, error: Any) -> None:
    """Write a traceback whose texts command no terminal."""
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, error)
    stream.write("\n".join(shown(line) for line in plain.getvalue().split("\n")))


class _StandardError:
    """Standard error that may be gone: a closed terminal or pipe must not stop the engine."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def _mask_credentials(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take user and password out of any URL: an error text from a library may quote one."""
    for name, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[name] = _SECRET_IN_URL.sub("://***@", value)
    return event
