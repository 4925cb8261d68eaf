"""Which key each command changes: by chance, and the same for the same seed.  (pure)"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

KeyNumbers = npt.NDArray[np.uint32]
KEYS_MAX = 100_000_000


class Keyspace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many keys there are, and how often each is changed.

    ``zipf``: the key of rank r as often as 1/r**``exponent``; which key has which rank is shuffled by the seed.
    ``each`` changes every key in turn, so that nothing coalesces.
    """

    count: int = 100_000
    skew: Literal["uniform", "zipf", "each"] = "uniform"
    exponent: float = 1.0


class BadKeyspace(ValueError):
    """A keyspace that can't be; the message says why."""


def pick(keyspace: Keyspace, changes: int, rng: np.random.Generator) -> KeyNumbers:
    """Return the number of the key of each change; raise `BadKeyspace`."""
    if not 1 <= keyspace.count <= KEYS_MAX:
        raise BadKeyspace(f"count: from 1 to {KEYS_MAX:,} is allowed")
    if not 0 < keyspace.exponent <= 5:
        raise BadKeyspace("exponent: more than 0 and at most 5 is allowed")
    if keyspace.skew == "each":
        return (np.arange(changes) % keyspace.count).astype(np.uint32)
    if keyspace.skew == "uniform":
        return rng.integers(0, keyspace.count, changes, dtype=np.uint32)
    shares = np.cumsum(np.arange(1, keyspace.count + 1, dtype=np.float64) ** -keyspace.exponent)
    ranks = np.searchsorted(shares, rng.random(changes) * shares[-1], side="right")
    names = rng.permutation(keyspace.count).astype(np.uint32)
    picked: KeyNumbers = names[np.minimum(ranks, keyspace.count - 1)]
    return picked
