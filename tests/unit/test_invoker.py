from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.clock import Pace
from engine.config import AwsSettings, DeliverySettings, RedisSettings, RouteSettings
from engine.delivery.intake import MARKS_OF_A_REPAIR
from engine.delivery.invoker import UPKEEP_MS, Invoker, InvokerSpec
from engine.lifecycle import Message, RepairWanted
from engine.model import Run, Watermark
from engine.ring import ring as ring_module
from engine.ring.codec import encode_runs, encode_watermarks
from engine.ring.counters import Board, Counter, StatusRow
from engine.ring.ring import Ring, RingSet
from engine.ring.wake import Wake
from engine.routing.routes import RouteTable

RING_BYTES = 1 << 12
CARTS = RouteSettings("carts", "f", keys=("cart:*",), events=("hset",))


class Link:
    """What an invoker says."""

    def __init__(self, row: StatusRow) -> None:
        self.row = row
        self.said: list[Message] = []

    def report(self, message: Message) -> None:
        self.said.append(message)

    def mention(self, message: Message) -> bool:
        return True


class Rig:
    """An invoker that never fetches: what it reads from its ring stays in its lanes."""

    def __init__(self, folder: Path, *routes: RouteSettings) -> None:
        self.ring: Ring = RingSet(1, 1, RING_BYTES).ring(0, 0)
        self.writer = self.ring.writer()
        self.table = RouteTable.build(routes)
        self.link = Link(Board(1).row(0))
        self.wake = Wake()
        delivery = DeliverySettings(backlog_folder=str(folder))
        spec = InvokerSpec(
            0, 1, RedisSettings(), 0, delivery, AwsSettings(), self.table, [self.ring.reader()], [(0,)], self.wake
        )
        self.invoker = Invoker(spec, self.link)  # type: ignore[arg-type]
        self.invoker._reads.is_open = lambda: False  # type: ignore[method-assign]
        # There is no server: when the next attempt to connect is due would be in each wait.
        self.invoker._sockets.next_expiry_ms = lambda: None  # type: ignore[method-assign]

    def reload(self, *routes: RouteSettings) -> None:
        self.table = RouteTable.build(routes, self.table)
        self.invoker._set_routes(self.table)

    def offer(self, *keys: bytes, slot: int = 0, event: str = "hset") -> None:
        assert self.writer.offer(encode_runs([Run(event, 1 << slot, 1, [*keys])]))

    def waiting(self) -> dict[str, set[bytes]]:
        return {lane.route.name: set(lane.keys.waiting) for lane in self.invoker._lanes.in_force.values()}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(ring_module, "REREADS_MAX", 2)
    made = Rig(tmp_path, CARTS)
    yield made
    made.wake.close()


def test_a_damaged_ring_is_a_gap(rig: Rig) -> None:
    """What a damaged frame and those behind it held is asked for since the ring's last watermark; the rest goes on."""
    assert rig.writer.offer(encode_watermarks([Watermark(1_000, 7)]))
    rig.invoker._turn()
    rig.offer(b"cart:1")
    rig.ring.data_words[rig.ring.released >> 3] ^= 1
    rig.offer(b"cart:2")
    rig.invoker._turn()
    assert rig.link.said == [RepairWanted({0: 1_000}, 0)]
    rig.offer(b"cart:3")
    rig.invoker._turn()
    assert rig.waiting() == {"carts": {b"cart:3"}}


def test_a_frame_without_sense_is_a_gap_from_the_beginning(rig: Rig) -> None:
    """Where no watermark was ever settled, the whole keyspace is asked for."""
    assert rig.writer.offer(b"\xc1 no msgpack")
    rig.invoker._turn()
    assert rig.link.said == [RepairWanted({}, 0)]
    assert rig.ring.released == rig.writer.written


def test_watermarks_are_not_believed_before_the_repair(rig: Rig) -> None:
    """Those that were on their way when the ring was found damaged say nothing of what it held."""
    assert rig.writer.offer(b"\xc1")
    rig.invoker._turn()
    for number in range(1, MARKS_OF_A_REPAIR + 2):
        assert rig.writer.offer(encode_watermarks([Watermark(number, 7)]))
        rig.invoker._turn()
        assert rig.ring.watermark(0).moment_ms == (number if number > MARKS_OF_A_REPAIR else 0)


