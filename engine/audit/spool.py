"""Keys that wait until all are known: in memory while they are few, else in a private file."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Iterator

from engine.errors import EngineError

MEMORY_BYTES_MAX = 4_194_304
_LENGTH = struct.Struct("<I")


class KeySpool:
    """Takes keys, and gives them back in their order."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES_MAX)  # noqa: SIM115
        self.count = 0

    def add(self, keys: Iterable[bytes]) -> None:
        """Keep these keys."""
        try:
            for key in keys:
                self._file.write(_LENGTH.pack(len(key)) + key)
                self.count += 1
        except OSError as error:
            raise EngineError(
                f"no room for the keys that were found gone: {error.strerror}",
                hint=f"make room in {tempfile.gettempdir()}, or set TMPDIR",
            ) from error

    def lists(self, size: int) -> Iterator[list[bytes]]:
        """Yield all keys, this many at once."""
        self._file.seek(0)
        keys: list[bytes] = []
        while head := self._file.read(_LENGTH.size):
            keys.append(self._file.read(_LENGTH.unpack(head)[0]))
            if len(keys) == size:
                yield keys
                keys = []
        if keys:
            yield keys

    def close(self) -> None:
        """Free the space."""
        self._file.close()
