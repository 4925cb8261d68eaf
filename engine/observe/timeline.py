"""What has happened to an engine lately: gaps, their repairs, processes that were replaced.  (pure)

It is derived from the differences of two statuses, so nobody has to record it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

KEPT = 100
"""This many happenings are kept, the newest."""

Child = Mapping[str, Any]


class Timeline:
    """The happenings of one engine, the oldest first."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._repairs: dict[str, tuple[dict[str, Any], Mapping[str, int]]] = {}
        self._before: dict[str, Child] = {}
        self._encoded = msgspec.Raw(b"[]")

    def take_in(self, children: Iterable[Child], unix_ms: int) -> msgspec.Raw:
        """Take in how the processes are at this Unix time; return all happenings, as JSON.

        A gap has its ``reason`` and how many there were (``count``); a repair ``until_ms`` (0 while it goes on), what
        it looked at and what it found; a restart how many there have been.
        """
        is_news = False
        for child in children:
            name = child["name"]
            before = self._before.get(name)
            if before is not None:
                is_news |= self._compare(name, before, child, unix_ms)
            self._before[name] = child
        if is_news:
            self._encoded = msgspec.Raw(msgspec.json.encode(list(self._kept)))
        return self._encoded

    def _compare(self, name: str, before: Child, child: Child, unix_ms: int) -> bool:
        is_news = False
        for reason, count in child["gaps"].items():
            if count > before["gaps"][reason]:
                self._keep(unix_ms, "gap", name, reason=reason, count=count - before["gaps"][reason])
                is_news = True
        if child["restarts"] > before["restarts"]:
            self._keep(unix_ms, "restart", name, count=child["restarts"])
            is_news = True
        return self._follow_repair(name, before["counters"], child["counters"], unix_ms) or is_news

    def _follow_repair(self, name: str, before: Mapping[str, int], now: Mapping[str, int], unix_ms: int) -> bool:
        """Note that a scan has begun, goes on, or has ended; a quick one does all of that between two looks."""
        goes_on, ended = now["keys_to_scan"] > 0, now["repairs"] > before["repairs"]
        known = self._repairs.get(name)
        if not (goes_on or ended or known):
            return False
        if known is None:
            known = self._keep(unix_ms, "repair", name, until_ms=0), before
            self._repairs[name] = known
        entry, since = known
        found = {key: now[key] - since[key] for key in ("keys_looked_at", "keys_repaired")}
        is_changed = any(entry.get(key) != value for key, value in found.items())
        entry |= found
        if not goes_on:
            entry["until_ms"] = unix_ms
            del self._repairs[name]
        return is_changed or not goes_on

    def _keep(self, unix_ms: int, what: str, name: str, **more: Any) -> dict[str, Any]:
        entry = {"at_ms": unix_ms, "what": what, "process": name, **more}
        self._kept.append(entry)
        return entry
