from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.delivery.backlog import taking as taking_module
from engine.delivery.backlog.backlog import Backlog, BacklogRow
from engine.delivery.backlog.moves import rehome

BYTES_MAX = 1 << 26
ROUTES = st.sampled_from(["one", "two"])
KEYS = st.sampled_from([b"", b"\x00", b"\xff", b"\xff\xff", *(b"%d" % number for number in range(20))])
ROWS = st.builds(
    BacklogRow,
    key=KEYS,
    event=st.sampled_from(["hset", "del"]),
    captured_ms=st.integers(0, 100),
    due_ms=st.one_of(st.just(0), st.integers(0, 300)),
    attempts=st.integers(0, 9),
)
Model = dict[tuple[str, bytes], BacklogRow]


class BacklogMachine(RuleBasedStateMachine):
    """A backlog against a dictionary: nothing that was put and not removed is missing, nothing removed comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.now_ms = 10
        self.rows: Model = {}
        self.durable: Model = {}
        """What is there after a crash: the removals since the last put or flush are undone."""
        self.unseen: set[tuple[str, bytes]] = set()
        """Rows that no take has handed out or passed over since they were put."""
        self.start(1, 100_000)

    @initialize(invokers=st.integers(1, 3), walked_max=st.sampled_from([5, 100_000]))
    def start(self, invokers: int, walked_max: int) -> None:
        """A walk that is cut into many calls finds the same rows."""
        self.is_cut = walked_max < 100
        self.patch.setattr(taking_module, "WALKED_ROWS_MAX", walked_max)
        self.open(invokers)

    def open(self, invokers: int) -> None:
        path = str(Path(self.folder.name) / "backlog")
        self.homes = [Backlog(path, invoker, invokers, BYTES_MAX) for invoker in range(invokers)]
        for home in self.homes:
            assert home.open() == ""
            assert home.damaged == []
        self.unseen = set(self.rows)

    def teardown(self) -> None:
        for home in self.homes:
            home.close()
        self.patch.undo()
        self.folder.cleanup()

    def home_of(self, key: bytes) -> Backlog:
        return self.homes[crc32(key) % len(self.homes)]

    def here(self, home: Backlog, route: str) -> dict[bytes, BacklogRow]:
        return {key: row for (name, key), row in self.rows.items() if name == route and self.home_of(key) is home}

    @rule(route=ROUTES, rows=st.lists(ROWS, max_size=12))
    def put(self, route: str, rows: list[BacklogRow]) -> None:
        for home in self.homes:
            mine = [row for row in rows if self.home_of(row.key) is home]
            assert home.put(route, mine) == ""
            if mine:
                # Its transaction has taken the removals along, whatever their route.
                self.flushed(home)
        for row in rows:
            known = self.rows.get((route, row.key))
            captured_ms = min(row.captured_ms, known.captured_ms) if known else row.captured_ms
            kept = BacklogRow(row.key, row.event, captured_ms, row.due_ms, row.attempts)
            self.rows[route, row.key] = self.durable[route, row.key] = kept
            self.unseen.add((route, row.key))

    def flushed(self, home: Backlog) -> None:
        for place in [place for place in self.durable if self.home_of(place[1]) is home and place not in self.rows]:
            del self.durable[place]

    @rule(route=ROUTES, keys=st.lists(KEYS, max_size=12))
    def remove(self, route: str, keys: list[bytes]) -> None:
        """Keys that are not there are removed as well: a caller may not know."""
        for home in self.homes:
            home.remove(route, [key for key in keys if self.home_of(key) is home])
        for key in keys:
            self.rows.pop((route, key), None)
            self.unseen.discard((route, key))

    @rule()
    def flush(self) -> None:
        for home in self.homes:
            home.flush()
        self.durable = dict(self.rows)

    @rule(passed_ms=st.integers(-5, 60))
    def time_passes(self, passed_ms: int) -> None:
        """A clock may be set back a little."""
        self.now_ms += passed_ms

    @rule(route=ROUTES, count=st.integers(1, 8), skip=st.sets(KEYS), removes=st.booleans())
    def take(self, route: str, count: int, skip: set[bytes], removes: bool) -> None:
        for home in self.homes:
            here = self.here(home, route)
            taken = home.take(route, count, self.now_ms, skip)
            keys = [row.key for row in taken]
            assert len(keys) == len(set(keys)), "twice in one call"
            assert skip.isdisjoint(keys)
            assert all(here[row.key] == row and row.due_ms <= self.now_ms for row in taken)
            free = {key for key, row in here.items() if row.due_ms <= self.now_ms and key not in skip}
            assert len(keys) <= count
            assert self.is_cut or len(keys) == min(count, len(free)), "due rows were left although there was room"
            seen = {*skip, *(here if len(keys) < count and not self.is_cut else keys)}
            self.unseen -= {(route, key) for key in seen}
            if removes:
                home.remove(route, keys)
                for key in keys:
                    del self.rows[route, key]

    @rule(route=ROUTES, count=st.integers(1, 5))
    def every_due_row_is_taken(self, route: str, count: int) -> None:
        """Whatever the cursor stands at, a round brings each due row, and none twice before all came once."""
        for home in self.homes:
            due = {key for key, row in self.here(home, route).items() if row.due_ms <= self.now_ms}
            seen: list[bytes] = []
            calls = 0
            while set(seen) != due:
                seen += [row.key for row in home.take(route, count, self.now_ms, set(seen))]
                calls += 1
                assert calls <= 100, "a due row is never taken"
            assert len(seen) == len(due)
            self.unseen -= {(route, key) for key in seen}

    @rule()
    def restart(self) -> None:
        for home in self.homes:
            home.close()
        self.durable = dict(self.rows)
        self.open(len(self.homes))

    @rule()
    def crash(self) -> None:
        """What a killed process leaves is what is in its files at that moment, with nothing closed or flushed."""
        path = Path(self.folder.name)
        if (path / "backlog").exists():
            shutil.copytree(path / "backlog", path / "left")
        for home in self.homes:
            home.close()
        if (path / "left").exists():
            shutil.rmtree(path / "backlog")
            (path / "left").rename(path / "backlog")
        self.rows = dict(self.durable)
        self.open(len(self.homes))

    @rule(invokers=st.integers(1, 4))
    def another_number_of_invokers(self, invokers: int) -> None:
        for home in self.homes:
            home.close()
        self.durable = dict(self.rows)
        assert rehome(str(Path(self.folder.name) / "backlog"), invokers, BYTES_MAX) == ""
        self.open(invokers)

    @invariant()
    def counts_are_exact(self) -> None:
        for home in self.homes:
            counts = {route: len(self.here(home, route)) for route in ("one", "two")}
            assert home.routes() == {route: count for route, count in counts.items() if count}
            assert all(home.count(route) == count for route, count in counts.items())

    @invariant()
    def what_is_due_is_announced(self) -> None:
        """A row that nobody has seen yet never waits longer than its due time; a route without rows says so."""
        for home in self.homes:
            for route in ("one", "two"):
                here = self.here(home, route)
                next_due_ms = home.next_due_ms(route)
                assert (next_due_ms is None) == (not here)
                waiting = [row.due_ms for key, row in here.items() if (route, key) in self.unseen]
                assert next_due_ms is None or not waiting or next_due_ms <= max(self.now_ms, min(waiting))


BacklogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBacklog = BacklogMachine.TestCase
