"""What outlives the engine: up to when everything is settled, and what a successor has to know.

The file holds one JSON object and its checksum. It is replaced in one step, and the previous one is kept beside it: a
write that was torn, by a crash or a full disk, costs one interval and not the checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

import msgspec

from engine.model import StreamKept
from engine.routing.nodes import ALL_SLOTS
from engine.supervision.progress.clocks import Clocks
from engine.supervision.progress.snapshots import Heard

FORMAT = 3
"""The format that is written. Older ones are read: what they lack has its default."""
HEARD_SINCE_FORMAT, NODES_SINCE_FORMAT = 2, 3
_CHECKSUM_CHARS = 8


class NodeKept(msgspec.Struct, frozen=True):
    """Everything that changed on a node before ``watermark_ms`` (Unix time, its own clock) is settled.

    That is true of its ``slots``, ranges with both ends, and of keys that end in ``endings``, ranges of byte values and
    256 for the empty key; () means whatever the scope names. ``server_mark`` is the server's at the watermark
    (`engine.capture.watch`). ``clocks`` say how the node's clock related to the host's.
    """

    watermark_ms: int
    server_mark: int = 0
    clocks: Clocks = Clocks()
    slots: tuple[tuple[int, int], ...] = ALL_SLOTS
    endings: tuple[tuple[int, int], ...] = ()


class Checkpoint(msgspec.Struct, frozen=True):
    """What is settled for each node, by its id (`NodeKept`); a server without cluster mode is the node without a name.

    ``scope`` names the server and database that this is true of. ``version`` is the highest that was given out.
    ``routes`` are those that have had what their ``starting_position`` promises, ``heard`` what each of them had and
    listened to (`Heard`). ``is_clean`` if nothing was in flight. Invocations may write until ``fence_after_ms``
    after their start (0: unknown), whatever the settings of the engine that reads this say.
    ``versions`` has the highest of each node of a cluster, by its id; ``streams``, by name, an id up to which
    everything is acknowledged, ``histories`` of which history of the server that is (`StreamKept`). ``addresses`` are
    where its nodes were, of the cluster that ``url`` led to (without credentials): a start asks them where that does
    not answer. ``databases`` are the captured ones if there are several; a single one is in the scope.
    ``watermark_ms``, ``server_mark`` and ``clocks`` are what formats before 3 say about the only node that they know.
    """

    scope: str
    watermark_ms: int = 0
    server_mark: int = 0
    version: int = 0
    routes: tuple[str, ...] = ()
    is_clean: bool = False
    written_at_ms: int = 0
    format: int = 1
    heard: dict[str, Heard] = {}
    fence_after_ms: int = 0
    clocks: Clocks = Clocks()
    nodes: dict[str, NodeKept] = {}
    versions: dict[str, int] = {}
    streams: dict[str, str] = {}
    histories: dict[str, str] = {}
    url: str = ""
    addresses: tuple[str, ...] = ()
    databases: tuple[int, ...] = ()

    def kept_of_streams(self) -> dict[str, StreamKept]:
        """Return what is kept of each stream, by its name."""
        histories = self.histories
        return {name: StreamKept(settled, histories.get(name, "")) for name, settled in self.streams.items()}

    def by_node(self) -> dict[str, NodeKept]:
        """Return what is settled of each node, by its id."""
        if self.format >= NODES_SINCE_FORMAT:
            return self.nodes
        return {"": NodeKept(self.watermark_ms, self.server_mark, self.clocks)}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Checkpoint).decode


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the file's content."""
    data = _encode(checkpoint)
    return b"%08x %s\n" % (zlib.crc32(data), data)


def data_of(content: bytes) -> bytes | None:
    """Return the JSON within the file's content; None if it is incomplete."""
    checksum, data = content[:_CHECKSUM_CHARS], content[_CHECKSUM_CHARS + 1 : -1]
    if not content.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(data):
        return None
    return data


def from_bytes(content: bytes) -> Checkpoint | None:
    """Return what the content holds; None if it is incomplete."""
    data = data_of(content)
    if data is None:
        return None
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None


class CheckpointFile:
    """The file and the one before it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._previous = Path(f"{path}.previous")
        self._draft = Path(f"{path}.new")

    def load(self) -> tuple[Checkpoint | None, str]:
        """Return the newest complete checkpoint, and what was wrong; none and "" if there never was one."""
        problem = ""
        for path in (self._path, self._previous):
            try:
                checkpoint = from_bytes(path.read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                problem = f"{path}: {error.strerror}"
                continue
            if checkpoint is not None:
                return checkpoint, problem
            problem = problem or f"{path} is damaged"
        return None, problem

    def write(self, checkpoint: Checkpoint) -> str:
        """Replace the checkpoint, on the disk itself; return "" or why that failed."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                content = to_bytes(checkpoint)
                if os.write(descriptor, content) != len(content):
                    return f"{self._draft}: the disk is full"
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                self._previous.unlink()
            with contextlib.suppress(FileNotFoundError):
                os.link(self._path, self._previous)
            self._draft.replace(self._path)
            self._sync_folder()
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        return ""

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
