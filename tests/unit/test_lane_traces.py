"""Traces in a lane: which stages are told of, and what becomes of traces whose keys coalesce, fail, or go elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import orjson
import pytest

from engine.delivery.dispatch import Burial
from engine.delivery.lanes.batch import PayloadBuilder
from engine.delivery.lanes.hands import LaneKit
from engine.delivery.lanes.route_lane import RouteLane
from engine.delivery.lanes.settle import Ledger
from engine.delivery.lanes.work import Batch, Parents
from engine.delivery.reading.questions import MANY, Fetched
from engine.delivery.targets.batches import parts_of
from engine.delivery.targets.sqs import SqsTarget
from engine.delivery.traces import TRACED_MAX, Tracing
from engine.model import Failure, Outcome, Run
from engine.tracing.line import Teller
from engine.tracing.mark import IDS_BYTES, mark_of, traceparent_of
from engine.tracing.passage import Passage, decode_passages, encode_passages
from engine.tracing.spans import Stage, StageSpan, spans_of
from tests.lane_bench import ROUTE, UNIX_MS, Hands, lane_kit

ACCEPTED = Outcome()
RAISED = Outcome(Failure.FUNCTION_ERROR, reason="raised")


class Told(Teller):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.spans: list[StageSpan] = []
        self.dropped = 0

    def tell(self, passage: Passage) -> None:
        (sent,) = decode_passages(encode_passages([passage]))
        spans = list(spans_of(sent, lambda: os.urandom(8)))
        assert len(spans) == passage.spans()
        self.spans += spans

    def drop(self, count: int) -> None:
        self.dropped += count

    def flush(self) -> None:
        pass


class Bench:
    """A lane whose changes may be traced, and what is told of them; each look at the clock is a nanosecond later."""

    def __init__(self, kit: LaneKit, **options: object) -> None:
        self.told, self.now_ns = Told(), UNIX_MS * 1_000_000
        self.tracing = Tracing(self.told, 1, names_keys=False, server="the server", clock_ns=self._clock)
        self.lane = RouteLane(msgspec.structs.replace(ROUTE, **options), replace(kit, tracing=self.tracing))
        self.lane.shelving.is_sorted = True
        self.ledger, self._end, self._traces = Ledger(), 0, 0

    def _clock(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def mark(self, *keys: bytes, event: str = "hset", traced: bool = False, captured_ms: int = UNIX_MS) -> bytes:
        """Mark keys dirty; return the trace's id."""
        self._end += 10
        trace = b""
        if traced:
            self._traces += 1
            trace = mark_of(self._traces.to_bytes(IDS_BYTES, "little"), self._clock())
        runs = [Run(event, 1, captured_ms, [*keys], (), trace)]
        self.lane.keys.add(runs, self.ledger.add(self._end), 0)
        self.lane.traces.arrive(runs, self.tracing.origins_of(runs))
        return trace[:16]

    def send(self, at_ms: int = 0, body: str | None = "{}") -> Batch:
        batch = self.lane.take(at_ms)
        assert batch is not None
        self.lane.send(batch, [Fetched(key, "hash", body, "", 7) for key, _ in batch.entries], at_ms, UNIX_MS + at_ms)
        return batch

    def end(self, batch: Batch, outcome: Outcome = ACCEPTED, at_ms: int = 0) -> None:
        self.lane.complete(batch, outcome, at_ms, UNIX_MS + at_ms)

    def look(self) -> None:
        self.tracing.look([self.lane], 0, is_last=True)

    def stages(self, trace_id: bytes) -> list[str]:
        return [one.stage.name.lower() for one in self.told.spans if one.trace_id == trace_id]

    def outcomes(self) -> list[object]:
        return [one.attributes["ingest.outcome"] for one in self.told.spans if one.stage is Stage.SETTLED]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaneKit]:
    with lane_kit(tmp_path / "backlog", monkeypatch) as made:
        yield made


def records(batch: Batch) -> dict[str, dict[str, str]]:
    return {one["id"]: one for one in orjson.loads(batch.payload)["records"]}


def test_stages_of_a_delivery(kit: LaneKit) -> None:
    """Each stage begins where the one before it ended, and the record names the invocation."""
    bench = Bench(kit)
    bench.mark(b"a", b"b")
    trace_id = bench.mark(b"c", traced=True)
    batch = bench.send()
    bench.end(batch)
    assert bench.stages(trace_id) == ["captured", "waited", "fetched", "invoked", "settled"]
    captured, *others = bench.told.spans
    assert {one.parent_id for one in others} == {captured.span_id}
    assert all(one.end_ns == two.start_ns for one, two in zip(bench.told.spans, others, strict=False))
    invoked = others[2]
    assert batch.traceparent == traceparent_of(trace_id, invoked.span_id)
    assert {key: one.get("traceparent") for key, one in records(batch).items()} == {
        "a": None, "b": None, "c": batch.traceparent
    }  # fmt: skip
    assert (invoked.attributes["ingest.batch_size"], invoked.attributes["ingest.attempt"]) == (3, 1)
    assert others[1].attributes["ingest.node"] == "the server"
    assert not bench.lane.traces.under_way


