from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.settle import Ledger
from engine.delivery.lanes.work import Batch
from engine.model import Run

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b""])


class LaneMachine(RuleBasedStateMachine):
    """A lane and its ring's ledger against a model that knows which change of a key was read last.

    The model's truth: a frame may be released only when every key in it was settled by a delivery whose
    read began after the frame arrived.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(batch_size=3, window_ms=0, slots=2)
        self.ledger = Ledger()
        self.now_ms = 0
        self.end = 0
        self.arrived: list[tuple[int, bytes, int]] = []
        self.frames: dict[int, set[bytes]] = {}
        self.flying: list[tuple[Batch, int]] = []
        self.settled_reads: dict[bytes, int] = {}
        self.released = 0
        self.step = 0

    def tick(self) -> int:
        self.step += 1
        return self.step

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4, unique=True))
    def frame_arrives(self, keys: list[bytes]) -> None:
        self.end += 10
        moment = self.tick()
        self.arrived.extend((self.end, key, moment) for key in keys)
        self.lane.add([Run("hset", 1, 0, [*keys])], self.ledger.add(self.end), self.now_ms)

    @rule()
    def take(self) -> None:
        batch = self.lane.take(self.now_ms)
        if batch is None:
            return
        self.lane.invocations += 1
        flying = {entry[0] for other, _ in self.flying for entry in other.entries}
        mine = [entry[0] for entry in batch.entries]
        assert not flying & set(mine), "a key is in flight twice"
        assert len(mine) == len(set(mine)) and len(mine) <= 3
        self.flying.append((batch, self.tick()))

    @precondition(lambda self: self.flying)
    @rule(index=st.integers(0, 1))
    def succeed(self, index: int) -> None:
        batch, read_at = self.flying.pop(index % len(self.flying))
        self.lane.invocations -= 1
        self.lane.settle(batch.entries)
        for entry in batch.entries:
            self.settled_reads[entry[0]] = max(read_at, self.settled_reads.get(entry[0], 0))

    @precondition(lambda self: self.flying)
    @rule(index=st.integers(0, 1), wait=st.integers(0, 5))
    def fail(self, index: int, wait: int) -> None:
        batch, _ = self.flying.pop(index % len(self.flying))
        self.lane.invocations -= 1
        self.lane.retry(batch, self.now_ms + wait)

    @rule(step=st.integers(1, 5))
    def time_passes(self, step: int) -> None:
        self.now_ms += step

    @rule()
    def release(self) -> None:
        end = self.ledger.settled()
        if end is None:
            return
        assert end > self.released
        self.released = end
        for frame_end, key, moment in self.arrived:
            if frame_end <= end:
                assert self.settled_reads.get(key, 0) > moment, "released before its newest value was read"
        self.arrived = [item for item in self.arrived if item[0] > end]

    @invariant()
    def idle_means_all_released(self) -> None:
        if self.lane.is_idle():
            self.release()
            assert len(self.ledger) == 0
            assert not self.arrived

    @invariant()
    def unsettled_work_has_a_next_step(self) -> None:
        """Whatever is waiting can be taken now, later, or when an invocation ends: nothing is stuck."""
        if not self.lane.is_idle() and not self.flying:
            due = self.lane.next_due_ms()
            assert due is not None
            later = max(due, self.now_ms)
            probe = self.lane.take(later)
            assert probe is not None
            self.lane.retry(probe, self.now_ms)


LaneMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLane = LaneMachine.TestCase
TestLane.__doc__ = "A lane keeps keys in order, loses none, and releases only what was settled."
