"""Streams of a cluster: each is read at the node that has its slot, also after a failover and a move."""

from __future__ import annotations

from pathlib import Path

from redis.crc import key_slot

from tests.cluster import Cluster, cluster
from tests.integration.test_cluster_path import engine_on
from tests.support import PathUnderTest, wait_for

TAGS = range(6)
NAMES = [f"changes:{{{tag}}}" for tag in TAGS]
CAPTURE = f'source = "stream"\nstreams = {NAMES!r}\nkey_field = "key"\n'.replace("'", '"')


def write(made: Cluster, number: int) -> None:
    """Change a key of each tag, and name it in the stream of the same slot."""
    client = made.client()
    for tag, stream in zip(TAGS, NAMES, strict=True):
        key = f"cart:{{{tag}}}:{number % 20}"
        client.hset(key, mapping={"n": str(number)})
        client.xadd(stream, {"key": key})


def wait_delivered(path: PathUnderTest, numbers: range) -> None:
    """Return once the last value of each key is delivered."""
    newest = {number % 20: number for number in numbers}
    expected = {f"cart:{{{tag}}}:{place}".encode(): {"n": str(n)} for tag in TAGS for place, n in newest.items()}

    def is_whole() -> bool:
        held = path.last()
        return all(held.get(key) == value for key, value in expected.items())

    wait_for(is_whole, "the last value of each key", 120.0)


def test_streams_are_followed_through_the_cluster(tmp_path: Path) -> None:
    """Entries of all slots are delivered and acknowledged, before and after a failover and a move."""
    with (
        cluster(primaries=3, replicas=1) as made,
        engine_on(tmp_path, made, more=CAPTURE, interval_ms=1_000) as path,
    ):
        for number in range(40):
            write(made, number)
        wait_delivered(path, range(40))
        made.wait_until_ok()
        made.failover(made.primaries()[1], "CLUSTER FAILOVER")
        for number in range(40, 80):
            write(made, number)
        wait_delivered(path, range(80))
        source, target = made.owner_of(b"{0}"), made.owner_of(b"{1}")
        made.move_slots([key_slot(b"{0}")], source, target)
        for number in range(80, 120):
            write(made, number)
        wait_delivered(path, range(120))
        client = made.client()

        def is_acknowledged() -> bool:
            groups = [client.xinfo_groups(stream) for stream in NAMES]
            return all(len(found) == 1 and not found[0]["pending"] for found in groups)

        wait_for(is_acknowledged, "all entries are acknowledged")
        assert "entries_" not in path.log()


def test_a_group_that_is_deleted_as_its_slot_moves_begins_where_it_was(tmp_path: Path) -> None:
    """Who reads a stream at its new node knows how far it was read at the old one: also deletes after that arrive."""
    with cluster(primaries=3) as made, engine_on(tmp_path, made, more=CAPTURE, interval_ms=1_000) as path:
        for number in range(20):
            write(made, number)
        wait_delivered(path, range(20))
        client, stream, key = made.client(), "changes:{0}", "cart:{0}:5"
        last = client.xinfo_stream(stream)["last-generated-id"].decode()
        wait_for(lambda: last in (tmp_path / "checkpoint").read_text(), "it is known how far the stream was read")
        subscribers = [path.child(f"subscriber {number}/2") for number in (1, 2)]
        for subscriber in subscribers:
            subscriber.suspend()
        owner = made.owner_of(b"{0}")

        def nobody_reads() -> bool:
            return not any("b" in one["flags"] for one in owner.client.client_list())

        wait_for(nobody_reads, "the reads that waited at the server are over")
        client.delete(key)
        client.xadd(stream, {"key": key, "event": "del"})
        client.xgroup_destroy(stream, "engine")
        made.move_slots([key_slot(b"{0}")], owner, made.owner_of(b"{1}"))
        for subscriber in subscribers:
            subscriber.resume()
        wait_for(lambda: path.last().get(key.encode(), "") is None, f"the delete; the log says:\n{path.log()[-2_000:]}")
        assert f"made_anew_from={last}" in path.log(), "what was acknowledged is not read again"