def test_untraced_batches_say_nothing(kit: LaneKit) -> None:
    """Where nothing is traced a batch has neither context nor mark, and nothing is told."""
    bench = Bench(kit)
    bench.mark(b"a", b"b")
    batch = bench.send()
    bench.end(batch)
    assert (batch.traceparent, bench.told.spans) == ("", [])
    assert b"traceparent" not in batch.payload


def test_a_traced_change_that_coalesces_shares_the_delivery(kit: LaneKit) -> None:
    """Several traced changes of one key have one delivery: the record names the oldest, the others link to it."""
    bench = Bench(kit)
    bench.mark(b"a", captured_ms=UNIX_MS - 5)
    first = bench.mark(b"a", traced=True)
    second = bench.mark(b"a", traced=True)
    batch = bench.send()
    bench.end(batch)
    for trace_id in (first, second):
        assert bench.stages(trace_id) == ["captured", "waited", "fetched", "invoked", "settled"]
    invoked = {one.trace_id: one for one in bench.told.spans if one.stage is Stage.INVOKED}
    assert records(batch)["a"]["traceparent"] == traceparent_of(first, invoked[first].span_id)
    assert invoked[second].linked == (first, invoked[first].span_id)
    assert invoked[first].linked == (b"", b"")
    waited = [one for one in bench.told.spans if one.stage is Stage.WAITED]
    assert [one.attributes["ingest.coalesced"] for one in waited] == [True, True]


def test_a_change_behind_an_invocation_waits_for_its_own(kit: LaneKit) -> None:
    """A key that changes while it is in flight has its trace end with the next delivery, not with that one."""
    bench = Bench(kit)
    first = bench.mark(b"a", traced=True)
    batch = bench.send()
    second = bench.mark(b"a", traced=True)
    bench.end(batch)
    assert bench.stages(first)[-1] == "settled"
    assert bench.stages(second) == []
    batch = bench.send()
    bench.end(batch)
    assert bench.stages(second) == ["captured", "waited", "fetched", "invoked", "settled"]
    assert not bench.lane.traces.under_way


def test_a_retry_goes_on_with_the_trace(kit: LaneKit) -> None:
    """A failure is an attempt of the same trace; a change that came meanwhile joins the retry."""
    bench = Bench(kit)
    first = bench.mark(b"a", traced=True)
    batch = bench.send()
    second = bench.mark(b"a", traced=True)
    bench.end(batch, RAISED)
    batch = bench.send(60_000)
    bench.end(batch, at_ms=60_000)
    assert bench.stages(first) == [
        "captured",
        "waited",
        "fetched",
        "invoked",
        "waited",
        "fetched",
        "invoked",
        "settled",
    ]
    assert bench.stages(second) == ["captured", "waited", "fetched", "invoked", "settled"]
    invoked = [one.attributes for one in bench.told.spans if one.stage is Stage.INVOKED and one.trace_id == first]
    assert [(one["ingest.attempt"], one["ingest.outcome"]) for one in invoked] == [
        (1, "function_error"), (2, "accepted")
    ]  # fmt: skip


def test_some_keys_of_a_batch_are_traced_whatever_is_taken_out(kit: LaneKit) -> None:
    """Keys that are gone leave their batch: those behind them are told of by their own names all the same."""
    bench = Bench(kit, batch_size=10)
    traced = {}
    for number in range(8):
        trace_id = bench.mark(b"%d" % number, traced=number in {1, 2, 5, 7})
        if trace_id:
            traced[b"%d" % number] = trace_id
    batch = bench.lane.take(0)
    assert batch is not None
    values = [Fetched(key, "hash", None if key in {b"0", b"2", b"6"} else "{}", "", 7) for key, _ in batch.entries]
    bench.lane.send(batch, values, 0, UNIX_MS)
    bench.end(batch)
    stages = {key: bench.stages(trace_id)[2:] for key, trace_id in traced.items()}
    assert stages.pop(b"2") == ["fetched", "settled"]
    assert stages == {key: ["fetched", "invoked", "settled"] for key in (b"1", b"5", b"7")}
    assert {key for key, one in records(batch).items() if "traceparent" in one} == {"1", "5", "7"}
    assert not bench.lane.traces.under_way


def test_a_key_of_two_routes_is_captured_once(kit: LaneKit) -> None:
    """Each route's lane tells of its own delivery, and the first one that is told of the capture, for all."""
    bench = Bench(kit)
    other = RouteLane(msgspec.structs.replace(ROUTE, name="others"), replace(kit, tracing=bench.tracing))
    other.shelving.is_sorted = True
    runs = [Run("hset", 3, UNIX_MS, [b"a"], (), mark_of(b"t" * IDS_BYTES, 1))]
    origins = bench.tracing.origins_of(runs)
    for lane in (bench.lane, other):
        lane.keys.add(runs, Ledger().add(1), 0)
        lane.traces.arrive(runs, origins)
        batch = lane.take(0)
        assert batch is not None
        lane.send(batch, [Fetched(b"a", "hash", "{}", "", 7)], 0, UNIX_MS)
        lane.complete(batch, ACCEPTED, 0, UNIX_MS)
    assert bench.stages(b"t" * 16) == ["captured", *["waited", "fetched", "invoked", "settled"] * 2]
    assert [one.attributes["ingest.route"] for one in bench.told.spans if one.stage is Stage.SETTLED] == [
        "carts", "others"
    ]  # fmt: skip


