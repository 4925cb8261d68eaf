from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import msgspec
import orjson
import pytest

from engine.cli import run_command
from engine.delivery.failures.dead_letter import FileSink
from engine.errors import ConfigError
from engine.redrive import run
from engine.redrive.letters import is_known, read_letter
from engine.redrive.run import Summary, redrive
from tests.redrive_rig import FakeEngine, letter, line, settings_of

QUEUE = "arn:aws:sqs:eu-west-1:123456789012:failed"
BUCKET = "arn:aws:s3:::failed-carts"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(run, "Publisher", lambda settings: fake)
    return fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "letters.jsonl"


# What a letter says.


@pytest.mark.parametrize(
    ("content", "key", "event"),
    [
        (line("cart:1"), b"cart:1", "repair"),
        (line("cart:1", body=None), b"cart:1", "repair_gone"),
        (line("/w==", id_encoding="base64"), b"\xff", "repair"),
        (line(""), b"", "repair"),
        # No record: the event says what there is to know.
        (line("a", record=msgspec.UNSET, event="del"), b"a", "repair_gone"),
        (line("a", record=msgspec.UNSET, event="repair_gone"), b"a", "repair_gone"),
        (line("a", record=msgspec.UNSET, event="hset"), b"a", "repair"),
        # A record without its body had one.
        (line("a", record=msgspec.Raw(b'{"id":"a"}'), truncated=True, event="expired"), b"a", "repair"),
        # Letters of other versions.
        (b'{"id": "a", "route": "r"}', b"a", "repair"),
        (b'{"id": "a", "route": "r", "new": [1]}', b"a", "repair"),
    ],
)
def test_a_letter_names_its_key_and_how_it_is_marked(content: bytes, key: bytes, event: str) -> None:
    """A key that was there is read again; one that was gone is deleted again, if it still is."""
    found = read_letter(content)
    assert found is not None
    assert (found.key, found.event) == (key, event)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b'{"id": "a"}',
        b'{"id": 7, "route": "r"}',
        b'{"id": "a", "route": "r", "record": 7}',
        b'{"id": "no base64!", "route": "r", "id_encoding": "base64"}',
        b'{"id": "a", "route": "r", "id_encoding": "rot13"}',
        b'{"id": "\\ud800", "route": "r"}',
        line("cart:1")[:-20],
    ],
)
def test_what_is_no_letter_is_none(content: bytes) -> None:
    """Nothing else than a letter is taken for one, and nothing is raised."""
    assert read_letter(content) is None


def test_which_routes_are_known() -> None:
    """Those of the settings, and those that mapping hashes may make."""
    assert is_known("carts", {"carts"}, "")
    assert not is_known("others", {"carts"}, "")
    assert is_known("__meta_record__X", {"carts"}, "__meta_record__")


# The file.


def test_what_is_sent_leaves_the_file(engine: FakeEngine, file: Path) -> None:
    """Every key is marked in the file's order, and nothing is left: no file, no claim, no lock."""
    file.write_bytes(line("a") + line("b", body=None) + b"\n" + line("/w==", id_encoding="base64"))
    summary = redrive(settings_of(file))
    assert engine.heard == [(b"a", "repair"), (b"b", "repair_gone"), (b"\xff", "repair")]
    assert (summary.read, summary.sent, summary.kept, summary.exit_code) == (3, 3, 0, 0)
    assert not list(file.parent.iterdir())


def test_no_letters_are_no_failure(engine: FakeEngine, file: Path) -> None:
    """Where no file is, or an empty one, there is nothing to do, and all is well."""
    assert redrive(settings_of(file)).exit_code == 0
    assert redrive(settings_of(file.parent / "no folder" / "letters")).exit_code == 0
    file.touch()
    assert redrive(settings_of(file)).exit_code == 0
    assert engine.heard == []


def test_many_letters_go_in_chunks(engine: FakeEngine, file: Path) -> None:
    """More letters than a chunk holds are all sent, in order, each once."""
    file.write_bytes(b"".join(line(f"k{number}") for number in range(1_234)))
    assert redrive(settings_of(file)).sent == 1_234
    assert engine.keys == [b"k%d" % number for number in range(1_234)]


def test_without_an_engine_the_file_stays_as_it_was(engine: FakeEngine, file: Path) -> None:
    """Nobody listens: exit code 1, the remedy, and the same file with the same name and mode."""
    content = b"".join(line(f"k{number}") for number in range(600))
    file.write_bytes(content)
    file.chmod(0o600)
    inode = file.stat().st_ino
    engine.is_deaf_to = lambda key: True
    summary = redrive(settings_of(file))
    assert (summary.sent, summary.exit_code) == (0, 1)
    assert summary.problems == ["nobody listens (start the engine)"]
    assert file.read_bytes() == content
    assert (file.stat().st_ino, file.stat().st_mode & 0o777) == (inode, 0o600)
    assert list(file.parent.iterdir()) == [file]


