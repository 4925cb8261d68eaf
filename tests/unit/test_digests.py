"""The table of digests: what it knows is true, whoever is killed when, and it is bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.digests import table as table_module
from engine.digests.folder import keep_only, path_of
from engine.digests.table import BUCKET_BYTES, HEADER_BYTES, WAYS, DigestTable, fingerprint
from engine.errors import EngineError

ROUTE = fingerprint("carts", 1)
BOOT = bytes(range(16))
SMALL = HEADER_BYTES + 4 * BUCKET_BYTES


def opened(path: Path, true_of: bytes = ROUTE, size: int = SMALL, boot: bytes = BOOT) -> DigestTable:
    return DigestTable(path, true_of, size, boot)


def killed(table: DigestTable) -> None:
    """End as SIGKILL does: the stores are in the page cache, nothing else is done."""
    table._words.release()
    table._map.close()
    os.close(table._descriptor)


def test_what_was_noted_is_known(tmp_path: Path) -> None:
    """The same content of the same key is known, another content and another key are not."""
    table = opened(tmp_path / "one")
    table.note(table.place_of(b"a", b"1"))
    assert table.holds(table.place_of(b"a", b"1"))
    assert not table.holds(table.place_of(b"a", b"2"))
    assert not table.holds(table.place_of(b"b", b"1"))
    table.note(table.place_of(b"a", b"2"))
    assert not table.holds(table.place_of(b"a", b"1"))
    table.void(table.tag_of(b"a"))
    assert not table.holds(table.place_of(b"a", b"2"))
    table.drop()


def test_key_and_content_are_told_apart(tmp_path: Path) -> None:
    """What ends one key and begins its content is part of the digest."""
    table = opened(tmp_path / "one")
    assert table.place_of(b"ab", b"c")[1] != table.place_of(b"a", b"bc")[1]
    table.drop()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_process_may_end_in_any_way(is_killed: bool, tmp_path: Path) -> None:
    """What was noted is known to the next process, after an orderly end and after a kill."""
    table = opened(tmp_path / "one")
    table.note(table.place_of(b"a", b"1"))
    table.note(table.place_of(b"b", b"1"))
    table.void(table.tag_of(b"b"))
    if is_killed:
        killed(table)
    else:
        table.close()
    again = opened(tmp_path / "one")
    assert not again.is_new
    assert again.holds(again.place_of(b"a", b"1"))
    assert not again.holds(again.place_of(b"b", b"1"))
    again.drop()


def test_a_host_that_crashed_is_not_believed(tmp_path: Path) -> None:
    """Pages of a file that was open when the host went down are of any age; one that was closed is whole."""
    table = opened(tmp_path / "one")
    table.note(table.place_of(b"a", b"1"))
    killed(table)
    after = opened(tmp_path / "one", boot=bytes(reversed(BOOT)))
    assert after.is_new
    assert not after.holds(after.place_of(b"a", b"1"))
    after.note(after.place_of(b"a", b"1"))
    after.close()
    at_last = opened(tmp_path / "one", boot=b"x" * 16)
    assert not at_last.is_new
    assert at_last.holds(at_last.place_of(b"a", b"1"))
    # And as soon as it is open again, it is no longer a file that was closed.
    killed(at_last)
    assert opened(tmp_path / "one", boot=BOOT).is_new


def test_a_host_that_does_not_name_its_boots_is_not_believed(tmp_path: Path) -> None:
    """Without a boot to compare, only a file that was closed is believed."""
    killed(opened(tmp_path / "one", boot=bytes(16)))
    assert opened(tmp_path / "one", boot=bytes(16)).is_new


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "magic", "empty", "salt"])
def test_a_torn_file_is_begun_anew(damage: str, tmp_path: Path) -> None:
    """Whatever is wrong with the file, nothing of it is believed."""
    path = tmp_path / "one"
    table = opened(path)
    table.note(table.place_of(b"a", b"1"))
    table.close()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-BUCKET_BYTES],
            "longer": whole + b"x",
            "header": whole[:70] + b"\1" + whole[71:],
            "magic": b"x" + whole[1:],
            "empty": b"",
            "salt": whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        }[damage]
    )
    again = opened(path)
    assert again.is_new
    assert not again.holds(again.place_of(b"a", b"1"))
    again.drop()


def test_it_is_true_of_one_thing(tmp_path: Path) -> None:
    """Another function, other keys, another size: nothing of what was noted for the one says anything of the other."""
    table = opened(tmp_path / "one")
    table.note(table.place_of(b"a", b"1"))
    table.close()
    other = opened(tmp_path / "one", fingerprint("carts", 2))
    assert other.is_new
    other.close()
    assert opened(tmp_path / "one").is_new


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    """A second process is refused while the first has the file."""
    table = opened(tmp_path / "one")
    with pytest.raises(BlockingIOError):
        opened(tmp_path / "one")
    table.close()
    opened(tmp_path / "one").drop()
    assert not (tmp_path / "one").exists()


def test_it_is_bounded(tmp_path: Path) -> None:
    """A full bucket gives a place away; the file does not grow, and whoever was forgotten is not known."""
    table = opened(tmp_path / "one", size=HEADER_BYTES + BUCKET_BYTES)
    places = [table.place_of(b"%d" % number, b"same") for number in range(3 * WAYS)]
    for place in places:
        table.note(place)
    assert table.forgotten == 2 * WAYS
    assert sum(map(table.holds, places)) == WAYS
    assert table.holds(places[-1])
    assert (tmp_path / "one").stat().st_size == HEADER_BYTES + BUCKET_BYTES
    table.drop()


def test_24_bytes_a_key_are_enough(tmp_path: Path) -> None:
    """With 24 bytes of file a key, less than one key in 300 is forgotten."""
    keys = 20_000
    table = opened(tmp_path / "one", size=HEADER_BYTES + 24 * keys)
    places = [table.place_of(b"cart:%d" % number, b"{}") for number in range(keys)]
    for place in places:
        table.note(place)
    assert sum(map(table.holds, places)) > keys * 299 // 300
    table.drop()


def test_a_full_disk_is_known_before_a_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the file is allocated when it is made: a hole that can't be filled would end the process later."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_module.os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        opened(tmp_path / "one")
    monkeypatch.undo()
    opened(tmp_path / "one").drop()


def test_a_start_believes_what_it_goes_on_from(tmp_path: Path) -> None:
    """Files of more or fewer invokers are removed, and all of them where nothing is known of the engine before."""
    paths = [path_of(str(tmp_path), "carts", index, count) for index, count in ((0, 1), (0, 2), (1, 2))]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    keep_only(str(tmp_path), 2, is_known=True)
    assert [path.exists() for path in paths] == [False, True, True]
    keep_only(str(tmp_path), 2, is_known=False)
    assert not any(path.exists() for path in paths)
    keep_only(str(tmp_path / "nowhere"), 2, is_known=False)


def test_what_can_not_be_removed_stops_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that must not be believed, and can't be removed, is told with its remedy."""
    path = path_of(str(tmp_path), "carts", 0, 1)
    path.parent.mkdir()
    path.touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(EngineError, match=r"Permission denied.*remove the files"):
        keep_only(str(tmp_path), 1, is_known=False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["note", "note", "note", "void", "clear", "kill", "close"]),
            st.integers(0, 60),
            st.integers(0, 2),
        ),
        max_size=300,
    )
)
def test_it_never_claims_what_was_not_noted_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Against a dictionary: whatever is known is what was noted last and not voided since, over kills and restarts."""
    path = tmp_path_factory.mktemp("digests") / "one"
    size = HEADER_BYTES + BUCKET_BYTES
    table = opened(path, size=size)
    model: dict[int, int] = {}
    for what, number, content in steps:
        key = b"%d" % number
        if what == "note":
            table.note(table.place_of(key, b"%d" % content))
            model[number] = content
        elif what == "void":
            table.void(table.tag_of(key))
            model.pop(number, None)
        elif what == "clear":
            table.clear()
            model.clear()
        else:
            killed(table) if what == "kill" else table.close()
            table = opened(path, size=size)
        for one in range(61):
            for value in range(3):
                is_held = table.holds(table.place_of(b"%d" % one, b"%d" % value))
                assert not is_held or model.get(one) == value
        if what == "note":
            assert table.holds(table.place_of(key, b"%d" % content))
    table.drop()
