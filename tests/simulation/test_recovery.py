"""A target that fails for long on scripted time: how soon its recovery is noticed, and how often it was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from engine.delivery.lanes import aftermath, shelving
from engine.delivery.lanes.health import PROBE_KEYS, PROBE_MS
from engine.delivery.lanes.work import Batch
from engine.model import Failure, Outcome
from engine.ring.counters import Counter
from tests.lane_bench import lane_kit
from tests.simulation.harness import Silent, unsync
from tests.simulation.test_fairness import Case, Play

BEAT_MS = 500
"""How often the loop looks at the latest."""
FAILURES = [
    Outcome(Failure.FUNCTION_ERROR, reason="raised"),
    Outcome(Failure.SERVICE, reason="503"),
    Outcome(Failure.REFUSED, reason="no such function"),
    Outcome(Failure.CONNECTION, reason="refused"),
    Outcome(Failure.ITEMS, ("all",), "named"),
]


class Outage(Play):
    """A function that fails until it is well; keys stop changing soon after it began to fail."""

    failure = FAILURES[0]
    well_ms = 0

    def _outcome(self, batch: Batch) -> Outcome:
        if self.now_ms >= self.well_ms:
            return Outcome()
        if self.failure.failure is Failure.ITEMS:
            return Outcome(Failure.ITEMS, tuple(str(index) for index in range(len(batch.sent))), "named")
        return self.failure

    def run_until(self, moment_ms: int, keys: int) -> None:
        """Mark so many keys dirty, and let time pass."""
        for number in range(keys):
            self._mark(b"key:%d" % number)
        self._start()
        while self.now_ms < moment_ms and not self.lane.keys.is_idle():
            self._step()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda outcome: outcome.failure.name)
@pytest.mark.parametrize("outage_s", [10, 60, 600])
@pytest.mark.parametrize("keys", [1, 300])
def test_a_recovery_is_noticed_within_a_second_at_any_length_of_the_outage(
    failure: Outcome, outage_s: int, keys: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All keys are delivered soon after the function is well; until then it was asked about once a second."""
    unsync(monkeypatch)
    for module in (aftermath, shelving):
        monkeypatch.setattr(module, "log", Silent())
    with lane_kit(tmp_path, monkeypatch) as kit:
        delivery = msgspec.structs.replace(kit.delivery, retry_backoff_ms_max=30_000, retrying_keys_max=20_000)
        case = Case(2, 100, 0, slow_ms=1, quick_ms=20, every_ms=1, names_records=True)
        play = Outage(replace(kit, delivery=delivery), case)
        play.failure, play.well_ms = failure, outage_s * 1_000
        started_ms: list[int] = []
        real = play._note

        def note(batch: Batch) -> None:
            started_ms.append(play.now_ms)
            real(batch)

        monkeypatch.setattr(play, "_note", note)
        play.run_until(outage_s * 1_000 + 120_000, keys)
        assert play.lane.keys.is_idle()
        assert kit.row.get(Counter.RECORDS_DELIVERED) == keys
        assert play.now_ms - play.well_ms <= PROBE_MS + 2 * BEAT_MS + 20 * keys // PROBE_KEYS
        # One a second, and the attempts that come in their own time.
        assert sum(moment_ms < play.well_ms for moment_ms in started_ms) <= 2 * outage_s + 30