def test_records_that_fail_alone(kit: LaneKit) -> None:
    """Of a batch some of whose records fail, each trace says how its own record fared."""
    bench = Bench(kit)
    well, ill = bench.mark(b"a", traced=True), bench.mark(b"b", traced=True)
    batch = bench.send()
    bench.end(batch, Outcome(Failure.ITEMS, ("1",), "one failed"))
    assert bench.stages(well)[-1] == "settled"
    assert bench.stages(ill)[-1] == "invoked"
    outcomes = {
        one.trace_id: one.attributes["ingest.outcome"] for one in bench.told.spans if one.stage is Stage.INVOKED
    }
    assert outcomes == {well: "accepted", ill: "items"}


@pytest.mark.parametrize("body", [None])
def test_a_key_that_is_gone_ends_its_trace(kit: LaneKit, body: str | None) -> None:
    """A key that needs no delivery is settled as gone, without an invocation."""
    bench = Bench(kit)
    trace_id = bench.mark(b"a", traced=True)
    bench.send(body=body)
    assert bench.stages(trace_id) == ["captured", "waited", "fetched", "settled"]
    assert bench.outcomes() == ["gone"]


def test_a_dead_letter_ends_the_trace(kit: LaneKit) -> None:
    """A trace ends once its letter is kept, and not before."""
    bench = Bench(kit, maximum_retry_attempts=0)
    trace_id = bench.mark(b"a", traced=True)
    bench.end(bench.send(), RAISED)
    hands = bench.lane._hands._dispatcher
    assert isinstance(hands, Hands)
    burial = hands.jobs[-1]
    assert isinstance(burial, Burial)
    assert bench.stages(trace_id)[-1] == "invoked"
    bench.lane.buried(burial, "", 0)
    assert bench.stages(trace_id)[-1] == "settled"
    assert bench.outcomes() == ["dead_letter"]


def test_a_key_that_moves_to_disk_ends_its_trace(kit: LaneKit) -> None:
    """On disk there is no trace: it ends as what the backlog has, and the key itself goes its way."""
    bench = Bench(kit)
    trace_id = bench.mark(b"a", traced=True)
    bench.look()
    assert bench.stages(trace_id) == []
    bench.lane.empty_out(0)
    bench.look()
    assert bench.stages(trace_id) == ["captured", "settled"]
    assert bench.outcomes() == ["backlog"]
    assert not bench.lane.traces.under_way


def test_traces_are_bounded(kit: LaneKit) -> None:
    """Past the bound changes are delivered as ever, and what is not told of them is counted."""
    bench = Bench(kit)
    for number in range(TRACED_MAX + 3):
        bench.mark(b"%d" % number, traced=True)
    assert len(bench.lane.traces.under_way) == TRACED_MAX
    assert bench.told.dropped == 3 * 5


def test_both_ways_to_a_payload_say_the_same(kit: LaneKit) -> None:
    """A payload that is encoded in one go names traces as one that is put together does."""
    bench = Bench(kit, batch_size=1_000)
    keys = [b"key:%d" % number for number in range(MANY + 5)]
    bench.mark(*keys)
    bench.mark(keys[3], traced=True)
    batch = bench.lane.take(0)
    assert batch is not None
    values = [Fetched(key, "hash", "{}", "", 7) for key in keys]
    builder, parents = PayloadBuilder(bench.lane.route, 0, 6_000_000), Parents({keys[3]: "00-a-b-01"}, [3])
    whole = builder.build(batch.entries, values, 5, parents).payload
    _, parts = builder._each(batch.entries, values)
    assert orjson.loads(whole)["records"] == [orjson.loads(part) for part in parts]
    assert [one["id"] for one in orjson.loads(whole)["records"] if "traceparent" in one] == ["key:3"]


def test_a_queue_s_messages_have_an_attribute() -> None:
    """A traced record's message has the context as its attribute, which counts against the queue's limits."""
    plain = b'{"record_id":"0","id":"a","body":"{}","version":1,"event":"hset","captured_at_ms":1'
    payload = b'{"records":[' + plain + b"}," + plain + b',"traceparent":"00-a-b-01"}]}'
    untraced, traced = parts_of(payload)
    target = SqsTarget.__new__(SqsTarget)
    target.place = type("Place", (), {"is_fifo": False, "account": "1", "name": "q"})()
    first, second = target.parameters([untraced, traced], "http://sqs")["Entries"]
    assert "MessageAttributes" not in first
    assert second["MessageAttributes"] == {"traceparent": {"DataType": "String", "StringValue": "00-a-b-01"}}
    extra = len(traced.data) - len(untraced.data)
    assert target.size_of(traced) - target.size_of(untraced) == extra + len("traceparentString00-a-b-01")
