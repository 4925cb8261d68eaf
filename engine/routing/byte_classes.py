r"""Disjoint classes of keys' last bytes, by which a server distributes the events of one node.  (pure)

``PSUBSCRIBE __keyspace@0__:*[a-m]`` delivers the keys that end in *a* to *m*, and no others. Classes that are
disjoint and cover all 256 byte values deliver each key to exactly one subscriber. Two traps:

- the server compares ranges as C ``char``: signed on x86-64, unsigned on Arm; a range across 127/128 is silently
  swapped there and matches other keys, so none of ours crosses it;
- the empty key's channel ends in ``:`` and no class matches it: one subscriber has to name it literally.

Each pattern costs the server's one thread about 0.25 µs an event, and it walks a class from its start: few patterns a
node, and few ranges a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

_SPECIAL = frozenset(b"]\\^-[*?")
_PRIOR = 0.05
"""The combined weight of the bytes that no sampled key ends in, as a share of all."""
_SCATTER_GAIN = 0.9
"""Classes of scattered bytes make longer patterns; they must reduce the busiest shard to this share."""


def channel_prefix(database: int) -> bytes:
    """Return the part of a keyspace channel before the key."""
    return b"__keyspace@%d__:" % database


def byte_class(members: bytes) -> bytes:
    """Return the inside of a glob class that matches exactly these bytes, on any architecture."""
    return b"".join(_range(low, high) for low, high in _runs(sorted(set(members))))


def in_words(members: bytes) -> str:
    """Return which last bytes these are, for people: "all", or their class as printable text."""
    if len(set(members)) == 256:
        return "all"
    return "".join(chr(byte) if 32 < byte < 127 else f"\\x{byte:02x}" for byte in byte_class(members))


def count_endings(sample: Iterable[bytes]) -> list[int]:
    """Return how many of these keys end in each byte."""
    counts = [0] * 256
    for key in sample:
        if key:
            counts[key[-1]] += 1
    return counts


def cut(count: int, counts: Sequence[int], own: bytes) -> list[bytes]:
    """Return ``count`` parts of these bytes, with about equal shares of the counts.

    The bytes of a part are neighbours if that is about as even as any cut can be.
    """
    return [bytes(own[place] for place in places) for places in _cut_places(count, [counts[byte] for byte in own])]


def _cut_places(count: int, counts: Sequence[int]) -> list[bytes]:
    assert count <= len(counts)
    # Bytes that are missing in the sample may appear later: each weighs a little.
    prior = max(1.0, sum(counts) * _PRIOR) / len(counts)
    weights = [sampled + prior for sampled in counts]
    neighbours = _cut_in_runs(count, weights)
    if sum(map(bool, counts)) < 2:
        return neighbours
    scattered = _cut_scattered(count, counts, weights)
    if _heaviest(scattered, weights) < _heaviest(neighbours, weights) * _SCATTER_GAIN:
        return scattered
    return neighbours


def _heaviest(cut: Iterable[bytes], weights: Sequence[float]) -> float:
    return max(sum(weights[byte] for byte in members) for members in cut)


def _cut_in_runs(count: int, weights: Sequence[float]) -> list[bytes]:
    """Return ``count`` non-empty runs of neighbours, the sum of whose squared weights is as small as can be.

    Dynamic programming, one more run each round: ``costs[end]`` is the best cost of cutting the bytes before
    ``end``, ``starts[end]`` where its last run starts. Best starts never move back (Knuth), which keeps it quick.
    """
    before = [0.0, *accumulate(weights)]
    costs = [weight * weight for weight in before]
    size = len(weights)
    rounds = [[0] * (size + 1)]
    for runs in range(2, count + 1):
        previous, starts, costs_now = rounds[-1], [0] * (size + 1), [0.0] * (size + 1)
        latest = size - 1
        for end in range(size, runs - 1, -1):
            cost, latest = min(
                (costs[start] + (before[end] - before[start]) ** 2, start)
                for start in range(max(previous[end], runs - 1), min(latest, end - 1) + 1)
            )
            costs_now[end], starts[end] = cost, latest
        costs = costs_now
        rounds.append(starts)
    cut, end = [], size
    for starts in reversed(rounds):
        cut.append(bytes(range(starts[end], end)))
        end = starts[end]
    return cut[::-1]


def _cut_scattered(count: int, counts: Sequence[int], weights: Sequence[float]) -> list[bytes]:
    """Assign the sampled bytes, the heaviest first, to the lightest shard; then the others, run by run."""
    sampled = sorted((byte for byte in range(len(counts)) if counts[byte]), key=lambda byte: (-counts[byte], byte))
    pieces = [[byte] for byte in sampled]
    others = [byte for byte in range(len(counts)) if not counts[byte]]
    size = max(1, len(others) // count)
    pieces += [others[start : start + size] for start in range(0, len(others), size)]
    cut: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for piece in pieces:
        lightest = min(range(count), key=lambda index: (bool(cut[index]), loads[index], index))
        cut[lightest] += piece
        loads[lightest] += sum(weights[byte] for byte in piece)
    return [bytes(sorted(members)) for members in cut]


def _runs(members: Sequence[int]) -> Iterator[tuple[int, int]]:
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
        before += _single(low)
        low += 1
    while low <= high and high in _SPECIAL:
        after += _single(high)
        high -= 1
    if high - low < 2:
        middle = b"".join(map(_single, range(low, high + 1)))
    else:
        middle = bytes((low,)) + b"-" + bytes((high,))
    return before + middle + after


def _single(byte: int) -> bytes:
    return (b"\\" if byte in _SPECIAL else b"") + bytes((byte,))
