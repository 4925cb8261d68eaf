from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.supervision.progress.checkpoint import Checkpoint, CheckpointFile, from_bytes, to_bytes
from engine.supervision.progress.clocks import Clocks

NUMBERS = st.integers(0, 2**62)
CHECKPOINTS = st.builds(
    Checkpoint,
    scope=st.text(max_size=20),
    watermark_ms=NUMBERS,
    server_mark=NUMBERS,
    version=NUMBERS,
    routes=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    is_clean=st.booleans(),
    written_at_ms=NUMBERS,
    clocks=st.builds(Clocks, boot=st.text(max_size=5), monotonic_ms=NUMBERS, wall_ms=st.integers(-(2**62), 2**62)),
)
OLDER, NEWER = Checkpoint("here", 1_000, version=7, routes=("carts",)), Checkpoint("here", 2_000, 5, 9, is_clean=True)


@given(checkpoint=CHECKPOINTS)
def test_what_is_read_is_what_was_written(checkpoint: Checkpoint) -> None:
    """Every checkpoint comes back as it was."""
    assert from_bytes(to_bytes(checkpoint)) == checkpoint


@settings(deadline=None)
@given(checkpoint=CHECKPOINTS, data=st.data())
def test_damage_is_seen(checkpoint: Checkpoint, data: st.DataObject) -> None:
    """A byte that was changed, cut off or added is never taken for a checkpoint of another content."""
    content = bytearray(to_bytes(checkpoint))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    assert from_bytes(bytes(content)) in (None, checkpoint)
    whole = to_bytes(checkpoint)
    assert from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert from_bytes(whole + data.draw(st.binary(min_size=1, max_size=9))) is None


@given(content=st.binary(max_size=200))
def test_garbage_is_no_checkpoint(content: bytes) -> None:
    """Bytes of whatever kind raise nothing and are believed in nothing."""
    assert from_bytes(content) is None


def test_json_of_another_shape_is_no_checkpoint() -> None:
    """A right checksum does not make a checkpoint of what is none."""
    for data in (b"{}", b"[]", b'{"scope":1,"watermark_ms":2}', b"null"):
        assert from_bytes(b"%08x %s\n" % (crc32(data), data)) is None


def load(path: Path) -> tuple[Checkpoint | None, str]:
    return CheckpointFile(str(path)).load()


def test_a_write_torn_at_any_byte_costs_one_interval(tmp_path: Path) -> None:
    """However much of the newest file is there: the checkpoint before it is found, and the damage told."""
    path = tmp_path / "checkpoint"
    file = CheckpointFile(str(path))
    assert file.load() == (None, "")
    assert (file.write(OLDER), file.write(NEWER)) == ("", "")
    whole = to_bytes(NEWER)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found, problem = load(path)
        assert (found, bool(problem)) == (OLDER, True)
    path.write_bytes(whole)
    assert load(path) == (NEWER, "")


def test_both_damaged_is_told_apart_from_none(tmp_path: Path) -> None:
    """Where a checkpoint was and can't be read, that is said: a first start would skip what was missed."""
    path = tmp_path / "checkpoint"
    file = CheckpointFile(str(path))
    assert (file.write(OLDER), file.write(NEWER)) == ("", "")
    path.write_bytes(b"x")
    (tmp_path / "checkpoint.previous").write_bytes(b"")
    found, problem = load(path)
    assert found is None
    assert "damaged" in problem


class CheckpointMachine(RuleBasedStateMachine):
    """A checkpoint file against the list of what was written, through crashes and disks that fail at any step."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "state" / "checkpoint"
        self.file = CheckpointFile(str(self.path))
        self.watermark_ms = 0
        self.sure: Checkpoint | None = None
        """The newest whose write succeeded."""
        self.tried: list[Checkpoint] = []
        """Those that were tried since, and may be there."""

    def teardown(self) -> None:
        self.folder.cleanup()

    def next(self, passed_ms: int) -> Checkpoint:
        self.watermark_ms += passed_ms
        return Checkpoint("here", self.watermark_ms, version=self.watermark_ms * 3)

    @rule(passed_ms=st.integers(0, 50))
    def write(self, passed_ms: int) -> None:
        checkpoint = self.next(passed_ms)
        assert self.file.write(checkpoint) == ""
        self.sure, self.tried = checkpoint, []

    @rule(passed_ms=st.integers(0, 50), step=st.sampled_from(["write", "fsync", "link", "replace"]), cut=st.booleans())
    def the_disk_refuses(self, passed_ms: int, step: str, cut: bool) -> None:
        """A write that stops at any of its steps says so, and leaves the one before, or itself."""
        checkpoint = self.next(passed_ms)
        real = os.write

        def refuse(*arguments: object, **_: object) -> int:
            if step == "write" and cut:
                descriptor, content = arguments
                assert isinstance(descriptor, int) and isinstance(content, bytes)
                return real(descriptor, content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, step, refuse)
            problem = self.file.write(checkpoint)
        assert problem
        self.tried.append(checkpoint)

    @rule()
    def restart(self) -> None:
        self.file = CheckpointFile(str(self.path))

    @invariant()
    def what_is_loaded_was_written(self) -> None:
        """Never an older one than the last success, never one that nobody wrote, never none where there was one."""
        found, problem = self.file.load()
        assert problem == ""
        assert found in ([self.sure] if self.sure else [None]) + self.tried


CheckpointMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestCheckpointFile = CheckpointMachine.TestCase
TestCheckpointFile.__doc__ = "Whatever write fails at whichever step, the newest checkpoint that was kept is found."


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft is synced, then it takes the name, then the folder is synced: no power cut leaves an empty file."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "draft")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    assert CheckpointFile(str(tmp_path / "checkpoint")).write(OLDER) == ""
    assert done == ["draft", "replace", "folder"]
