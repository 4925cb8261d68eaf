"""The audit of one route: Redis against its destination, then the destination against Redis."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

from engine.audit.deletions import is_past_limit
from engine.audit.extras import absent_keys, wanted_keys
from engine.audit.options import AuditOptions
from engine.audit.pace import Pace
from engine.audit.server import Server
from engine.audit.spool import KeySpool
from engine.audit.verdict import GONE, REPAIRABLE, Judge, Kind, RouteReport, Suspect
from engine.clock import monotonic_ms
from engine.config import RouteSettings
from engine.delivery.reading.fetch import Fetched
from engine.delivery.reading.questions import KIND_OF_EVENT, TYPE
from engine.destination.base import Destination
from engine.marks.marker import Mark, Marker
from engine.routing.events import REPAIR, REPAIR_GONE, expand_events
from engine.text import counted

KEYS_AT_ONCE = 100
"""Of one question to the destination."""

Progress = Callable[[str, int, int | None], None]
"""Receives what is being done, how many more keys are done, and of how many, if that is known."""

Suspects = dict[bytes, Suspect]


class RouteAudit:
    """Compares for one route. Memory is bounded by the keys read at once and by ``suspects_max``."""

    def __init__(
        self,
        route: RouteSettings,
        server: Server,
        destination: Destination,
        options: AuditOptions,
        marker: Marker,
        *,
        database: int | None,
        mapping_prefix: str = "",
        is_of_slice: Callable[[bytes], bool] = lambda key: True,
        is_absence_known: bool = False,
        is_spared: Callable[[bytes], bool] = lambda key: False,
        is_held: bool = False,
        is_refused: Callable[[bytes], bool] = lambda key: False,
        progress: Progress = lambda what, done, total: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._destination = destination
        self._options = options
        self._marker = marker
        self._progress = progress
        self._sleep = sleep
        self._is_spared = is_spared
        self._is_held, self._is_refused = is_held, is_refused
        self._gone = KeySpool()
        self._live, self._gone_at = Counter[str](), Counter[str]()
        self._pace = Pace(options.keys_per_s_max)
        self._is_wanted = wanted_keys(route, mapping_prefix, is_of_slice)
        self._judge = Judge(route, database, destination)
        self._event = _hint(route)
        self._report = RouteReport(route.name, route.destination, is_absence_known, are_several=database is None)

    def run(self) -> RouteReport:
        """Compare everything; return what was found. Raises `RedisError` or `DestinationError`."""
        began_ms = monotonic_ms()
        with ThreadPoolExecutor(self._options.workers, "audit-get") as pool:
            suspects: Suspects = {}
            for found in chain(self._walk(pool), self._walk_back()):
                suspects.update(found)
                if len(suspects) >= self._options.suspects_max:
                    self._settle(suspects, pool)
            self._settle(suspects, pool)
        self._delete_gone()
        self._report.took_ms = monotonic_ms() - began_ms
        return self._report

    def _walk(self, pool: ThreadPoolExecutor) -> Iterator[Suspects]:
        """Yield the keys of Redis that differ at first sight; values are read here, items in the pool."""
        report, kinds = self._report, self._judge.kinds
        if not kinds:
            return
        total = self._server.count()
        for keys in self._server.scan(next(iter(kinds)) if len(kinds) == 1 else ""):
            wanted = [*dict.fromkeys(filter(self._is_wanted, keys))]
            self._pause(len(wanted))
            for values, suspects in self._examine(wanted, pool):
                skipped = sum(value.type not in kinds and value.type != "none" for value in values)
                report.skipped += skipped
                report.compared += len(values) - skipped
                # Keys that have just gone are found on the way back.
                yield {key: one for key, one in suspects.items() if one is not None and one.kind is not Kind.EXTRA}
            self._progress("comparing keys", len(keys), total)

    def _walk_back(self) -> Iterator[Suspects]:
        """Yield the keys of the destination that Redis lacks at first sight."""
        report = self._report
        for looked in absent_keys(self._destination, self._server, self._is_wanted, self._options.workers, self._pause):
            report.items += looked.items
            self._live.update(map(self._server.place_of, looked.live))
            report.foreign += looked.foreign
            yield dict.fromkeys(looked.absent, GONE)
            self._progress("looking for keys that are gone", looked.items, None)

    def _examine(
        self, keys: Sequence[bytes], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Fetched], dict[bytes, Suspect | None]]]:
        """Yield the keys' values, and how each differs; several threads ask the destination at once."""
        asked: deque[tuple[list[Fetched], Future[dict[bytes, Suspect | None]]]] = deque()
        for values in self._server.read(keys, self._event):
            for start in range(0, len(values), KEYS_AT_ONCE):
                part = values[start : start + KEYS_AT_ONCE]
                asked.append((part, pool.submit(self._compare, part)))
                if len(asked) > 2 * self._options.workers:
                    yield _answered(asked)
        while asked:
            yield _answered(asked)

    def _compare(self, values: Sequence[Fetched]) -> dict[bytes, Suspect | None]:
        items = self._destination.get([value.key for value in values])
        return {value.key: self._judge.suspect(value, items.get(value.key)) for value in values}

    def _settle(self, suspects: Suspects, pool: ThreadPoolExecutor) -> None:
        """Look at the suspects repeatedly; count those that remain, and mark them if that is wanted."""
        for _ in range(self._options.rounds):
            if not suspects:
                return
            self._progress(f"looking again at {counted(len(suspects), 'key')}", 0, None)
            self._sleep(self._options.settle_ms / 1_000)
            keys = [*suspects]
            for start in range(0, len(keys), 5 * KEYS_AT_ONCE):
                part = keys[start : start + 5 * KEYS_AT_ONCE]
                self._pause(len(part))
                for _, now in self._examine(part, pool):
                    self._keep(suspects, now)
        for key, suspect in suspects.items():
            if suspect.kind is Kind.EXTRA and self._is_refused(key):
                self._report.refused += 1
            else:
                self._report.findings[suspect.kind].add(key)
        if self._options.repair:
            self._mark([key for key, one in suspects.items() if one.kind in REPAIRABLE], REPAIR)
            if self._report.is_extra_wrong:
                extra = [key for key, one in suspects.items() if one.kind is Kind.EXTRA]
                gone = [key for key in extra if not self._is_spared(key)]
                self._gone.add(gone)
                self._gone_at.update(map(self._server.place_of, gone))
        suspects.clear()

    def _delete_gone(self) -> None:
        """Mark the keys that are gone once all are known; past any node's limit mark none, unless that is wanted."""
        report, options = self._report, self._options
        share_max = options.deletions_found_share_max
        is_past = self._is_held or any(
            is_past_limit(gone, self._live[node], share_max) for node, gone in self._gone_at.items()
        )
        if is_past and not options.accept_deletions:
            report.held = self._gone.count
        else:
            for keys in self._gone.lists(options.suspects_max):
                self._mark(keys, REPAIR_GONE)
        self._gone.close()

    def _keep(self, suspects: Suspects, now: dict[bytes, Suspect | None]) -> None:
        """Keep those that still differ and were not changed in Redis meanwhile."""
        for key, suspect in now.items():
            if suspect is None:
                del suspects[key]
            elif suspect.fingerprint != suspects[key].fingerprint:
                del suspects[key]
                self._report.changing += 1
            else:
                suspects[key] = suspect

    def _mark(self, keys: Sequence[bytes], event: str) -> None:
        if not keys:
            return
        sure = self._marker.mark([Mark(key, event) for key in keys], self._pause)
        self._report.unheard += sure.count(False)
        self._report.repaired += sure.count(True)

    def _pause(self, keys: int) -> None:
        wait_ms = self._pace.spend(keys, monotonic_ms())
        if wait_ms:
            self._sleep(wait_ms / 1_000)


def _answered(
    asked: deque[tuple[list[Fetched], Future[dict[bytes, Suspect | None]]]],
) -> tuple[list[Fetched], dict[bytes, Suspect | None]]:
    values, future = asked.popleft()
    return values, future.result()


def _hint(route: RouteSettings) -> str:
    """Return an event that tells the reads the likely type, if the route listens to one type only."""
    events = [event for event in expand_events(route.events) if KIND_OF_EVENT[event] != TYPE]
    return events[0] if len({KIND_OF_EVENT[event] for event in events}) == 1 else REPAIR
