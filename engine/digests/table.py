"""A table of digests in a mapped file: key → what it last held, 16 bytes per place.

**Layout.** After the header come buckets of `WAYS` places: first their tags (8 bytes, which tell keys apart), then
their digests (8 bytes). A key has one bucket. When that is full, a place in it is reused: a key that is forgotten
costs one delivery, never a change. With 24 bytes of file for each key, one in a thousand is forgotten; with 20, one in
a hundred.

**Odds.** A digest covers the key and all of the content, salted with a value known only to the file. A different
content of a key has the same digest once in 2**64; two keys that share a tag still have different digests.

**Crashes.** A place has one writer, and changes by stores of 8 bytes each, in an order in which every prefix is either
true or void; a killed process leaves its stores in the page cache. A host that crashes may keep some pages and lose
others. So the header says in which boot the file was opened, and whether it was closed properly. A file that was not,
and is from another boot, starts empty, as does one that is torn or that belongs to something else.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import sys
from pathlib import Path

HEADER_BYTES = 4_096
WAYS = 32
_WORD = 8
TAGS_BYTES = WAYS * _WORD
BUCKET_BYTES = 2 * TAGS_BYTES
TABLE_BYTES_MIN = HEADER_BYTES + BUCKET_BYTES

_MAGIC = b"engine digests 1"
_NAME_BYTES = 16
_SALT = slice(16, 32)
_FINGERPRINT = slice(32, 48)
_BOOT = slice(48, 64)
_BUCKETS = slice(64, 72)
_CLOSED = slice(72, 80)
_CHECKSUM = slice(80, 96)
_NOBODY = bytes(_WORD)
_NO_BOOT = bytes(16)

Place = tuple[bytes, int]
"""What represents a key: its tag, and the digest of what it holds."""


def fingerprint(*parts: object) -> bytes:
    """Return what represents these in a header: whatever the digests are true of."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=_NAME_BYTES).digest()


