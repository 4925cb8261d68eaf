from __future__ import annotations

import itertools
import os
from pathlib import Path

import orjson

from engine.clock import now_ms
from engine.config import CaptureSettings, RedisSettings, RingSettings
from engine.marks.marker import Mark, Marker
from engine.marks.receivers import Receivers, receivers
from engine.marks.standing import Standing, read_standing
from engine.model import FORCED
from engine.redis.cluster.nodes import Nodes
from engine.ring.counters import Counter
from engine.routing.events import REPAIR
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import capture, route, wait_for

SMALL_RING = RingSettings(ring_bytes=65_536, frame_bytes_max=8_192)
DIRTY_KEYS_MAX = 500


def test_a_mark_that_a_full_dirty_set_drops() -> None:
    """A key whose mark finds no room is found by the repair that follows, though that is narrowed to the gap."""
    with (
        ValkeyServer() as server,
        capture(server, route("set"), ring=SMALL_RING, settings=CaptureSettings(dirty_keys_max=DIRTY_KEYS_MAX)) as (
            running,
            client,
        ),
    ):
        client.set("draft", "value")
        for key in ("idle", "other"):
            client.restore(key, 0, client.dump("draft"), idletime=1_000)
        restored_ms = client.time()[0] * 1_000 + 1_000
        is_marked = lambda: running.heard_until().since_ms > restored_ms and running.heard_until().server_mark  # noqa: E731
        wait_for(is_marked, "a watermark that a gap may be narrowed by")
        parts = itertools.count()

        def overfill() -> bool:
            part = next(parts)
            client.mset({f"live:{part}:{number}": 1 for number in range(100)})
            return bool(running.count(Counter.RING_FULL)) and running.count(Counter.DIRTY_KEYS) == DIRTY_KEYS_MAX

        wait_for(overfill, "ring and set are full")
        nodes = Nodes(RedisSettings(url=server.url), "marker")
        assert Marker(nodes, lambda: None).mark([Mark(b"idle", REPAIR)]) == [True]
        nodes.close()
        taken = running.take_until(
            lambda taken: (
                running.count(Counter.REPAIRS) > 0
                and not running.count(Counter.DIRTY_KEYS)
                and any(change.key == b"idle" for _, _, change in taken)
            )
        )
        keys = {change.key for _, _, change in [*taken, *running.take()]}
        assert b"idle" in keys
        assert b"other" not in keys, "the repair was not narrowed"


def test_others_that_hear_are_told_from_engines() -> None:
    """A monitor counts with each of its patterns, and once for all its channels; what can't be listed is unknown."""
    listed = (
        b"id=3 addr=127.0.0.1:1 name=engine-subscriber-1 flags=P sub=0 psub=2 ssub=0\n"
        b"id=4 addr=127.0.0.1:2 name= flags=P sub=0 psub=2 ssub=0\n"
        b"id=5 addr=127.0.0.1:3 name=engine-canary flags=P sub=7 psub=0\n"
    )
    assert receivers(listed) == Receivers(engines=1, others_max=3)
    assert receivers(b"") == Receivers(0, 0)
    assert receivers(PermissionError("NOPERM")) is None


def status(folder: Path, *, gaps: int = 0, reconnects: int = 0, dropped: int = 0, state: str = "ready") -> Standing:
    """Return what is read of a status file."""
    file = folder / "status.json"
    totals = {"gaps": gaps, "reconnects": reconnects, "events_dropped": dropped}
    children = [{"role": "invoker", "state": "starting"}, {"role": "subscriber", "state": state}]
    content = {"pid": os.getpid(), "started_at_ms": 5, "updated_at_ms": now_ms(), "slice": "0/2"}
    nodes = [{"id": "a", "settled_until_ms": 7}, {"id": "b", "settled_until_ms": 9}]
    file.write_bytes(orjson.dumps({**content, "nodes": nodes, "totals": totals, "children": children}))
    found = read_standing(str(file))
    assert found is not None
    return found


def test_each_node_has_its_own_watermark(tmp_path: Path) -> None:
    """A mark is settled by the watermark of the node that it was published on."""
    standing = status(tmp_path)
    assert standing.has_settled({"a": 6}) and standing.has_settled({"a": 6, "b": 8})
    assert not standing.has_settled({"a": 7}) and not standing.has_settled({"a": 6, "b": 9})
    assert not standing.has_settled({"c": 1})


def test_whatever_may_have_lost_a_mark_shows_in_the_status(tmp_path: Path) -> None:
    """A gap, a reconnect or a dropped event since, and a subscriber that did not listen then: each spoils the proof."""
    before = status(tmp_path)
    assert status(tmp_path).has_heard_all_since(before)
    for loss in ({"gaps": 1}, {"reconnects": 1}, {"dropped": 1}):
        assert not status(tmp_path, **loss).has_heard_all_since(before)  # type: ignore[arg-type]
    assert not status(tmp_path).has_heard_all_since(status(tmp_path, state="starting"))
    assert read_standing(str(tmp_path / "nothing")) is None


def test_a_mark_forces_and_an_event_does_not() -> None:
    """What an audit marks is delivered though it was accepted before, also where the key was dirty already."""
    with ValkeyServer() as server, capture(server, route("set")) as (running, client):
        nodes = Nodes(RedisSettings(url=server.url), "marker")
        client.set("changed", 1)
        taken = running.take_until(lambda taken: any(change.key == b"changed" for _, _, change in taken))
        assert not any(change.routes & FORCED for _, _, change in taken)
        Marker(nodes, lambda: None).mark([Mark(b"changed", REPAIR)])
        taken = running.take_until(lambda taken: any(change.routes & FORCED for _, _, change in taken))
        assert [change.key for _, _, change in taken if change.routes & FORCED] == [b"changed"]
        nodes.close()


def test_what_a_repair_would_find_is_not_sure_where_routes_skip() -> None:
    """A repair delivers only what changed there: the mark is sure once it is settled, as that of a key that is gone."""
    with ValkeyServer() as server, capture(server, route("set")) as (_, client):
        client.set("key", 1)
        nodes = Nodes(RedisSettings(url=server.url), "marker")
        assert Marker(nodes, lambda: None).mark([Mark(b"key", REPAIR)]) == [True]
        marker = Marker(nodes, lambda: None, repairs_deliver=False)
        assert marker.mark([Mark(b"key", REPAIR)]) == [False]
        assert marker.problem is not None
        nodes.close()
