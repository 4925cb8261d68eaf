"""What is owed to each table, and whether it was given."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from engine.delivery.backlog.backlog import Backlog
from engine.ring.ring import RingSet
from engine.routing.routes import RouteTable, wants
from tests.simulation.cache import Cache
from tests.simulation.capture import SHARDS, Capture, shard_of
from tests.simulation.destination import Broken, Destination, Place
from tests.simulation.routing import Routing

_ROWS = "SELECT route, key FROM dirty"


class Judge:
    """Debts: a change that was heard for a table is owed to it, until it holds that change or a newer one."""

    def __init__(self, cache: Cache, destination: Destination, routing: Routing, *, repeats: bool = False) -> None:
        """``repeats`` where values come again, and need not be delivered again."""
        self._repeats = repeats
        self._cache = cache
        self._destination = destination
        self._routing = routing
        self.owed: dict[Place, int] = {}
        self.excused: set[Place] = set()
        """What a table lost: nobody has to know before it is found; in the end all of it is there again."""
        self._unmarked: list[list[tuple[int, Place, int]]] = [[] for _ in range(SHARDS)]
        """By shard: (when, place, change) of debts that no watermark has passed."""
        self._marks = [0] * SHARDS
        self._void: dict[Place, int] = {}

    def heard(self, key: bytes, event: str, table: RouteTable, at_ms: int = 0) -> None:
        """Take in an event: it is owed to the tables that it is for, by the routes that were heard with and the newest.

        Invokers learn new routes first, so what is for an old route alone may find nobody.
        """
        newest = self._routing.tables(key, event, self._routing.newest)
        for name in newest & self._routing.tables(key, event, table):
            place, seq = (name, key), self._cache.seq[key]
            self.owed[place] = seq
            self._unmarked[shard_of(key)].append((at_ms or self._cache.changed_ms[key], place, seq))

    def lost(self, place: Place, event: str, table: RouteTable, at_ms: int) -> None:
        """Take in that a table lost what it held, and that this was found: it is owed again, and only from now on."""
        unmarked = self._unmarked[shard_of(place[1])]
        unmarked[:] = [one for one in unmarked if one[1] != place]
        self.heard(place[1], event, table, at_ms)

    def reloaded(self) -> None:
        """Forgive what nobody wants any more."""
        tests = [(route.function.partition(":")[0], wants(route)) for route in self._routing.newest.routes.values()]
        for place, seq in list(self.owed.items()):
            if not any(name == place[0] and test(place[1], "hset") for name, test in tests):
                self.forgive(place, seq)

    def forgive(self, place: Place, seq: int) -> None:
        """Take a debt off."""
        self._void[place] = seq
        self.owed.pop(place, None)

    def is_paid(self, place: Place, seq: int) -> bool:
        """Tell whether a debt is paid, or is none any more."""
        arrived = max(self._destination.held.get(place, 0), self._destination.buried.get(place, 0))
        # A value that was deleted needs no delivery; where the table is told of that, it is owed the deletion.
        gone = self._cache.deleted.get(place[1], 0) - (place[0] in self._routing.deletes)
        return arrived >= seq or gone >= seq or self._void.get(place, 0) >= seq or self._is_equal(place, seq)

    def _is_equal(self, place: Place, seq: int) -> bool:
        """Tell whether a table holds the value of this change, or of one after it, though of an older one."""
        if not self._repeats:
            return False
        key, body = place[1], self._destination.bodies.get(place)
        return any(self._cache.body_of(key, one) == body for one in range(seq, self._cache.seq[key] + 1))

    def check_rings(self, capture: Capture, rings: RingSet, backlog: Backlog) -> None:
        """See that what was released, or lies before a watermark, is paid or on disk."""
        suspects: list[tuple[str, Place, int]] = []
        for shard in range(SHARDS):
            ring = rings.ring(shard, 0)
            frames = capture.frames[shard]
            while frames and frames[0][0] <= ring.released:
                _, released = frames.pop(0)
                keys = set(released)
                suspects += [
                    ("released", place, seq)
                    for _, place, seq in self._unmarked[shard]
                    if place[1] in keys and seq <= self._seq_in(capture, shard, place[1])
                ]
            moment_ms = ring.watermark(0).moment_ms
            if moment_ms > self._marks[shard]:
                self._marks[shard] = moment_ms
                passed = [one for one in self._unmarked[shard] if one[0] < moment_ms]
                self._unmarked[shard] = [one for one in self._unmarked[shard] if one[0] >= moment_ms]
                suspects += [("before a watermark", place, seq) for _, place, seq in passed]
        self.must_be_safe(suspects, backlog)

    def _seq_in(self, capture: Capture, shard: int, key: bytes) -> int:
        """Return the newest change of a key that no later frame or dirty set can stand for."""
        is_later = key in capture.dirty[shard].buckets[0] or any(key in keys for _, keys in capture.frames[shard])
        return 0 if is_later else self._cache.seq[key]

    def new_rings(self) -> None:
        """Take in that the rings are new: their watermarks begin again."""
        self._marks = [0] * SHARDS

    def check_drained(self, backlog: Backlog) -> None:
        """See that nothing is left in memory alone."""
        self.must_be_safe([("lost in a drain", place, seq) for place, seq in self.owed.items()], backlog)

    def must_be_safe(self, suspects: list[tuple[str, Place, int]], backlog: Backlog) -> None:
        """Raise `Broken` where one of these is neither paid nor on disk."""
        unpaid = [one for one in suspects if one[1] not in self.excused and not self.is_paid(one[1], one[2])]
        if not unpaid:
            return
        kept = {(self._routing.table_of_name[route], key) for route, key in rows_of(backlog)}
        for what, place, seq in unpaid:
            if place not in kept:
                raise Broken(f"change {seq} of {place} is {what}, and neither delivered nor on disk")

    def check_end(self) -> None:
        """See that every table holds the last value of every key that it is owed."""
        for place, seq in self.owed.items():
            if not self.is_paid(place, seq):
                raise Broken(f"{place} holds {self._destination.held.get(place)}, and is owed change {seq}")
        for place, body in self._destination.bodies.items():
            held = self._destination.held[place]
            if body != self._cache.body_of(place[1], held):
                raise Broken(f"{place} holds {body!r}, which is not change {held}")


def rows_of(backlog: Backlog) -> list[tuple[str, bytes]]:
    """Return (route, key) of all that is on disk."""
    connection = backlog._file.connection
    if connection is not None:
        return connection.execute(_ROWS).fetchall()
    path: Path = backlog._file.path
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as other:
        return other.execute(_ROWS).fetchall()
