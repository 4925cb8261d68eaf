"""The shard plan: disjoint byte classes on the last byte of a key, applied by the server.  (pure)

``PSUBSCRIBE __keyspace@0__:*[a-m]`` delivers the keys that end in *a* to *m*, and nobody else's. Classes that are
disjoint and cover all 256 byte values deliver each key to exactly one subscriber. Two traps:

- the server compares ranges as C ``char``: signed on x86-64, unsigned on Arm; a range across 127/128 is silently
  swapped there and matches other keys, so none of ours crosses it;
- the empty key's channel ends in ``:`` and no class matches it: the first shard takes it literally.

Each pattern costs the server's one thread about 0.25 µs an event: few shards a node, not many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

SHARDS_MAX = 64
_SPECIAL = frozenset(b"]\\^-[*?")
_PRIOR = 0.05
"""What the bytes that no sampled key ends in weigh together, as a part of all."""
_HOT = 1.5
"""A shard that gets this many times its fair share is worth a warning."""


class Shard(msgspec.Struct, frozen=True):
    """A part of the keyspace: ``patterns`` for PSUBSCRIBE; ``last_bytes`` says which keys they match."""

    index: int
    patterns: tuple[bytes, ...]
    last_bytes: bytes
    takes_empty_key: bool

    def owns(self, key: bytes) -> bool:
        """Tell whether this shard's patterns match the key's channel."""
        return key[-1] in self.last_bytes if key else self.takes_empty_key


def channel_prefix(database: int) -> bytes:
    """Return what stands before the key in a keyspace channel."""
    return b"__keyspace@%d__:" % database


def plan_shards(count: int, database: int, sample: Iterable[bytes]) -> tuple[Shard, ...]:
    """Cut the keyspace into shards of about equal shares of the sampled keys."""
    assert 1 <= count <= SHARDS_MAX
    prefix = channel_prefix(database)
    everything = bytes(range(256))
    if count == 1:
        return (Shard(0, (prefix + b"*",), everything, True),)
    cuts = [0, *_cuts(count, _weights(sample)), 256]
    shards = []
    for index in range(count):
        members = everything[cuts[index] : cuts[index + 1]]
        patterns = [prefix + b"*[" + byte_class(members) + b"]"]
        if index == 0:
            patterns.append(prefix)
        shards.append(Shard(index, tuple(patterns), members, index == 0))
    return tuple(shards)


def imbalance(shards: Iterable[Shard], sample: Iterable[bytes]) -> str:
    """Return a warning where one shard gets far more than its share of the sample, else ""."""
    plan, keys = tuple(shards), tuple(sample)
    if len(plan) < 2 or not keys:
        return ""
    shares = [sum(shard.owns(key) for key in keys) / len(keys) for shard in plan]
    busiest = max(range(len(plan)), key=shares.__getitem__)
    if shares[busiest] < _HOT / len(plan):
        return ""
    return (
        f"shard {busiest + 1} of {len(plan)} gets {shares[busiest]:.0%} of the sampled keys: too few keys "
        "differ in their last byte to cut them evenly; fewer shards would do as well"
    )


def byte_class(members: bytes) -> bytes:
    """Return the inside of a glob class that matches exactly these bytes, on any architecture."""
    return b"".join(_range(low, high) for low, high in _runs(sorted(set(members))))


def _weights(sample: Iterable[bytes]) -> list[float]:
    counts = [0] * 256
    for key in sample:
        if key:
            counts[key[-1]] += 1
    total = sum(counts)
    prior = max(1.0, total * _PRIOR) / 256
    return [count + prior for count in counts]


def _cuts(count: int, weights: list[float]) -> list[int]:
    """Return where to cut 0–256 into ``count`` non-empty runs of about equal weight."""
    share = sum(weights) / count
    cuts: list[int] = []
    running = 0.0
    for byte, weight in enumerate(weights):
        while len(cuts) < count - 1 and running + weight / 2 >= share * (len(cuts) + 1):
            cuts.append(byte)
        running += weight
    cuts += [256] * (count - 1 - len(cuts))
    for index in range(count - 1):
        cuts[index] = max(cuts[index], cuts[index - 1] + 1 if index else 1)
    for index in reversed(range(count - 1)):
        cuts[index] = min(cuts[index], 256 - (count - 1 - index))
    return cuts


def _runs(members: list[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of neighbours, cut between 127 and 128."""
    start = previous = members[0]
    for byte in members[1:]:
        if byte != previous + 1 or byte == 128:
            yield start, previous
            start = byte
        previous = byte
    yield start, previous


def _range(low: int, high: int) -> bytes:
    """Return a run as a range whose ends are not special, plus escaped singles."""
    before, after = b"", b""
    while low <= high and low in _SPECIAL:
        before += b"\\" + bytes((low,))
        low += 1
    while low <= high and high in _SPECIAL:
        after += b"\\" + bytes((high,))
        high -= 1
    if high - low < 2:
        middle = bytes(range(low, high + 1))
        middle = b"".join(b"\\" + bytes((b,)) if b in _SPECIAL else bytes((b,)) for b in middle)
    else:
        middle = bytes((low,)) + b"-" + bytes((high,))
    return before + middle + after
