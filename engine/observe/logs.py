"""Logs: keyed events on standard error, as text for people or JSON lines for machines."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from engine.config import LogSettings


def get_logger(name: str) -> Any:
    """Return a logger whose calls are ``log.info("event_name", key=value)``."""
    return structlog.get_logger(module=name.removeprefix("engine."))


def configure(settings: LogSettings, process: str) -> None:
    """Set up this process's logs; ``process`` says who speaks, as in ``subscriber 2/4``."""
    renderer: Any
    if settings.format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)
