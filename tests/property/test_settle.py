from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.delivery.lanes.settle import Frame, Ledger
from engine.model import Watermark


class LedgerMachine(RuleBasedStateMachine):
    """A ledger against a list: a position is given back once nothing before it is open, and not sooner.

    A watermark counts from the moment at which all frames before it are settled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.end = 0
        self.model: list[tuple[int, int, tuple[Watermark, ...]]] = []
        """(end, how many hold it, watermarks) of every frame that was not given back."""
        self.frames: list[Frame] = []
        self.passed: dict[int, Watermark] = {}

    @rule(size=st.integers(1, 100), opened=st.integers(0, 3))
    def frame_arrives(self, size: int, opened: int) -> None:
        self.end += size
        frame = self.ledger.add(self.end)
        frame.open += opened
        self.frames.append(frame)
        self.model.append((self.end, opened, ()))

    @rule(
        watermarks=st.lists(
            st.builds(Watermark, st.integers(1, 1_000), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
            min_size=1,
            max_size=3,
        )
    )
    def watermarks_arrive(self, watermarks: list[Watermark]) -> None:
        self.end += 8
        self.frames.append(self.ledger.add(self.end, tuple(watermarks)))
        self.model.append((self.end, 0, tuple(watermarks)))

    @precondition(lambda self: any(held for _, held, _ in self.model))
    @rule(data=st.data())
    def an_entry_lets_go(self, data: st.DataObject) -> None:
        """In any order: deliveries end as they like."""
        index = data.draw(st.sampled_from([index for index, (_, held, _) in enumerate(self.model) if held]))
        end, held, watermarks = self.model[index]
        self.model[index] = (end, held - 1, watermarks)
        self.frames[index].open -= 1

    @precondition(lambda self: self.frames)
    @rule(data=st.data())
    def an_entry_takes_hold(self, data: st.DataObject) -> None:
        """A frame that is not given back yet may be held once more."""
        index = data.draw(st.integers(0, len(self.frames) - 1))
        end, held, watermarks = self.model[index]
        self.model[index] = (end, held + 1, watermarks)
        self.frames[index].open += 1

    @rule()
    def settle(self) -> None:
        expected: int | None = None
        while self.model and not self.model[0][1]:
            expected, _, watermarks = self.model.pop(0)
            self.frames.pop(0)
            self.passed.update({watermark.node: watermark for watermark in watermarks})
        assert self.ledger.settled() == expected

    @rule()
    def watermarks_are_taken(self) -> None:
        """Each once, and of each node the newest."""
        assert self.ledger.take_watermarks() == tuple(self.passed.values())
        self.passed.clear()

    @invariant()
    def the_rest_is_remembered(self) -> None:
        assert len(self.ledger) == len(self.model)


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
TestLedger.__doc__ = "What a ledger gives back, and when, is what the list of its frames says."
