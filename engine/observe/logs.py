"""Logs: keyed events on standard error, as text for people or JSON lines for machines.

Each event is one line. Warnings and errors of one kind that keep repeating are counted instead of written. Keys
are named, and functions quoted, only where the settings ask for it, or at the level ``debug``; values are never logged,
unless a function's own words hold one. The level may change at any time.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, NamedTuple, TextIO

import structlog

from engine.clock import monotonic_ms
from engine.config import LogSettings
from engine.observe.repeats import Repeats
from engine.text import shown

KEYS_OF_USERS = "such_as"
"""The field of an event that names keys."""
FUNCTIONS_WORDS = "function_said"
"""The field of an event whose reason quotes a function: that reason in full. ``reason`` itself quotes nobody."""
_KIND = ("route", "function", "child", "node", "shard", "feed", "failure", "address")
"""Fields that tell kinds of one event apart."""
_COUNTED = frozenset({"warning", "error"})
_SUMMARY = "_is_summary"


class _Kind(NamedTuple):
    level: str
    event: str
    module: str
    fields: tuple[tuple[str, str], ...]


class _State:
    """Of this process; a child starts with that of its supervisor."""

    settings = LogSettings()
    level = ""
    """The level that overrides the settings', "" for none."""
    repeats = Repeats(0, 0)


_state = _State()

_SECRET_IN_URL = re.compile(r"://[^@/\s]*@")


def get_logger(name: str) -> Any:
    """Return a logger whose calls are ``log.info("event_name", key=value)``."""
    return structlog.get_logger(module=name.removeprefix("engine."))


def configure(settings: LogSettings, process: str) -> None:
    """Set up this process's logs; ``process`` says who speaks, as in ``subscriber 2/4``."""
    _state.settings = settings
    _state.repeats = Repeats(settings.repeats_max, round(settings.repeats_interval_s * 1_000))
    _apply()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


def level() -> str:
    """Return the level in force."""
    return _state.level or _state.settings.level


def set_level(name: str) -> None:
    """Write lines of this level and above from now on, whatever the settings say; "" is what those say."""
    _state.level = name
    _apply()


def switch_level() -> None:
    """Switch to ``debug``, or back to the settings' level; a line says so."""
    before = level()
    set_level("" if _state.level else "debug")
    get_logger(__name__).warning("log_level", now=level(), before=before)


def flush() -> None:
    """Write how many lines were left out, for the kinds whose interval is over; costs nothing if there are none."""
    if not _state.repeats.left_out:
        return
    for kind, count in _state.repeats.ended(monotonic_ms()):
        assert isinstance(kind, _Kind)
        logger = structlog.get_logger(module=kind.module)
        getattr(logger, kind.level)(kind.event, **dict(kind.fields), repeated=count, **{_SUMMARY: True})


def _count_repeats(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out a warning or an error of a kind that has been written often enough for now."""
    if event.pop(_SUMMARY, False) or method not in _COUNTED:
        return event
    flush()
    fields = tuple((name, str(event[name])) for name in _KIND if name in event)
    if not _state.repeats.take(_Kind(method, event["event"], event.get("module", ""), fields), monotonic_ms()):
        raise structlog.DropEvent
    return event


def _hide_others(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take the names of keys and the words of functions out, unless they were asked for."""
    is_debug = level() == "debug"
    if KEYS_OF_USERS in event and not (_state.settings.keys or is_debug):
        del event[KEYS_OF_USERS]
    if FUNCTIONS_WORDS in event:
        words = event.pop(FUNCTIONS_WORDS)
        if _state.settings.function_errors or is_debug:
            event["reason"] = words
    return event


def _apply() -> None:
    settings = _state.settings
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _count_repeats,
        _hide_others,
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
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level().upper())),
        logger_factory=structlog.WriteLoggerFactory(file=_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


class _Quoted:
    """A text that a log line shows as Python writes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _quote(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what does not print: a key may hold terminal commands."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = _Quoted(value)
    return event


def _traceback_as_shown(stream: TextIO, error: Any) -> None:
    """Write a traceback with unprintable characters escaped."""
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
