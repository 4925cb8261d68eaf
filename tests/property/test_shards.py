from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.routing.assignment import imbalance
from engine.routing.byte_classes import byte_class, channel_prefix
from engine.routing.feeds import Feed
from engine.routing.nodes import Node
from tests.shard_plan import SHARDS_MAX, Shard, plan_shards

KEYS = [b"", *(bytes([byte]) for byte in range(256)), b"cart:*[]\\?", b"k]", b"\xff\x80"]

samples = st.lists(st.binary(max_size=4) | st.from_regex(rb"\Acart:[0-9]{1,3}\Z"), max_size=60)
counts = st.integers(min_value=1, max_value=SHARDS_MAX)


def glob(pattern: bytes, text: bytes, *, is_signed: bool) -> bool:
    """Match as the servers' ``stringmatchlen`` does, with ``char`` signed (x86-64) or not (Arm)."""

    def char(byte: int) -> int:
        return byte - 256 if is_signed and byte > 127 else byte

    if not pattern:
        return not text
    if pattern[:1] == b"*":
        return any(glob(pattern[1:], text[at:], is_signed=is_signed) for at in range(len(text) + 1))
    if not text:
        return False
    if pattern[:1] == b"[":
        found, rest = _in_class(pattern[1:], char(text[0]), char)
        return found and glob(rest, text[1:], is_signed=is_signed)
    if pattern[:1] == b"\\" and len(pattern) > 1:
        pattern = pattern[1:]
    return pattern[0] == text[0] and glob(pattern[1:], text[1:], is_signed=is_signed)


def _in_class(pattern: bytes, wanted: int, char: object) -> tuple[bool, bytes]:
    assert callable(char)
    negated = pattern[:1] == b"^"
    pattern = pattern[negated:]
    found = False
    while pattern:
        if pattern[:1] == b"\\" and len(pattern) >= 2:
            found |= char(pattern[1]) == wanted
            pattern = pattern[2:]
        elif pattern[:1] == b"]":
            return found is not negated, pattern[1:]
        elif len(pattern) >= 3 and pattern[1:2] == b"-":
            low, high = sorted((char(pattern[0]), char(pattern[2])))
            found |= low <= wanted <= high
            pattern = pattern[3:]
        else:
            found |= char(pattern[0]) == wanted
            pattern = pattern[1:]
    return found is not negated, b""


def matches(shard: Shard, key: bytes, *, is_signed: bool) -> int:
    """Return how many of the shard's patterns match: each delivers the event once more."""
    prefix = channel_prefix(0)
    found = 0
    for pattern in shard.patterns:
        # What stands before the first star is literal; matching only the rest keeps the test quick.
        assert pattern.startswith(prefix)
        found += glob(pattern[len(prefix) :], key[-2:], is_signed=is_signed)
    return found


@settings(deadline=None, max_examples=30)
@given(counts, samples)
@example(1, [])
@example(SHARDS_MAX, [])
@example(4, [b"k:%d" % number for number in range(100)])
@example(4, [b"k:profile"] * 20)
def test_every_key_is_on_exactly_one_shard(count: int, sample: list[bytes]) -> None:
    """Each of the 256 last bytes, and the empty key, matches one pattern of one shard, whether chars are signed or
    not, and the shard that ``owns`` names.
    """
    plan = plan_shards(count, 0, sample)
    assert [shard.index for shard in plan] == list(range(count))
    for is_signed in (True, False):
        for key in KEYS:
            hits = [matches(shard, key, is_signed=is_signed) for shard in plan]
            assert hits == [int(shard.owns(key)) for shard in plan]
            assert sum(hits) == 1


@settings(deadline=None)
@given(st.sets(st.integers(0, 255), min_size=1))
def test_a_class_takes_its_bytes_alone(members: set[int]) -> None:
    """A class matches exactly its bytes, however they lie and whatever they mean in a glob."""
    pattern = b"[" + byte_class(bytes(members)) + b"]"
    for is_signed in (True, False):
        taken = {byte for byte in range(256) if glob(pattern, bytes([byte]), is_signed=is_signed)}
        assert taken == members


@settings(deadline=None)
@given(counts, samples)
def test_the_plan_is_deterministic(count: int, sample: list[bytes]) -> None:
    """The order in which the keys were sampled changes nothing."""
    assert plan_shards(count, 3, sample) == plan_shards(count, 3, sorted(sample))


def shares(plan: tuple[Shard, ...], sample: list[bytes]) -> list[float]:
    return [sum(map(shard.owns, sample)) / len(sample) for shard in plan]


def on_one_node(plan: tuple[Shard, ...]) -> list[Feed]:
    return [Feed(Node(), shard.patterns, shard.last_bytes, shard.takes_empty_key) for shard in plan]


def test_digits_are_cut_evenly() -> None:
    """Keys that end in digits alone fill all shards: none gets more than the 3 of 10 digits that it must."""
    sample = [b"cart:%d" % number for number in range(1_000)]
    plan = plan_shards(4, 0, sample)
    assert max(shares(plan, sample)) < 0.31
    assert min(shares(plan, sample)) > 0.19
    assert imbalance(on_one_node(plan), sample) == ""


def test_scattered_bytes_are_balanced() -> None:
    """Where neighbours can't be cut evenly, shards take bytes from here and there."""
    weights = {b"a": 30, b"b": 2, b"c": 30, b"d": 2, b"e": 30, b"f": 6}
    sample = [b"k:" + byte for byte, count in weights.items() for _ in range(count)]
    plan = plan_shards(3, 0, sample)
    assert max(shares(plan, sample)) < 0.4


def test_neighbours_make_short_patterns() -> None:
    """An even sample is cut into one run a shard: the server walks a class from its start for each event."""
    plan = plan_shards(4, 0, [bytes([byte]) for byte in range(256)])
    assert all(len(shard.patterns[0]) < len(channel_prefix(0)) + 14 for shard in plan)


def test_one_ending_is_said() -> None:
    """Keys that all end alike can't be cut by their last byte, and the user learns it."""
    sample = [b"user:%d:profile" % number for number in range(100)]
    warning = imbalance(on_one_node(plan_shards(4, 0, sample)), sample)
    assert "100% of the sampled keys" in warning
    assert "one shard would do" in warning


def test_one_shard_is_one_pattern() -> None:
    """One shard takes everything, the empty key too, for the price of one pattern."""
    (shard,) = plan_shards(1, 7, [b"x"])
    assert shard.patterns == (b"__keyspace@7__:*",)