def test_changes_marked_by_an_older_table_find_the_routes_that_want_them(rig: Rig) -> None:
    """A route that was renamed or split misses nothing of what its old name was marked for; others get none of it."""
    rig.reload(
        RouteSettings("small", "f", keys=("cart:[0-4]",), events=("hset",)),
        RouteSettings("large", "f", keys=("cart:[5-9]",), events=("hset",)),
        RouteSettings("deleted", "f", keys=("cart:*",), events=("del",)),
    )
    rig.offer(b"cart:1", b"cart:7", slot=0)
    rig.invoker._turn()
    waiting = rig.waiting()
    assert waiting["small"] == {b"cart:1"}
    assert waiting["large"] == {b"cart:7"}
    assert waiting["deleted"] == set()


def test_a_change_marked_for_one_route_stays_that_routes(rig: Rig) -> None:
    """While the table knows the slot, no other route is asked."""
    rig.reload(CARTS, RouteSettings("also", "f", keys=("cart:*",), events=("hset",)))
    rig.offer(b"cart:1", slot=0)
    rig.invoker._turn()
    assert rig.waiting() == {"carts": {b"cart:1"}, "also": set()}


class Host:
    """Stands for the clock and for sleep: notes how long, and does what a test says meanwhile."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.slept_ms: list[float] = []
        self._meanwhile = meanwhile

    def pace(self, interval_ms: float) -> Pace:
        return Pace(interval_ms, lambda: 100.0, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept_ms.append(round(seconds * 1_000, 3))
        self._meanwhile()


def is_set(wake: Wake) -> bool:
    return bool(select.select([wake.fileno()], [], [], 0)[0])


def test_what_comes_right_behind_goes_along(rig: Rig) -> None:
    """After a turn that took up a change, the next ones come together; their wake-up is not lost."""

    def comes_behind() -> None:
        for key in (b"cart:2", b"cart:3"):
            rig.offer(key)
            rig.wake.signal()

    host = Host(comes_behind)
    rig.invoker._pace = host.pace(1.5)
    rig.offer(b"cart:1")
    rig.wake.signal()
    rig.invoker._be_woken()
    assert not is_set(rig.wake)
    rig.invoker._turn()
    rig.invoker._gather()
    assert host.slept_ms == [1.5]
    assert rig.waiting() == {"carts": {b"cart:1"}}
    assert is_set(rig.wake)
    rig.invoker._turn()
    assert rig.waiting() == {"carts": {b"cart:1", b"cart:2", b"cart:3"}}


def test_nobody_gathers_while_keys_wait_for_an_answer(rig: Rig) -> None:
    """An answer that frees a slot is taken in at once where keys wait for one; a drain waits for nobody either."""
    host = Host()
    rig.invoker._pace = host.pace(1.5)
    rig.offer(b"cart:1")
    rig.invoker._be_woken()
    rig.invoker._turn()
    (lane,) = rig.invoker._lanes.all()
    lane.keys.invocations = lane.keys.slots
    rig.invoker._gather()
    assert host.slept_ms == []
    lane.keys.invocations -= 1
    rig.invoker._draining = True
    rig.invoker._gather()
    assert host.slept_ms == []
    rig.invoker._draining = False
    rig.invoker._gather()
    assert host.slept_ms == [1.5]


def test_answers_wait_only_while_changes_keep_coming(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is served along with the next changes where those are near; else, or if keys wait for it, at once."""
    moment_ms = 1_000
    monkeypatch.setattr("engine.delivery.invoker.monotonic_ms", lambda: moment_ms)

    def patience_ms() -> int:
        rig.invoker._be_woken()
        return rig.invoker._gather()

    patience_ms()
    moment_ms += 1_000
    assert patience_ms() == 0
    moment_ms += 2
    assert patience_ms() == round(2 * DeliverySettings().gather_ms)
    # Once: what came in that time is served, and then nobody waits any more.
    assert rig.invoker._gather() == 0
    (lane,) = rig.invoker._lanes.all()
    rig.offer(b"cart:1")
    rig.invoker._turn()
    lane.keys.invocations = lane.keys.slots
    assert patience_ms() == 0


def test_what_can_wait_is_seen_to_soon(rig: Rig) -> None:
    """Rings and gauges are looked at by time: also where nothing more comes that would have the loop turn."""
    rig.invoker._turn()
    rig.offer(b"cart:1")
    rig.invoker._turn()
    assert rig.link.row.get(Counter.KEYS_WAITING) == 0
    assert rig.invoker._wait_ms() <= UPKEEP_MS
    rig.invoker._upkeep_due_ms = 0
    rig.invoker._turn()
    assert rig.link.row.get(Counter.KEYS_WAITING) == 1
    assert rig.invoker._wait_ms() > UPKEEP_MS
