"""The file that keeps held deletions, and what was decided about them, over restarts.

It is stored beside the checkpoint. Comparisons and ``engine deletions`` write it, under its lock, and replace it in one
step. Refused keys are stored in a second file, as hashes of 8 bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine.audit.deletions import NOTHING_HELD, Choice, Dataset, Held, HeldRoute, decided
from engine.config import Settings
from engine.errors import EngineError

_HASH_BYTES = 8


class HeldFileError(EngineError):
    """The file of held deletions can't be read or written."""


class KeptKeys:
    """Keys that were refused, by their hashes: 8 bytes a key."""

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._hashes = array("Q", sorted(set(hashes)))

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, key: bytes) -> bool:
        number = hash_of(key)
        index = bisect_left(self._hashes, number)
        return index < len(self._hashes) and self._hashes[index] == number

    def to_bytes(self) -> bytes:
        """Return what to keep on disk."""
        return self._hashes.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> KeptKeys:
        """Return what `to_bytes` encoded in these bytes."""
        kept = cls()
        kept._hashes.frombytes(content)
        return kept


def hash_of(key: bytes) -> int:
    """Return the hash by which a kept key is known."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=_HASH_BYTES).digest(), "little")


class HeldFile:
    """The two files. Every failure is a `HeldFileError` with its remedy."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._kept_path = Path(f"{path}.kept")
        self._lock_path = Path(f"{path}.lock")

    @classmethod
    def of(cls, settings: Settings) -> HeldFile:
        """Return the file of the engine with these settings."""
        return cls(f"{settings.supervision.checkpoint_file}.deletions")

    def load(self) -> Held:
        """Return what is held; nothing if there is no file."""
        with self._explained("read"):
            return _decode_held(self._read(self.path) or b"{}")

    def load_kept(self) -> dict[str, KeptKeys]:
        """Return the keys that were refused, by route."""
        with self._explained("read"):
            content = _decode_kept(self._read(self._kept_path) or b"\x80")
        return {route: KeptKeys.from_bytes(hashes) for route, hashes in content.items()}

    def choose(self, route: str, choice: Choice) -> HeldRoute:
        """Keep what somebody decided for a route; raise `EngineError` if none of its deletions are held."""
        if not self.path.exists():
            raise EngineError(f"no deletions of route {route!r} are held", hint=f"{self.path} does not exist")
        with self._locked():
            held = self.load()
            chosen = decided(held.routes.get(route, NOTHING_HELD), choice)
            if chosen is None:
                names = ", ".join(sorted(held.routes)) or "no route"
                raise EngineError(
                    f"no deletions of route {route!r} are held",
                    hint=f"deletions are held, or were refused, for: {names}",
                )
            self._replace(self.path, _encode(msgspec.structs.replace(held, routes={**held.routes, route: chosen})))
        return chosen

    def know(self, datasets: Mapping[str, Dataset]) -> None:
        """Keep the datasets of the nodes, if none is known."""
        told = {node: dataset for node, dataset in datasets.items() if dataset.run_id}
        with self._locked():
            held = self.load()
            if told and not held.datasets:
                self._replace(self.path, _encode(held.knowing(told)))

    def settle(self, before: Held, after: Held, kept: Mapping[str, KeptKeys]) -> None:
        """Keep the result of a comparison that began with ``before``; decisions made meanwhile are still to be done."""
        with self._locked():
            now = self.load()
            routes = dict(after.routes)
            for name, route in now.routes.items():
                if route.choice and route.choice != before.routes.get(name, NOTHING_HELD).choice:
                    chosen = decided(routes.get(name, NOTHING_HELD), route.choice)
                    routes[name] = chosen or routes.get(name, NOTHING_HELD)
            routes = {name: route for name, route in routes.items() if route != NOTHING_HELD}
            content = _encode_kept({name: keys.to_bytes() for name, keys in kept.items() if len(keys)})
            if content != (self._read(self._kept_path) or _encode_kept({})):
                self._replace(self._kept_path, content)
            settled = msgspec.structs.replace(after, routes=routes)
            if settled != now:
                self._replace(self.path, _encode(settled))

    def stamp(self) -> int:
        """Return a number that differs after every change; 0 if there is no file."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._explained("write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._give_to_owner(self._lock_path)
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HeldFileError(
                f"cannot {what} {self.path}: {error.strerror}", hint="it says which deletions are held: check its owner"
            ) from error
        except msgspec.MsgspecError as error:
            raise HeldFileError(
                f"{self.path} is damaged", hint="move it away: refused deletions then count as held again"
            ) from error

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def _replace(self, path: Path, content: bytes) -> None:
        draft = Path(f"{path}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        self._give_to_owner(draft)
        draft.replace(path)

    def _give_to_owner(self, path: Path) -> None:
        """Have the folder's owner own the file: root may decide for an engine that runs as another user."""
        if os.geteuid() == 0:
            folder = path.parent.stat()
            with contextlib.suppress(OSError):
                os.chown(path, folder.st_uid, folder.st_gid)


_encode = msgspec.json.Encoder().encode
_decode_held = msgspec.json.Decoder(Held).decode
_encode_kept = msgspec.msgpack.Encoder().encode
_decode_kept = msgspec.msgpack.Decoder(dict[str, bytes]).decode
