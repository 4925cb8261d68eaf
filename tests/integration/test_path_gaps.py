from __future__ import annotations

import signal
from pathlib import Path

import psutil

from engine.sandbox.functions.runtime import FunctionSpec
from tests.support import ROUTE, PathUnderTest, come_to_rest, wait_for, whole_path

SLOW = """\
[[routes]]
name = "all"
function = "slow"
batch_size = 10
parallelization_factor = 1
"""


def test_a_reconnect_is_a_gap_and_changes_go_on(tmp_path: Path) -> None:
    """A subscription that the server kills comes back by itself, and the gap is counted."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        assert path.client.client_kill_filter(_type="pubsub") == 2
        wait_for(lambda: path.totals()["gaps"] == 2, "gaps")
        wait_for(lambda: path.client.info("clients")["pubsub_clients"] == 2, "subscriptions again")
        path.client.hset("key", "f", "v")
        wait_for(lambda: path.last().get(b"key"), "a key after the reconnect")


def test_the_server_may_restart(tmp_path: Path) -> None:
    """A server that dies and comes back is captured again; nothing has to be restarted."""
    with whole_path(tmp_path, server_config={"notify-keyspace-events": "KA"}) as path:
        path.write_config(ROUTE)
        path.start()
        path.server.kill()
        path.server.start()

        def arrives() -> bool:
            path.client.hset("key", "f", "v")
            return b"key" in path.last()

        wait_for(arrives, "a key after the restart")
        assert path.stop() == 0


def test_changes_in_a_gap_are_found(tmp_path: Path) -> None:
    """Keys that change while no subscription is there arrive without another change: the shards are scanned."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        # In one transaction, so that the subscriptions cannot be back before the changes are made.
        pipe = path.client.pipeline(transaction=True)
        pipe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        for number in range(1_000):
            pipe.hset(f"unheard:{number}", "n", number)
        assert pipe.execute()[0] == 2
        wait_for(lambda: len(path.last()) == 1_000, "the keys of the gap")
        assert path.last()[b"unheard:7"] == {"n": "7"}
        wait_for(lambda: path.totals()["repairs"] == 2, "both scans")
        assert path.stop() == 0


def test_a_killed_subscriber_loses_nothing(tmp_path: Path) -> None:
    """Keys that change while a subscriber is dead, and those that it had not passed on, are found by its successor."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        for number in range(2_000):
            path.client.hset(f"key:{number}", "n", number)
            if number == 1_000:
                path.child("subscriber 1/2").kill()
                path.child("subscriber 2/2").kill()
        wait_for(lambda: len(path.last()) == 2_000, "every key")
        assert path.stop() == 0


def test_an_overflow_is_repaired(tmp_path: Path) -> None:
    """Changes beyond the dirty set's bound are dropped and counted, and found when there is room again."""
    marker = tmp_path / "healed"
    functions = (FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(marker)}),)
    bounds = "frame_bytes_max = 16384\nring_bytes = 65536\n"
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "gate"\n[ring]\n' + bounds)
        text = path.config.read_text().replace("[capture]", "[capture]\nkey_bytes_max = 1000\ndirty_keys_max = 100")
        path.config.write_text(text)
        path.start()
        pipe = path.client.pipeline(transaction=False)
        for number in range(20_000):
            pipe.hset(f"key:{number}", "n", number)
        pipe.execute()
        wait_for(lambda: path.totals()["events_dropped"] > 0, "the overflow")
        marker.write_text("yes")
        wait_for(lambda: path.totals()["keys_in_flight"] == 0 and path.totals()["repairs"] >= 1, "the repair")
        wait_for(lambda: len(path.last()) == 20_000, "every key")
        assert path.stop() == 0


def test_a_repaired_route_delivers_what_was_stuck(tmp_path: Path) -> None:
    """Keys that a broken function kept refusing go to the function that a reload names instead, without a change."""
    functions = (FunctionSpec("broken", "tests.functions:broken"), FunctionSpec("sound", "accept"))
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "broken"\n')
        path.start()
        for number in range(100):
            path.client.hset(f"key:{number}", "n", number)
        wait_for(lambda: path.totals()["records_retried"] >= 100, "retries")
        path.write_config('[[routes]]\nname = "all"\nfunction = "sound"\n')
        assert path.engine is not None
        path.engine.send_signal(signal.SIGHUP)

        def arrived() -> set[str]:
            sound = [one for one in path.invocations() if one["function"] == "sound"]
            return {record["id"] for one in sound for record in one["event"]["records"]}

        wait_for(lambda: len(arrived()) == 100, "all keys at the function that works")
        assert path.stop() == 0


