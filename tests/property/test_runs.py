"""What is done for a run of keys at once is what is done for each of them alone."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from engine.capture.flush import runs_of
from engine.config import RouteSettings
from engine.delivery.lanes import batch
from engine.delivery.lanes.batch import PayloadBuilder
from engine.delivery.lanes.lane import Lane
from engine.delivery.lanes.settle import Frame, Ledger
from engine.delivery.lanes.work import Cause, Entry, causes_of
from engine.delivery.reading.questions import MANY, TYPE, Fetched, ask, interpret, interpret_all
from engine.model import Change, Run
from tests.runs import dirty_in, each_of

KEYS = st.lists(st.binary(max_size=2), max_size=12, unique=True)
NAMES = st.sampled_from(["hset", "hdel", "repair"])
CHANGES = [Change("hset", 1, 5), Change("hset", 1, 6), Change("del", 3, 5, (("del", 5),))]


@given(st.dictionaries(st.binary(max_size=3), st.sampled_from(CHANGES), max_size=20))
def test_a_frame_has_a_run_for_keys_that_share_a_change(bucket: dict[bytes, Change]) -> None:
    """Each key is in one run, with what is known of it; no two runs are alike, and keys of one keep their order."""
    runs = runs_of(list(bucket), list(bucket.values()))
    assert sorted(each_of(runs)) == sorted(dirty_in(bucket))
    assert len(runs) == len(set(map(id, bucket.values())))
    for run in runs:
        assert run.keys == [key for key in bucket if key in run.keys]


class Pair:
    """A lane that is given runs, and one that is given the same keys one by one."""

    def __init__(self, *, coalesces: bool) -> None:
        self.lanes = [Lane(batch_size=4, window_ms=0, slots=9), Lane(batch_size=4, window_ms=0, slots=9)]
        self.ledgers = [Ledger(), Ledger()]
        self.frames: list[tuple[Frame, Frame]] = []
        for lane in self.lanes:
            lane.coalesces = coalesces

    def add(self, runs: list[Run], *, is_fenced: bool) -> None:
        frames = [ledger.add(len(self.frames) + 1) for ledger in self.ledgers]
        self.frames.append((frames[0], frames[1]))
        ones = [Run(run.event, run.routes, run.captured_ms, [key], run.events) for run in runs for key in run.keys]
        merged = []
        for lane, frame, mine in zip(self.lanes, frames, (runs, ones), strict=True):
            if is_fenced:
                lane.add_fenced(mine, frame, 0)
            else:
                merged.append(lane.add(mine, frame, 0))
        assert len(set(merged)) <= 1

    def take(self) -> None:
        batches = [lane.take(0) for lane in self.lanes]
        if batches[0] is None or batches[1] is None:
            assert batches == [None, None]
            return
        told = [[(key, told_of(cause)) for key, cause in batch.entries] for batch in batches if batch]
        assert told[0] == told[1]
        if batches[0].entries[0][1].captured_ms % 2:
            for lane, batch in zip(self.lanes, batches, strict=True):
                lane.settle(batch.entries)

    def check(self) -> None:
        first, second = self.lanes
        for place in ("waiting", "held"):
            told = [[(key, told_of(cause)) for key, cause in getattr(lane, place).items()] for lane in self.lanes]
            assert told[0] == told[1]
        assert first.in_flight == second.in_flight
        assert [frame.open for frame, _ in self.frames] == [frame.open for _, frame in self.frames]


def told_of(cause: Cause) -> tuple[Any, ...]:
    return cause.event, cause.captured_ms, cause.frame.end, cause.events


frames_of_runs = st.lists(
    st.builds(
        Run,
        event=NAMES,
        routes=st.just(1),
        captured_ms=st.integers(1, 9),
        keys=st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), min_size=1, max_size=5, unique=True),
    ),
    min_size=1,
    max_size=3,
)


@given(
    st.lists(
        st.one_of(st.just("take"), st.tuples(frames_of_runs, st.integers(0, 5).map(lambda drawn: not drawn))),
        max_size=12,
    ),
    st.booleans(),
)
def test_a_run_fares_as_its_keys_one_by_one(script: list[Any], coalesces: bool) -> None:
    """Whatever waits, is in flight or held: the same keys wait, with the same causes, and hold the same frames."""
    pair = Pair(coalesces=coalesces)
    for step in script:
        if step == "take":
            pair.take()
        else:
            pair.add(step[0], is_fenced=step[1])
        pair.check()


def test_a_key_that_a_run_names_twice_holds_its_frame_once() -> None:
    """No frame stays open for ever, whatever was in it."""
    lane, frame = Lane(batch_size=4, window_ms=0, slots=1), Frame(1)
    assert lane.add([Run("hset", 1, 1, [b"a", b"b", b"a"])], frame, 0) == 1
    assert frame.open == 2
    batch = lane.take(0)
    assert batch is not None
    lane.settle(batch.entries)
    assert frame.open == 0


values = st.builds(
    Fetched,
    key=st.just(b""),
    type=st.just("hash"),
    body=st.one_of(st.text(max_size=30), st.text(max_size=30), st.none()),
    body_encoding=st.sampled_from(["", "", "", "base64"]),
    version=st.integers(1, 2**53),
    error=st.sampled_from(["", "", "", "no canonical body"]),
    expires_at_ms=st.sampled_from([0, 0, 0, 7]),
)


plain = st.builds(
    Fetched,
    key=st.just(b""),
    type=st.sampled_from(["hash", "string"]),
    body=st.text(max_size=30),
    body_encoding=st.just(""),
    version=st.integers(1, 2**53),
)
names = st.text(max_size=5).map(str.encode)
CAUSE = Cause("hset", 1_000, Frame(0))


def call_of(found: list[tuple[bytes, Fetched]]) -> tuple[list[Entry], list[Fetched]]:
    return [(key, CAUSE) for key, _ in found], [value for _, value in found]


@given(
    st.one_of(
        st.lists(st.tuples(st.one_of(names, st.binary(max_size=3)), values), max_size=8),
        st.lists(st.tuples(names, plain), min_size=MANY, max_size=8),
    ),
    st.one_of(st.integers(150, 2_500), st.integers(-3, 3)),
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 2**45),
)
def test_a_payload_that_is_made_at_once_is_the_one_that_is_put_together(
    found: list[tuple[bytes, Fetched]], limit: int, batch_size: int, is_unfenced: bool, deadline_ms: int
) -> None:
    """The same bytes, and the same becomes of each key, also where all fit by a byte, or do not."""
    if limit < 100:
        whole = PayloadBuilder(RouteSettings("r", "f", batch_size=batch_size), 3, 1_000_000)
        records = whole._each(*call_of(found))[1]
        limit += sum(map(len, records)) + len(records) - 1 + batch._FRAMING_BYTES
    builder = PayloadBuilder(RouteSettings("r", "f", batch_size=batch_size), 3, limit)
    entries, told = call_of(found)
    built = builder.build(entries, told, deadline_ms, is_unfenced=is_unfenced)
    with patch.object(builder, "_at_once", lambda *_, **__: b""):
        assert builder.build(entries, told, deadline_ms, is_unfenced=is_unfenced) == built


def test_payloads_are_full_to_the_same_byte_either_way() -> None:
    """All records go into one payload from the same limit on, whichever way it is made, and no earlier."""
    entries, told = call_of([(b"k%d" % number, Fetched(b"", "hash", "{}", "", 7)) for number in range(2 * MANY)])
    whole = len(PayloadBuilder(RouteSettings("r", "f"), 3, 1_000_000).build(entries, told).payload)
    sent = []
    for limit in range(whole, whole + 80):
        builder = PayloadBuilder(RouteSettings("r", "f"), 3, limit)
        built = builder.build(entries, told)
        with patch.object(builder, "_at_once", lambda *_, **__: b""):
            assert builder.build(entries, told) == built
        sent.append(len(built.sent))
    assert sent[0] < len(entries) == sent[-1]


@given(KEYS, st.lists(st.sampled_from(["hash", "string", "zset", TYPE]), min_size=12, max_size=12), st.booleans())
def test_keys_are_asked_for_as_each_would_be(keys: list[bytes], kinds: list[str], is_alike: bool) -> None:
    """The commands for many keys are those for each, one after the other."""
    kinds = [kinds[0] if is_alike else kind for kind in kinds][: len(keys)]
    assert ask(keys, kinds) == b"".join(ask([key], [kind]) for key, kind in zip(keys, kinds, strict=True))


texts = st.one_of(st.text(max_size=3), st.just("\udcff"))
replies = st.one_of(
    st.dictionaries(texts, texts, min_size=1, max_size=3),
    st.dictionaries(texts, texts, max_size=1),
    st.just(hiredis.ReplyError("WRONGTYPE no hash")),
    st.none(),
)


hashes = st.dictionaries(st.text(max_size=3), texts, max_size=3)


@given(st.one_of(st.lists(replies, max_size=9), st.lists(hashes, min_size=MANY, max_size=9)))
def test_replies_mean_what_each_means(answers: list[Any]) -> None:
    """Values that are made at once are those that each reply gives; what is open is asked again."""
    keys = [b"%d" % number for number in range(len(answers))]
    fetched, again = interpret_all(keys, ["hash"] * len(answers), answers, 7)
    alone = [interpret(key, "hash", answer, 7) for key, answer in zip(keys, answers, strict=True)]
    assert [index for index, _ in again] == [index for index, one in enumerate(alone) if isinstance(one, str)]
    assert [one for one in fetched if one.type == "hash"] == [
        one for one in alone if isinstance(one, Fetched) and one.type == "hash"
    ]


@given(st.lists(st.integers(0, 2), max_size=12))
def test_causes_are_counted(drawn: list[int]) -> None:
    """Each key counts once, for its own cause."""
    causes = [Cause("hset", number, Frame(0)) for number in range(3)]
    counted = causes_of([(b"", causes[number]) for number in drawn])
    assert [cause.captured_ms for cause, count in counted for _ in range(count)] == drawn
