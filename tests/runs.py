"""Runs of keys as tests see them: a key at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.model import Change, Events, RouteMask, Run


class One(NamedTuple):
    """One key of a run, and what is known of it."""

    key: bytes
    event: str
    routes: RouteMask
    captured_ms: int
    events: Events = ()


def each_of(runs: Iterable[Run]) -> list[One]:
    """Return the keys of these runs, in order."""
    return [One(key, run.event, run.routes, run.captured_ms, run.events) for run in runs for key in run.keys]


def dirty_in(bucket: dict[bytes, Change]) -> list[One]:
    """Return the keys that a subscriber has for an invoker, the oldest first."""
    return [One(key, one.event, one.routes, one.captured_ms, one.events) for key, one in bucket.items()]
