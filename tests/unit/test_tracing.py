"""Which changes are traced, what travels with them, and what becomes of spans that nobody takes."""

from __future__ import annotations

import random
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.capture.flush import runs_of
from engine.capture.traced import Marker, marker_of
from engine.model import Change, Run
from engine.ring.codec import CHANGE_BYTES_MAX, decode_runs, encode_runs
from engine.sandbox.functions import api
from engine.tracing.line import PASSAGES_WAITING_MAX, SpanLine, Teller
from engine.tracing.mark import IDS_BYTES, Mark, mark_of, parse_mark, traceparent_of
from engine.tracing.passage import Passage, decode_passages
from engine.tracing.sampling import Sampler

IDS = bytes(range(1, IDS_BYTES + 1))


def passage(size: int = 0) -> Passage:
    return Passage(mark_of(IDS, 2), 1, "hset", "k" * size, 1, "all", 2, 3, 4, 5, 6, end="accepted")


@given(st.integers(1, 1_000_000), st.lists(st.integers(1, 300), min_size=1, max_size=50), st.integers())
def test_picks_are_of_the_changes_asked_for(per_million: int, counts: list[int], seed: int) -> None:
    """Whatever the cut, indexes are within it and rise; all changes are picked where all are traced."""
    sampler = Sampler(per_million, random.Random(seed).random)
    for count in counts:
        picks = sampler.picks(count)
        assert picks == sorted(set(picks))
        assert all(0 <= index < count for index in picks)
        if per_million == 1_000_000:
            assert picks == list(range(count))


@pytest.mark.parametrize("cut", [1, 7, 1_000])
def test_as_many_are_picked_as_the_settings_say(cut: int) -> None:
    """However many changes come at once, one of a hundred is traced at 10,000 of a million."""
    sampler, changes = Sampler(10_000, random.Random(7).random), 200_000
    picked = sum(len(sampler.picks(cut)) for _ in range(changes // cut))
    assert 1_800 < picked < 2_200


def test_nothing_is_drawn_by_default() -> None:
    """Where no change is traced there is nobody to ask."""
    assert marker_of(0) is None


def test_a_traced_change_is_a_run_of_its_own() -> None:
    """Of keys that changed alike the traced one alone has a mark, and comes out of the ring with it."""
    alike = Change("hset", 1, 5)
    changes, keys = [alike] * 5, [b"%d" % number for number in range(5)]
    marker = Marker(Sampler(200_000, iter([0.4, 0.99999]).__next__), lambda: 77)
    marker.mark(changes)
    (at,) = [index for index, change in enumerate(changes) if change.trace]
    runs = decode_runs(encode_runs(runs_of(keys, changes)))
    assert [(run.keys, bool(run.trace)) for run in runs if run.trace] == [([keys[at]], True)]
    assert sorted(key for run in runs for key in run.keys) == keys
    (mark,) = [parse_mark(run.trace) for run in runs if run.trace]
    assert mark is not None
    assert (mark.written_ns, len(mark.trace_id), len(mark.span_id)) == (77, 16, 8)
    assert alike.trace == b""


def test_a_mark_fits_the_framing() -> None:
    """The largest run of one key takes no more than the framing that frames are reckoned with."""
    run = Run("e" * 64, 2**64 - 1, 2**63 - 1, [b"k" * 70_000], (), mark_of(IDS, 2**63))
    assert len(encode_runs([run])) - 70_000 - 64 <= CHANGE_BYTES_MAX


def test_marks_and_their_text() -> None:
    """A mark reads back as it was made, its text is W3C's, and what is none is no mark."""
    assert parse_mark(mark_of(IDS, 9)) == Mark(IDS[:16], IDS[16:], 9)
    assert parse_mark(b"x") is None
    text = traceparent_of(IDS[:16], IDS[16:])
    assert text == "00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01"


def test_spans_that_nobody_takes_are_dropped_and_counted() -> None:
    """A full way never blocks: what waits is bounded, all else is counted; what was taken comes out whole."""
    line, dropped = SpanLine(), 0

    def count(number: int) -> None:
        nonlocal dropped
        dropped += number

    teller = Teller(line.writer, count)
    told = 2 * PASSAGES_WAITING_MAX
    for _ in range(told):
        teller.tell(passage(200))
        teller.flush()
    taken = 0
    line.reader.setblocking(False)
    while True:
        try:
            taken += sum(one.spans() for one in decode_passages(line.reader.recv(1 << 20)))
        except BlockingIOError:
            teller.flush()
            try:
                line.reader.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                break
    assert 0 < dropped < 5 * told
    assert taken + dropped == 5 * told
    line.close()


def test_spans_whose_reader_is_gone_are_dropped() -> None:
    """Without the other end nothing waits, nothing is raised, and all is counted."""
    line, counted = SpanLine(), []
    line.reader.close()
    teller = Teller(line.writer, counted.append)
    teller.tell(passage())
    teller.flush()
    assert counted == [5]
    line.close()


def test_the_sandbox_takes_client_contexts_as_lambda_does() -> None:
    """A client context is base64 of JSON, of a bounded length; anything else is refused."""
    assert api.client_context("eyJjdXN0b20iOnsiYSI6ImIifX0=").text == '{"custom":{"a":"b"}}'
    assert api.client_context("") == api.ClientContext()
    for header in ("not base64!", "bm90IGpzb24=", "e30=" * 1_000):
        refusal = api.client_context(header).refusal
        assert refusal is not None
        assert refusal.status == 400
