from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.routing.slices import SLICES_MAX, BadSlice, Slice, parse_slice, shards_max
from tests.shard_plan import plan_shards

counts = st.integers(1, SLICES_MAX)
keys = st.binary(max_size=8)


@given(counts, keys)
def test_every_key_is_of_one_slice(count: int, key: bytes) -> None:
    """K slices cover every key, the empty one too, exactly once."""
    assert sum(Slice(index, count).owns(key) for index in range(count)) == 1


@given(counts, st.data())
def test_shards_of_all_slices_cover_every_key_once(count: int, data: st.DataObject) -> None:
    """Hosts that cut their slices into shards by samples of their own have each key in exactly one shard."""
    owners: Counter[int | None] = Counter()
    for index in range(count):
        shards = data.draw(st.integers(1, min(6, shards_max(count))))
        sample = data.draw(st.lists(st.binary(min_size=1, max_size=2), max_size=20))
        for shard in plan_shards(shards, 0, sample, Slice(index, count)):
            assert shard.last_bytes
            owners.update(shard.last_bytes)
            owners.update([None] * shard.takes_empty_key)
    assert owners == Counter([None, *range(256)])


@pytest.mark.parametrize("endings", ["0123456789", "0123456789abcdef", "0123456789ABCDEF"])
@pytest.mark.parametrize("count", range(1, 11))
def test_digits_and_hexadecimal_endings_are_dealt_out_evenly(count: int, endings: str) -> None:
    """Of keys that end in digits, or in hexadecimal ones, no slice gets more than one ending above its share."""
    of_slice = Counter(index for index in range(count) for end in endings if Slice(index, count).owns(end.encode()))
    assert max(of_slice.values()) - min(of_slice[index] for index in range(count)) <= 1


@given(counts, st.data())
def test_a_slice_is_read_as_it_is_written(count: int, data: st.DataObject) -> None:
    """What a slice is called names it."""
    part = Slice(data.draw(st.integers(0, count - 1)), count)
    assert parse_slice(str(part)) == part
    assert parse_slice(f"ordinal/{count}", f"ingest-engine-{part.index}.engine.svc") == part


@pytest.mark.parametrize(
    ("text", "host", "says"),
    [
        ("", "", "is not a valid slice"),
        ("1", "", "is not a valid slice"),
        ("-1/3", "", "is not a valid slice"),
        ("0/0", "", "asks for 0 slices"),
        ("0/33", "", "asks for 33 slices"),
        ("3/3", "", "numbered from 0 to 2"),
        ("ordinal/3", "host", "ends in none"),
        ("ordinal/3", "engine-3", "is number 3"),
        ("ordinal/3", "engine-1a", "ends in none"),
    ],
)
def test_what_names_no_slice_is_refused(text: str, host: str, says: str) -> None:
    """A slice that there is not is told, with why."""
    with pytest.raises(BadSlice, match=says):
        parse_slice(text, host)


@given(counts)
def test_every_slice_can_be_cut(count: int) -> None:
    """As many shards as are allowed find a byte each in every slice."""
    for index in range(count):
        assert len(plan_shards(min(shards_max(count), 64), 0, [], Slice(index, count))) == min(shards_max(count), 64)
