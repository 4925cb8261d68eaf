"""Changes that come from streams: what entries name or carry arrives, and is acknowledged once it is settled."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.servers import every_server, server_params
from tests.stream_rig import CARRIES, NAMES, streams_path
from tests.support import wait_for


@every_server
def test_keys_that_entries_name_arrive(tmp_path: Path, server_binary: Path) -> None:
    """The value of a key that an entry names is delivered as it is, once for entries that follow each other, and the
    entries are acknowledged.
    """
    with streams_path(tmp_path, binary=server_binary) as under_test:
        for number in range(300):
            under_test.write(f"k{number % 30}", n=str(number))
        wait_for(lambda: len(under_test.path.last()) == 30, "all keys")
        under_test.wait_acknowledged()
        assert under_test.path.last() == {b"k%d" % n: {"n": str(270 + n)} for n in range(30)}
        under_test.client.delete("k0")
        under_test.client.xadd("changes", {"key": "k0", "event": "del"})
        wait_for(lambda: under_test.path.last()[b"k0"] is None, "a delete that an entry tells of")
        under_test.client.set("text", "v")
        under_test.client.xadd("changes", {"key": "text"})
        wait_for(lambda: under_test.path.last().get(b"text") == "v", "a key of another type, named without an event")
        assert under_test.path.stop() == 0
        assert not under_test.logged("entries_")


@every_server
def test_records_that_entries_carry_arrive(tmp_path: Path, server_binary: Path) -> None:
    """Each entry is a record of its own, whose body are its fields."""
    with streams_path(tmp_path, CARRIES, binary=server_binary) as under_test:
        ids = [under_test.client.xadd("orders", {"n": number, "of": "x"}).decode() for number in range(50)]
        wait_for(lambda: len(under_test.path.records()) >= 50, "all records")
        under_test.wait_acknowledged()
        # Two invokers share them.
        records = sorted(under_test.path.records(), key=lambda record: int(orjson.loads(record["body"])["n"]))
        assert [record["id"] for record in records] == [f"orders/{one}" for one in ids]
        assert [orjson.loads(record["body"]) for record in records] == [{"n": str(n), "of": "x"} for n in range(50)]
        assert {(record["type"], record["event"]) for record in records} == {("entry", "entry")}
        assert under_test.path.stop() == 0


def test_what_is_not_settled_is_read_again_after_a_restart(tmp_path: Path) -> None:
    """Entries stay pending while the function fails; whoever is killed meanwhile has them delivered by the next."""
    with streams_path(tmp_path) as under_test:
        path = under_test.path
        path.child("subscriber 1/2").suspend()
        for number in range(100):
            under_test.write(f"k{number}", n=str(number))
        path.child("subscriber 1/2").kill()
        wait_for(lambda: len(path.last()) == 100, "all keys, by the next subscriber")
        under_test.wait_acknowledged()
        for number in range(100, 200):
            under_test.write(f"k{number}", n=str(number))
        assert path.engine is not None
        path.engine.kill()
        path.engine.wait()
        for number in range(200, 300):
            under_test.write(f"k{number}", n=str(number))
        path.start()
        wait_for(lambda: len(path.last()) == 300, "all keys, by the next engine")
        under_test.wait_acknowledged()
        assert path.last() == {b"k%d" % number: {"n": str(number)} for number in range(300)}
        assert not under_test.logged("entries_")


def test_entries_are_acknowledged_only_once_they_are_settled(tmp_path: Path) -> None:
    """While nobody delivers, entries stay pending."""
    with streams_path(tmp_path) as under_test:
        path = under_test.path
        under_test.write("k", n="1")
        under_test.wait_acknowledged()
        invokers = [path.child(f"invoker {number}/2") for number in (1, 2)]
        for invoker in invokers:
            invoker.suspend()
        under_test.write("k", n="2")
        wait_for(lambda: path.totals()["entries_unsettled"] == 1, "the entry is read, and not settled")
        assert under_test.group()["pending"] == 1
        for invoker in invokers:
            invoker.resume()
        under_test.wait_acknowledged()
        assert path.last() == {b"k": {"n": "2"}}


@pytest.mark.parametrize("server_binary", server_params("valkey-9.1", "redis-7.0"))
def test_entries_that_were_trimmed_unread_are_told_and_their_keys_found(tmp_path: Path, server_binary: Path) -> None:
    """What writers trim while nobody reads is counted, and the keys are found by a scan."""
    with streams_path(tmp_path, binary=server_binary) as under_test:
        path = under_test.path
        under_test.write("first", n="1")
        under_test.wait_acknowledged()
        assert path.stop() == 0
        for number in range(50):
            under_test.write(f"k{number}", n=str(number))
        under_test.client.xtrim("changes", maxlen=10, approximate=False)
        path.start()
        wait_for(lambda: path.totals()["entries_missed"] == 40, "what was trimmed is counted")
        wait_for(lambda: len(path.last()) == 51, "the keys of trimmed entries too")
        (told,) = under_test.logged("entries_removed_unread")
        assert "entries=40" in told
        under_test.wait_acknowledged()


def test_an_entry_that_was_deleted_unread_is_told(tmp_path: Path) -> None:
    """One of several that is deleted before it is read shows once the others are read."""
    with streams_path(tmp_path) as under_test:
        path = under_test.path
        under_test.write("first", n="1")
        under_test.wait_acknowledged()
        path.child("subscriber 1/2").suspend()
        for number in range(5):
            under_test.write(f"k{number}", n=str(number))
        ids = [entry[0] for entry in under_test.client.xrange("changes")]
        under_test.client.xdel("changes", ids[3])
        path.child("subscriber 1/2").resume()
        wait_for(lambda: len(path.last()) == 6, "all keys")
        wait_for(lambda: path.totals()["entries_missed"], "the deleted entry is counted")
        under_test.wait_acknowledged()


def test_a_group_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    """It begins where everything was acknowledged, also after a restart; a deleted stream from its beginning."""
    with streams_path(tmp_path) as under_test:
        path = under_test.path
        for number in range(20):
            under_test.write(f"k{number}", n=str(number))
        under_test.wait_acknowledged()
        delivered = under_test.group()["last-delivered-id"].decode()
        wait_for(lambda: delivered in (tmp_path / "checkpoint").read_text(), "the checkpoint knows that all is settled")
        under_test.client.xgroup_destroy("changes", "engine")
        wait_for(lambda: under_test.logged("group_deleted"), "it is told")
        under_test.write("k20", n="20")
        wait_for(lambda: len(path.last()) == 21, "the key after it")
        under_test.wait_acknowledged()
        assert len(path.records()) == 21, "what was acknowledged is not read again"
        assert path.stop() == 0
        under_test.write("k21", n="21")
        under_test.client.xgroup_destroy("changes", "engine")
        path.start()
        wait_for(lambda: len(path.last()) == 22, "the key that was written while the group was not there")
        under_test.client.delete("changes")
        wait_for(lambda: under_test.logged("stream_deleted"), "it is told")
        under_test.write("k22", n="22")
        wait_for(lambda: len(path.last()) == 23, "the key in the new stream")
        under_test.wait_acknowledged()


def test_a_second_engine_with_the_same_name_is_told(tmp_path: Path) -> None:
    """Whoever reads as the same consumer takes entries away; each finds those of the other, and says so."""
    with streams_path(tmp_path) as under_test:
        path = under_test.path
        under_test.write("first", n="1")
        under_test.wait_acknowledged()
        path.child("subscriber 1/2").suspend()
        for number in range(10):
            under_test.write(f"k{number}", n=str(number))
        taken = under_test.client.xreadgroup("engine", "engine-0-of-1", {"changes": ">"}, count=5)
        path.child("subscriber 1/2").resume()
        assert taken
        wait_for(lambda: len(path.last()) == 11, "also the keys of entries that the other has taken")
        wait_for(lambda: under_test.logged("consumer_shared"), "it is told")
        under_test.wait_acknowledged()


def test_entries_that_others_have_left_are_taken_over(tmp_path: Path) -> None:
    """A consumer that is no more has its entries delivered by who is there, after the time that the settings state."""
    with streams_path(tmp_path, NAMES + "claim_idle_ms = 1000\n", starts=False) as under_test:
        client = under_test.client
        client.xgroup_create("changes", "engine", "0", mkstream=True)
        under_test.write("left", n="1")
        client.xreadgroup("engine", "engine-1-of-2", {"changes": ">"})
        under_test.path.start()
        wait_for(lambda: under_test.path.last() == {b"left": {"n": "1"}}, "the entry of the other")
        under_test.wait_acknowledged()


def test_malformed_entries_hold_up_nothing(tmp_path: Path) -> None:
    """An entry that names no key is counted, told of and acknowledged; those around it are delivered."""
    with streams_path(tmp_path) as under_test:
        under_test.client.xadd("changes", {"no": "key"})
        under_test.write("k", n="1")
        wait_for(lambda: under_test.path.last() == {b"k": {"n": "1"}}, "the key beside it")
        under_test.wait_acknowledged()
        wait_for(lambda: under_test.path.totals()["entries_malformed"] == 1, "it is counted")
        assert under_test.logged("entry_malformed")


def test_a_carried_entry_that_is_gone_is_a_dead_letter(tmp_path: Path) -> None:
    """An entry that is deleted after it was read, and before it was delivered, is a dead letter with its reason."""
    with streams_path(tmp_path, CARRIES) as under_test:
        path = under_test.path
        for name in ("invoker 1/2", "invoker 2/2"):
            path.child(name).suspend()
        entry_id = under_test.client.xadd("orders", {"n": "1"})
        wait_for(lambda: under_test.group()["pending"] == 1, "the entry is read")
        under_test.client.xdel("orders", entry_id)
        for name in ("invoker 1/2", "invoker 2/2"):
            path.child(name).resume()
        letters = tmp_path / "dead_letters.jsonl"
        wait_for(letters.exists, "a dead letter")
        wait_for(lambda: "was deleted or trimmed before it was delivered" in letters.read_text(), "its reason")
        under_test.wait_acknowledged()


@pytest.mark.parametrize("after_ack", ["delete", "trim"])
def test_what_was_delivered_is_removed_where_that_is_wanted(tmp_path: Path, after_ack: str) -> None:
    """Acknowledged entries leave the stream, one by one or in whole blocks."""
    with streams_path(tmp_path, f'{NAMES}after_ack = "{after_ack}"\n') as under_test:
        for number in range(500):
            under_test.write(f"k{number}", n=str(number))
        wait_for(lambda: len(under_test.path.last()) == 500, "all keys")
        wait_for(lambda: under_test.client.xlen("changes") < 300, "entries are removed")
        assert not under_test.logged("entries_")


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    """A key of another type where a stream is wanted refuses the start, with what to do."""
    with streams_path(tmp_path, starts=False) as under_test:
        under_test.client.set("changes", "text")
        under_test.path.launch()
        wait_for(under_test.path.is_over, "the engine refuses to start")
        assert "the key changes, which capture.streams names, is a string, not a stream" in under_test.path.log()
        assert "Traceback" not in under_test.path.log()