def test_a_deaf_shard_keeps_its_letters(engine: FakeEngine, file: Path) -> None:
    """Only what was heard is removed; after the chunk that was not, nothing more is sent."""
    file.write_bytes(b"".join(line(f"k{number}") for number in range(1_000)))
    engine.is_deaf_to = lambda key: key == b"k300"
    summary = redrive(settings_of(file))
    assert (summary.read, summary.sent, summary.kept, summary.exit_code) == (500, 499, 1, 1)
    kept = [orjson.loads(one)["id"] for one in file.read_bytes().splitlines()]
    assert kept == ["k300", *[f"k{number}" for number in range(500, 1_000)]]


def test_letters_that_come_meanwhile_stay(engine: FakeEngine, file: Path) -> None:
    """An engine that appends while we work begins a new file; what we keep is appended to it."""
    file.write_bytes(line("kept", "others") + line("a"))
    sink = FileSink(str(file), 10_000)

    def buried() -> None:
        assert sink.write([letter("new")]) == ""

    engine.before = buried
    redrive(settings_of(file, carts=""), route="carts")
    assert engine.keys == [b"a"]
    assert [orjson.loads(one)["id"] for one in file.read_bytes().splitlines()] == ["new", "kept"]


def test_a_killed_redrive_is_taken_up_again(engine: FakeEngine, file: Path) -> None:
    """What a killed one has claimed comes first, and then what was buried since; nothing is left behind."""
    file.write_bytes(line("a") + line("b"))
    pid = os.fork()
    if not pid:
        engine.before = lambda: os.kill(os.getpid(), signal.SIGKILL)
        redrive(settings_of(file))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not file.exists()
    FileSink(str(file), 10_000).write([letter("c")])
    assert redrive(settings_of(file)).sent == 3
    assert engine.keys == [b"a", b"b", b"c"]
    assert not list(file.parent.iterdir())


def test_several_leftovers_are_kept_apart(engine: FakeEngine, file: Path) -> None:
    """A claim never takes the place of an older one; what is kept of both is in one file again."""
    file.with_name("letters.jsonl.redriving").write_bytes(line("a") + line("x", "others"))
    file.with_name("letters.jsonl.redriving-2").write_bytes(line("b"))
    file.with_name("letters.jsonl.redriving.bak").write_bytes(line("not ours"))
    file.write_bytes(line("c") + line("y", "others"))
    assert redrive(settings_of(file), route="carts").sent == 3
    assert engine.keys == [b"a", b"b", b"c"]
    assert [orjson.loads(one)["id"] for one in file.read_bytes().splitlines()] == ["x", "y"]
    assert {path.name for path in file.parent.iterdir()} == {"letters.jsonl", "letters.jsonl.redriving.bak"}


def test_a_kill_between_both_names_is_mended(engine: FakeEngine, file: Path) -> None:
    """Killed after the file has its name back, and before the claim has lost its own: each letter is sent once."""
    file.write_bytes(line("a"))
    os.link(file, file.with_name("letters.jsonl.redriving"))
    assert redrive(settings_of(file)).sent == 1
    assert not list(file.parent.iterdir())


def test_an_interrupt_puts_the_rest_back(engine: FakeEngine, file: Path) -> None:
    """Ctrl-C between two chunks: what was sent is gone, all else is in the file."""
    file.write_bytes(b"".join(line(f"k{number}") for number in range(1_000)))
    chunks = iter([False, True])

    def interrupted() -> None:
        if next(chunks):
            raise KeyboardInterrupt

    engine.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        redrive(settings_of(file))
    assert len(file.read_bytes().splitlines()) == 500
    assert list(file.parent.iterdir()) == [file]


def test_lines_that_are_no_letters_stay(engine: FakeEngine, file: Path) -> None:
    """They are kept, byte for byte, told, and fail the redrive; letters around them are sent."""
    file.write_bytes(b"no letter\n" + line("a") + b'{"id": 7}\n' + line("b") + b"half a li")
    summary = redrive(settings_of(file))
    assert engine.keys == [b"a", b"b"]
    (tally,) = summary.sources
    assert (tally.read, tally.sent, tally.kept, tally.malformed) == (5, 2, 3, 3)
    assert "not dead letters are left in place: 3" in tally.problems[0]
    assert summary.exit_code == 1
    assert file.read_bytes() == b'no letter\n{"id": 7}\nhalf a li'


def test_letters_of_unknown_routes_stay(engine: FakeEngine, file: Path) -> None:
    """Nobody might want their keys, so they are kept, until the user names the route."""
    file.write_bytes(line("a") + line("b", "renamed"))
    summary = redrive(settings_of(file))
    assert engine.keys == [b"a"]
    assert "'renamed'" in summary.sources[0].problems[0]
    assert summary.exit_code == 1
    assert redrive(settings_of(file), route="renamed").exit_code == 0
    assert engine.keys == [b"a", b"b"]


