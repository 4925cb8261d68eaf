"""Which keys a pass has found: 4 bytes per key, and one key in 3,000 is mistaken for found.  (pure)

A Bloom filter. Each pass has its own salt, so a key that one pass overlooked is noticed by the next.
"""

from __future__ import annotations

import hashlib
import struct

BITS_A_KEY = 32
_KEYS_MIN = 2_048
_words = struct.Struct("<4I").unpack


class Seen:
    """The keys of one pass; ``keys`` is about how many there will be, ``salt`` up to 16 bytes."""

    def __init__(self, keys: int, salt: bytes) -> None:
        self._bits = BITS_A_KEY * max(keys, _KEYS_MIN)
        self._bytes = bytearray(self._bits // 8)
        self._salt = salt

    def add(self, key: bytes) -> None:
        """Take in that a key was found."""
        bits, found = self._bits, self._bytes
        for word in _words(hashlib.blake2b(key, digest_size=16, salt=self._salt).digest()):
            bit = word % bits
            found[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, key: bytes) -> bool:
        bits, found = self._bits, self._bytes
        for word in _words(hashlib.blake2b(key, digest_size=16, salt=self._salt).digest()):
            bit = word % bits
            if not found[bit >> 3] >> (bit & 7) & 1:
                return False
        return True
