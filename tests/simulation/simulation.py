"""One seed: what is done to the engine, in which order, and what has to be true all the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import AwsSettings, DeliverySettings, RedisSettings, Settings
from engine.delivery.invoker import Invoker, InvokerSpec
from engine.lifecycle import Channel, ChildLink, Drain, SetRoutes, channel_pair
from engine.model import Missed
from engine.ring.counters import Board, ChildState, Counter
from engine.ring.ring import RingSet
from engine.ring.wake import Wake
from engine.routing.assignment import assign
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.supervision.progress.checkpoint import Checkpoint
from engine.supervision.progress.keeping import fence_after_ms
from engine.supervision.progress.progress import Progress
from tests.simulation.cache import EVENT_OF, Cache
from tests.simulation.capture import MARK, RING_BYTES, SHARDS, Capture
from tests.simulation.destination import Broken, Destination
from tests.simulation.functions import MODES, Functions
from tests.simulation.harness import install, kill_table
from tests.simulation.judge import Judge
from tests.simulation.routing import Routing, Scope
from tests.simulation.world import Killed, World

KEYS = tuple(letter + b"%d" % number for letter in (b"a", b"b") for number in range(9))
SPINS_MAX = 300
"""Turns that find more to do while no time passes."""
HEALED_MS_MAX = 400_000
"""How long after the last fault everything has to be delivered; retries wait for 2 s, and a budget refills."""
DRAIN_MS_MAX = 20_000
MARKS_EVERY_MS = 700


class Simulation:
    """The engine of one host: one invoker at a time, its rings, and all that it meets."""

    def __init__(self, seed: int, folder: Path, patch: pytest.MonkeyPatch, scope: Scope) -> None:
        self.world = World(seed)
        self.rng = self.world.rng
        self.cache = Cache(self.world, repeats=scope.repeats)
        self.destination = Destination(self.world)
        self.functions = Functions(self.world, self.cache, self.destination)
        self.scope = scope
        self.routing = Routing(self.rng, scope)
        self.judge = Judge(self.cache, self.destination, self.routing, repeats=scope.repeats)
        self.delivery = DeliverySettings(
            fetch_keys_max=self.rng.choice([3, 500]),
            payload_bytes_max=self.rng.choice([700, 6_000_000]),
            invoke_timeout_ms=2_000,
            deadline_ms=1_000,
            deadline_margin_ms=400,
            retry_backoff_ms_max=2_000,
            set_aside_attempts=self.rng.choice([2, 5, 1_000]),
            set_aside_backoff_ms_max=5_000,
            retrying_keys_max=self.rng.choice([2, 10, 20_000]),
            backlog_folder=str(folder / "backlog"),
            backlog_bytes_max=1 << 26,
            digest_bytes_max=8_192,
        )
        self.turns = 0
        self.flying_max: dict[int, int] = {}
        """By lane: how many keys may be on their way at once, by its largest options."""
        self.invoker: Invoker | None = None
        self.wake = Wake()
        self._channel: Channel | None = None
        self._is_draining = False
        install(patch, self.world, self.cache, self.functions)
        self.boot(None)
        self.world.after(MARKS_EVERY_MS, self._mark)

    # The engine's life

    def boot(self, found: Checkpoint | None) -> None:
        """Start a whole engine by what a checkpoint says."""
        table = self.routing.newest
        self.progress = Progress(
            "here", found, table, {"": self.world.true_ms}, is_lost=False, interval_ms=MARKS_EVERY_MS,
            topology=Topology(), feeds=assign(Topology(), SHARDS),
        )  # fmt: skip
        self.rings, self.board = RingSet(SHARDS, 1, RING_BYTES), Board(1)
        self.capture = Capture(self.world, self.cache, self.rings, table)
        self.judge.new_rings()
        self.fence_ms = 0
        if not self.progress.is_first and not self.progress.is_clean:
            routes = tuple(table.routes.values())
            self.fence_ms = self.world.mono_ms + fence_after_ms(Settings(delivery=self.delivery), routes)
        self.kept = self._checkpoint(is_clean=False)
        for missed in self.progress.missed_at_start(0).get(0, ()):
            self.capture.repair(missed)
        self._find_lost()
        self.start()

    def start(self) -> None:
        """Start an invoker, the successor of one that was killed perhaps."""
        self.world.fuse = None
        ours, theirs = channel_pair()
        self._channel = ours
        readers = [self.rings.ring(shard, 0).reader() for shard in range(SHARDS)]
        spec = InvokerSpec(
            0, 1, RedisSettings(), 0, self.delivery, AwsSettings(), self.routing.newest, readers, [(0,)] * SHARDS,
            self.wake,
            self.progress.version_floor, self.fence_ms,
        )  # fmt: skip
        self._link = ChildLink(theirs, self.board.row(0))
        self.invoker = Invoker(spec, self._link)

    def end(self) -> None:
        """End the invoker as SIGKILL does: nothing is flushed, nothing is said."""
        if self.invoker is not None:
            self.invoker._backlog._file.close()
            for lane in self.invoker._lanes.all():
                kill_table(lane.unchanged._table)
            self._link.channel.close()
            assert self._channel is not None
            self._channel.close()
            self.invoker = None
        self.world.fuse = None

    def _checkpoint(self, *, is_clean: bool) -> Checkpoint:
        self.progress.advance(
            lambda shard, node: [self.rings.ring(shard, 0).watermark(node)],
            lambda shard, node: (0, Missed(1, MARK)),
        )
        row = self.board.row(0)
        version, unix_ms = row.get(Counter.VERSION), self.world.now_ms()
        return self.progress.checkpoint(version, unix_ms, self.world.mono_ms, is_clean=is_clean)

    def _mark(self) -> None:
        self.kept = self._checkpoint(is_clean=False)
        self.capture.want_marks()
        self.world.after(MARKS_EVERY_MS, self._mark)

    # Time

    def turn(self) -> bool:
        """Turn the invoker's loop once; True if there is more that needs no waiting for."""
        invoker = self.invoker
        assert invoker is not None
        self.turns += 1
        try:
            assert not invoker._obey(self.world.monotonic_ms())
            more = invoker._turn()
        except Killed:
            self.world.tell("killed inside a turn")
            self._killed()
            return False
        self._check()
        return more

    def _killed(self) -> None:
        self.end()
        rings = self.rings
        self.world.after(self.rng.randint(1, 2_500), lambda: self._succeed(rings))

    def _succeed(self, rings: RingSet) -> None:
        """Start a successor, unless the whole engine was started anew meanwhile."""
        if self.invoker is None and rings is self.rings:
            self.start()

    def run_for(self, ms: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Let the engine run for so long, or until something is the case; tell whether it is."""
        end_ms, spins = self.world.mono_ms + ms, 0
        while not until():
            if self.world.mono_ms >= end_ms:
                return False
            self.capture.flush()
            before_ms = self.world.mono_ms
            next_ms = min(end_ms, self.world.next_event_ms() or end_ms)
            if self.invoker is None:
                self.world.advance(next_ms)
            elif not self.turn() and self.invoker is not None:
                self.world.advance(min(next_ms, before_ms + self.invoker._wait_ms()))
            spins = spins + 1 if self.world.mono_ms == before_ms else 0
            if spins > SPINS_MAX:
                raise Broken("the loop spins while no time passes")
        return True

    def _check(self) -> None:
        invoker = self.invoker
        assert invoker is not None
        self.judge.check_rings(self.capture, self.rings, invoker._backlog)
        if self.world.disk_failed:
            return
        for lane in invoker._lanes.all():
            fenced = sum(
                len(batch.entries) for _, _, batch in lane.keys.retries if batch.fence_ms or not batch.attempts
            )
            # What failed under options that were larger still waits.
            flying = lane.keys.batch_size * lane.route.parallelization_factor
            flying = self.flying_max[lane.lane_id] = max(flying, self.flying_max.get(lane.lane_id, 0))
            bound = self.delivery.retrying_keys_max + 2 * flying
            if lane.keys.retrying_keys - fenced > bound:
                raise Broken(f"{lane.keys.retrying_keys} keys of {lane.route.name} wait in memory for another attempt")

    # What is done to it

    def write(self) -> None:
        """Change some keys."""
        rng = self.rng
        for _ in range(rng.choice([1, 2, 5, 20, 60])):
            key = rng.choice(KEYS)
            kind = rng.choices(["hash", "string", "none"], [8, 2, 2])[0]
            event = self.cache.change(key, kind)
            self.judge.heard(key, event, self.capture.table)
            self.capture.hear([(key, event)])

    def repair(self) -> None:
        """Mark keys that may have changed unheard."""
        self.capture.repair(Missed(self.world.true_ms - self.rng.choice([500, 5_000, 50_000])))

    def lose_values(self) -> None:
        """Have a destination lose some of what it holds, and an audit find that."""
        held = self.destination.held
        for place in self.rng.sample(sorted(held), min(len(held), 3)):
            held[place] = 0
            self.destination.bodies.pop(place, None)
            self.judge.excused.add(place)
        self._find_lost()

    def _find_lost(self) -> None:
        """Mark what is lost and not delivered again: whoever audits repeats a mark that may be lost too."""
        for place in [place for place in self.judge.excused if place in self.destination.bodies]:
            self.judge.excused.remove(place)
        for place in list(self.judge.excused):
            table, key = place
            event = EVENT_OF[self.cache.kinds[key]]
            if event != "del" and table in self.routing.tables(key, event, self.capture.table):
                self.judge.lost(place, event, self.capture.table, self.world.true_ms)
                self.capture.force(key)

    def kill(self) -> None:
        """Kill the invoker, now or in the middle of something."""
        if self.invoker is None:
            return
        if self.rng.random() < 0.3:
            self.world.tell("killed between turns")
            self._killed()
        else:
            self.world.fuse = self.rng.randint(1, 40)

    def reload(self) -> None:
        """Change the routes: the invoker learns first, then the subscribers."""
        if not self.scope.reloads:
            return
        self.world.tell(self.routing.reload())
        table = self.routing.newest
        self.judge.reloaded()
        if self._channel is not None and self.invoker is not None:
            self._channel.send(SetRoutes(table.encode()))
        self.world.after(self.rng.choice([1, 50, 1_500]), lambda: self._teach(table))

    def _teach(self, table: RouteTable) -> None:
        if table.version >= self.capture.table.version:
            self.capture.table = table
            self.progress.take_routes(table, {"": self.world.true_ms})

    def lose_redis(self) -> None:
        """Have nobody reach the server for a while."""
        self.world.is_redis_down = True
        self.world.after(self.rng.randint(10, 4_000), lambda: setattr(self.world, "is_redis_down", False))

    def fill_disk(self) -> None:
        """Have the disk take nothing for a while."""
        self.world.is_disk_full = True
        self.world.after(self.rng.randint(10, 8_000), lambda: setattr(self.world, "is_disk_full", False))

    def change_mode(self) -> None:
        """Have a table's functions be well, or ill in some way."""
        table, mode = self.rng.choice(["alpha", "gamma"]), self.rng.choice(list(MODES))
        self.world.tell(f"{table} is {mode}")
        self.functions.modes[table] = mode

    def poison(self) -> None:
        """Have functions refuse some keys."""
        self.functions.poison = set(self.rng.sample(KEYS, self.rng.choice([0, 1, 4])))

    def jump(self) -> None:
        """Set the host's clock, or the server's."""
        self.world.jumped_ms = self.rng.choice([0, -5_000, 3_000, 20_000])
        self.cache.behind_ms = self.rng.choice([0, 0, 2_500])

    def drain(self) -> None:
        """Stop the engine in order, and start it again; a drain that takes too long ends in a crash."""
        invoker = self.invoker
        if invoker is None or not self.run_for(5_000, self.capture.is_flushed) or self.invoker is not invoker:
            return
        assert self._channel is not None
        self._channel.send(Drain())
        self.world.tell("drain")
        is_over = self.run_for(DRAIN_MS_MAX, lambda: self.invoker is not invoker or self._is_drained(invoker))
        if not is_over or self.invoker is not invoker:
            self.crash()
            return
        try:
            invoker._backlog.close()
            for lane in invoker._lanes.all():
                lane.unchanged.close()
        except Killed:
            self.crash()
            return
        self._link.set_state(ChildState.DRAINED)
        self.judge.check_drained(invoker._backlog)
        is_clean = self.board.row(0).get(Counter.FENCE_MS) <= self.world.mono_ms
        kept = self._checkpoint(is_clean=is_clean)
        self.end()
        self.world.tell(f"drained, clean={is_clean}")
        self.boot(kept)

    def _is_drained(self, invoker: Invoker) -> bool:
        return invoker._draining and not invoker._done and invoker._is_idle() and self.capture.is_flushed()

    def crash(self) -> None:
        """Kill the whole engine: its rings are gone, its checkpoint may be an interval old."""
        self.world.tell(f"crash; checkpoint {self.kept}")
        kept = self.kept
        self.end()
        self.rings = RingSet(SHARDS, 1, RING_BYTES)
        self.world.advance(self.world.mono_ms + self.rng.choice([1, 300, 3_000]))
        self.boot(kept)

    # The whole

    def run(self, steps: int = 60) -> None:
        """Do what the seed says, heal, and judge."""
        doings = {
            self.write: 40, self.change_mode: 12, self.kill: 8, self.reload: 8, self.lose_redis: 4, self.fill_disk: 4,
            self.poison: 4, self.repair: 4, self.jump: 2, self.drain: 2, self.crash: 2,
        }  # fmt: skip
        if self.scope.repeats:
            doings[self.lose_values] = 6
        for _ in range(steps):
            doing = self.rng.choices(list(doings), list(doings.values()))[0]
            doing()
            self.run_for(self.rng.choice([0, 5, 50, 400, 2_000]))
        self.heal()
        self.judge.check_end()

    def heal(self) -> None:
        """End all faults, and see that everything comes to an end."""
        world = self.world
        world.tell("healed")
        world.fuse = None
        world.is_redis_down = world.is_disk_full = False
        self.functions.modes = dict.fromkeys(("alpha", "gamma"), "well")
        self.functions.poison = set()
        self.run_for(3_000)
        self._find_lost()
        if not self.run_for(HEALED_MS_MAX, self._is_quiet):
            raise Broken(f"it does not come to an end: {self._state()}")

    def _is_quiet(self) -> bool:
        invoker = self.invoker
        if invoker is None or not self.capture.is_flushed() or invoker._done or not invoker._is_idle():
            return False
        names = {lane.route.name for lane in invoker._lanes.all()}
        rows = [count for name, count in invoker._backlog.routes().items() if name in names]
        used = sum(reader.used for reader in invoker._spec.readers)
        return not rows and not used

    def _state(self) -> str:
        if self.invoker is None:
            return "no invoker"
        lanes = [
            (
                lane.route.name,
                len(lane.keys.waiting),
                len(lane.keys.held),
                len(lane.keys.in_flight),
                len(lane.keys.retries),
                len(lane.shelf),
            )
            for lane in self.invoker._lanes.all()
        ]
        return f"{lanes}, used {[reader.used for reader in self.invoker._spec.readers]}"

    def close(self) -> None:
        """Give back what the simulation holds."""
        self.end()
        self.wake.close()