def test_what_changed_while_the_engine_was_down_is_found(tmp_path: Path) -> None:
    """After SIGKILL of the whole engine, a start delivers what was changed, not settled, or written meanwhile."""
    functions = (FunctionSpec("slow", "tests.functions:slow", timeout_s=30.0),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(SLOW, invokers=1)
        shorten(path)
        path.start()
        path.client.hset("settled", "n", 1)
        wait_for(lambda: b"settled" in path.last(), "the first key")
        wait_for(lambda: path.node()["heard_until_ms"] > 0, "a watermark")
        # All at once: a writer that is slower than the function would leave nothing to lose.
        with path.client.pipeline(transaction=False) as pipeline:
            for number in range(300):
                pipeline.hset(f"key:{number}", "n", number)
            pipeline.execute()
        wait_for(lambda: len(path.last()) > 10, "the first of them")
        kill_all(path)
        assert len(path.last()) < 301, "the kill came too late to prove anything"
        for number in range(100):
            path.client.hset(f"down:{number}", "n", number)
        path.start()
        wait_for(lambda: len(path.last()) == 401, "every key")
        assert "resumed" in path.log()
        assert path.stop() == 0


def test_a_start_after_a_drain_finds_what_it_missed_and_no_more(tmp_path: Path) -> None:
    """Keys written between a drain and the next start are delivered then; keys that were at rest are not again."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        for number in range(200):
            path.client.hset(f"old:{number}", "n", number)
        wait_for(lambda: len(path.last()) == 200, "the old keys")
        come_to_rest(path.client, "old:199")
        assert path.stop() == 0
        path.client.hset("missed", "n", 1)
        before = len(path.records())
        path.start()
        wait_for(lambda: b"missed" in path.last(), "the key that was missed")
        wait_for(lambda: path.totals()["repairs"] == 2, "both shards are repaired")
        assert len(path.records()) < before + 200
        assert path.stop() == 0


def test_trim_horizon_is_the_whole_keyspace_once(tmp_path: Path) -> None:
    """A route that begins at the horizon gets every key of its types that is there; the next start does not again."""
    route = '[[routes]]\nname = "all"\nfunction = "accept"\nevents = ["*"]\nstarting_position = "TRIM_HORIZON"\n'
    latest = route.replace("TRIM_HORIZON", "LATEST").replace('"all"', '"latest"').replace('"accept"', '"second"')
    functions = (FunctionSpec("accept", "accept"), FunctionSpec("second", "accept"))
    with whole_path(tmp_path, functions=functions) as path:
        for number in range(1_000):
            path.client.hset(f"old:{number}", "n", number)
        come_to_rest(path.client, "old:999")
        path.write_config(route + latest)
        path.start()
        wait_for(lambda: len(path.last()) == 1_000, "the whole keyspace")
        wait_for(lambda: b'"all"' in (path.folder / "checkpoint").read_bytes(), "the checkpoint knows it")
        assert {one["function"] for one in path.invocations()} == {"accept"}
        assert path.stop() == 0
        before = len(path.records())
        path.start()
        path.client.hset("new", "n", 1)
        wait_for(lambda: b"new" in path.last(), "a new key")
        wait_for(lambda: path.totals()["repairs"] == 2, "what the start had to find")
        assert len(path.records()) < before + 1_000
        assert path.stop() == 0


def test_a_broken_route_stops_no_other(tmp_path: Path) -> None:
    """While one function refuses everything and its keys outgrow the rings, another route goes on; then all arrive."""
    marker = tmp_path / "healed"
    functions = (
        FunctionSpec("gate", "tests.functions:gate", environment={"HEALED": str(marker)}),
        FunctionSpec("accept", "accept"),
    )
    routes = """\
[[routes]]
name = "broken"
function = "gate"
keys = ["a:*"]
[[routes]]
name = "sound"
function = "accept"
keys = ["b:*"]
[ring]
ring_bytes = 65536
frame_bytes_max = 4096
"""
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(routes, shards=1, invokers=1)
        path.config.write_text(path.config.read_text().replace("[capture]", "[capture]\nkey_bytes_max = 1000"))
        path.start()
        pipe = path.client.pipeline(transaction=False)
        for number in range(20_000):
            pipe.hset(f"a:{number}", "n", number)
        pipe.execute()
        wait_for(lambda: path.totals()["keys_backlog"] > 10_000, "the backlog")
        path.client.hset("b:1", "n", 1)
        wait_for(lambda: any(r["id"] == "b:1" for r in path.records()), "the other route's key")
        assert path.totals()["gaps"] == 0
        kill_all(path)
        marker.write_text("yes")
        shorten(path)
        path.start()
        wait_for(lambda: path.totals()["keys_backlog"] == 0, "the backlog is worked off")
        wait_for(lambda: len(path.last()) == 20_001, "every key")
        assert path.stop() == 0


def shorten(path: PathUnderTest) -> None:
    """Have lost invocations be over after a second, so that a start after a kill need not wait long."""
    short = "[delivery]\ndeadline_ms = 800\ndeadline_margin_ms = 200\n"
    path.config.write_text(path.config.read_text().replace("[delivery]\n", short))


def kill_all(path: PathUnderTest) -> None:
    assert path.engine is not None
    for process in (*psutil.Process(path.engine.pid).children(recursive=True), path.engine):
        process.kill()
    path.engine.wait()
    # What it said last would be taken for its successor's.
    (path.folder / "status.json").unlink()