def test_the_most_is_kept_to(engine: FakeEngine, file: Path) -> None:
    """No more than so many are sent; the others stay, which is no failure."""
    file.write_bytes(b"".join(line(f"k{number}") for number in range(700)))
    summary = redrive(settings_of(file), count_max=600)
    assert (summary.sent, summary.exit_code) == (600, 0)
    assert engine.keys == [b"k%d" % number for number in range(600)]
    assert len(file.read_bytes().splitlines()) == 100


def test_a_link_to_the_file_stays(engine: FakeEngine, file: Path) -> None:
    """Letters behind a symbolic link are sent and removed, and the engine writes on through the link."""
    real = file.with_name("real") / "letters"
    real.parent.mkdir()
    real.write_bytes(line("a") + line("x", "others"))
    file.symlink_to(real)
    assert redrive(settings_of(file), route="carts").sent == 1
    assert FileSink(str(file), 10_000).write([letter("b")]) == ""
    assert [orjson.loads(one)["id"] for one in real.read_bytes().splitlines()] == ["x", "b"]
    assert list(real.parent.iterdir()) == [real]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_the_engine_can_append_to_what_was_put_back(engine: FakeEngine, file: Path) -> None:
    """A redrive by root leaves the file to the user that the engine runs as."""
    file.write_bytes(line("a") + line("x", "others"))
    os.chown(file, 12_345, 12_346)
    assert redrive(settings_of(file), route="carts").sent == 1
    assert (file.stat().st_uid, file.stat().st_gid) == (12_345, 12_346)


def test_a_second_redrive_is_kept_out(engine: FakeEngine, file: Path) -> None:
    """Two at once would send and put back the same letters."""
    file.write_bytes(line("a"))
    folder = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    summary = redrive(settings_of(file))
    assert "another redrive" in summary.sources[0].problems[0]
    assert summary.exit_code == 1
    os.close(folder)
    assert redrive(settings_of(file)).exit_code == 0


def test_a_full_disk_loses_nothing(engine: FakeEngine, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be put back stays claimed, is told, and is there for the next redrive."""
    file.write_bytes(line("a") + line("x", "others"))
    settings = settings_of(file)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        summary = redrive(settings, route="carts")
    assert "No space left" in summary.sources[0].problems[0]
    assert "letters.jsonl.redriving" in summary.sources[0].problems[0]
    assert redrive(settings, route="others").sent == 1
    assert engine.keys[-1] == b"x"


def test_a_named_file_must_be_there(engine: FakeEngine, file: Path) -> None:
    """What the user named is not taken for empty when it is missing."""
    other = file.with_name("other.jsonl")
    assert "no such file" in redrive(settings_of(file), source=str(other)).sources[0].problems[0]
    other.write_bytes(line("a"))
    file.write_bytes(line("b"))
    assert redrive(settings_of(file), source=str(other)).exit_code == 0
    assert engine.keys == [b"a"]


# The command.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith(("ENGINE_", "REDIS_", "AWS_", "META_MAP", "SUPPORTED_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engine.toml").write_text(
        '[aws]\nregion = "eu-west-1"\n[delivery]\ndead_letter_file = "letters.jsonl"\n'
        '[[routes]]\nname = "carts"\nfunction = "f"\n'
    )
    return tmp_path


def test_the_command_tells_people_and_scripts(
    engine: FakeEngine, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table or JSON on standard output, problems on standard error, and the exit code."""
    monkeypatch.setenv("COLUMNS", "250")
    (home / "letters.jsonl").write_bytes(line("a") + b"no letter\n")
    assert run_command(["redrive", "--json"]) == 1
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert (summary["read"], summary["sent"], summary["kept"]) == (2, 1, 1)
    letters = home / "letters.jsonl"
    assert summary["sources"][0]["source"] == str(letters)
    assert shown.err.startswith(f"engine: error: {letters}: lines that are not dead letters are left in place: 1")
    (home / "letters.jsonl").write_bytes(line("b"))
    assert run_command(["redrive", "--route", "carts", "--max", "5"]) == 0
    assert str(letters) in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--from", "arn:aws:sns:eu-west-1:123456789012:x"], ["--max", "0"]])
def test_wrong_usage(engine: FakeEngine, home: Path, arguments: list[str]) -> None:
    """A place that can hold no letters, and a most of nothing, are wrong usage."""
    assert run_command(["redrive", *arguments]) == 2


def test_an_arn_that_holds_no_letters(engine: FakeEngine, file: Path) -> None:
    """It is told as a mistake in --from."""
    with pytest.raises(ConfigError, match="--from"):
        redrive(settings_of(file), source="arn:aws:sns:eu-west-1:123456789012:x")


def test_a_summary_of_nothing_is_a_success() -> None:
    """Exit code 0 needs no letters."""
    assert Summary(0, 0, 0, [], []).exit_code == 0