def boot_id() -> bytes:
    """Return what tells this boot of the host from every other; zeros if that is unknown."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return bytes.fromhex(text.strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return _NO_BOOT


class DigestTable:
    """One file's; the process that has it open is its only writer. Raises OSError if it can't be used.

    ``bytes_max`` bounds the file. All of it is allocated at once, so a full disk shows before a page is written.
    """

    def __init__(self, path: Path, true_of: bytes, bytes_max: int, boot: bytes | None = None) -> None:
        assert bytes_max >= TABLE_BYTES_MIN
        self.path = path
        self.forgotten = 0
        """Places that were reused."""
        self._buckets = (bytes_max - HEADER_BYTES) // BUCKET_BYTES
        self._boot = boot_id() if boot is None else boot
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._map, self.is_new = self._open(true_of)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.is_open = True
        self._words = memoryview(self._map).cast("Q")
        self._salt = self._map[_SALT]

    def _open(self, true_of: bytes) -> tuple[mmap.mmap, bool]:
        """Map the file, emptied if it can't be believed; mark it as open before anything else is done."""
        size = HEADER_BYTES + self._buckets * BUCKET_BYTES
        is_new = not self._is_believed(true_of, size)
        if is_new:
            os.ftruncate(self._descriptor, 0)
            # With a hole in the file, a full disk would kill the process.
            os.posix_fallocate(self._descriptor, 0, size)
        mapped = mmap.mmap(self._descriptor, size)
        if is_new:
            mapped[:16] = _MAGIC
            mapped[_SALT] = os.urandom(16)
            mapped[_FINGERPRINT] = true_of
            mapped[_BUCKETS] = self._buckets.to_bytes(8, "little")
        self._sign(mapped, is_closed=False)
        return mapped, is_new

    def _is_believed(self, true_of: bytes, size: int) -> bool:
        head = os.pread(self._descriptor, HEADER_BYTES, 0)
        if os.fstat(self._descriptor).st_size != size or head[:16] != _MAGIC or head[_CHECKSUM] != _checksum(head):
            return False
        is_whole = any(head[_CLOSED]) or (head[_BOOT] == self._boot != _NO_BOOT)
        return is_whole and head[_FINGERPRINT] == true_of and int.from_bytes(head[_BUCKETS], "little") == self._buckets

    def _sign(self, mapped: mmap.mmap, *, is_closed: bool) -> None:
        mapped[_BOOT] = self._boot
        mapped[_CLOSED] = int(is_closed).to_bytes(8, "little")
        mapped[_CHECKSUM] = _checksum(mapped[:HEADER_BYTES])
        mapped.flush(0, HEADER_BYTES)
        os.fsync(self._descriptor)

    def place_of(self, key: bytes, content: bytes) -> Place:
        """Return what represents a key while it holds this."""
        salt = self._salt
        tag = hashlib.blake2b(key, digest_size=8, salt=salt).digest()
        digest = hashlib.blake2b(b"%d:%b%b" % (len(key), key, content), digest_size=8, salt=salt, person=b"content")
        return tag if tag != _NOBODY else b"\1" + tag[1:], int.from_bytes(digest.digest(), "little") or 1

    def tag_of(self, key: bytes) -> bytes:
        """Return what tells a key from others."""
        tag = hashlib.blake2b(key, digest_size=8, salt=self._salt).digest()
        return tag if tag != _NOBODY else b"\1" + tag[1:]

    def holds(self, place: Place) -> bool:
        """Tell whether this is what the key last held."""
        word = self._word_of(place[0])
        return word >= 0 and self._words[word + WAYS] == place[1]

    def void(self, tag: bytes) -> None:
        """Forget what this key held; it keeps its place."""
        word = self._word_of(tag)
        if word >= 0:
            self._words[word + WAYS] = 0

    def note(self, place: Place) -> None:
        """Take in what a key holds now."""
        tag, digest = place
        words, word = self._words, self._word_of(tag)
        if word < 0:
            word = self._find(_NOBODY, tag)
            if word < 0:
                word = self._bucket_of(tag) + digest % WAYS
                self.forgotten += 1
                # In this order: if the process dies in between, no tag has another's digest.
                words[word] = 0
            words[word + WAYS] = 0
            words[word] = int.from_bytes(tag, sys.byteorder)
        words[word + WAYS] = digest

    def clear(self) -> None:
        """Forget everything."""
        blank = bytes(1 << 20)
        for at in range(HEADER_BYTES, len(self._map), len(blank)):
            end = min(len(self._map), at + len(blank))
            self._map[at:end] = blank[: end - at]

    def close(self) -> None:
        """Write all of it to the disk, and mark it as closed."""
        self._release()
        try:
            self._map.flush()
            os.fsync(self._descriptor)
            self._sign(self._map, is_closed=True)
        finally:
            self._map.close()
            os.close(self._descriptor)

    def drop(self) -> None:
        """Close the file and remove it, so that nobody believes it again."""
        self._release()
        self.path.unlink(missing_ok=True)
        self._map.close()
        os.close(self._descriptor)

    def _release(self) -> None:
        self.is_open = False
        self._words.release()

    def _bucket_of(self, tag: bytes) -> int:
        """Return the first word of a key's bucket."""
        bucket = int.from_bytes(tag, sys.byteorder) % self._buckets
        return (HEADER_BYTES + bucket * BUCKET_BYTES) // _WORD

    def _word_of(self, tag: bytes) -> int:
        """Return the word that has this tag, −1 if none has."""
        return self._find(tag, tag)

    def _find(self, wanted: bytes, tag: bytes) -> int:
        """Return the word of this tag's bucket that holds what is wanted, −1 if none does."""
        at = HEADER_BYTES + int.from_bytes(tag, sys.byteorder) % self._buckets * BUCKET_BYTES
        tags = self._map[at : at + TAGS_BYTES]
        found = tags.find(wanted)
        while found > 0 and found % _WORD:
            found = tags.find(wanted, found + 1)
        return (at + found) // _WORD if found >= 0 else -1


def _checksum(head: bytes) -> bytes:
    return hashlib.blake2b(head[: _CHECKSUM.start], digest_size=16).digest()
