"""`skip_unchanged` on the whole path: what was accepted is not delivered again, over kills and restarts."""

from __future__ import annotations

import signal
from pathlib import Path

import redis

from tests.support import PathUnderTest, wait_for, whole_path

KEYS = 200
ROUTE = """\
[[routes]]
name = "all"
function = "accept"
events = ["changes"]
skip_unchanged = true
"""


def write(client: redis.Redis, **changed: str) -> None:
    """Write all keys, most of them with what they hold already."""
    pipe = client.pipeline(transaction=False)
    for number in range(KEYS):
        key = f"key:{number}"
        pipe.hset(key, "value", changed.get(key.replace(":", ""), "same"))
    pipe.execute()


def skipped(path: PathUnderTest) -> int:
    return path.totals()["skipped_unchanged"]


def test_equal_values_cost_no_invocation(tmp_path: Path) -> None:
    """Of equal writes nothing is sent, of others all; a killed invoker and a killed engine change nothing of that."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE, invokers=2)
        path.start()
        write(path.client)
        wait_for(lambda: len(path.last()) == KEYS, "all keys")
        wait_for(lambda: not path.totals()["keys_in_flight"], "nothing is in flight")
        write(path.client, key7="other")
        wait_for(lambda: skipped(path) == KEYS - 1, "equal values are skipped")
        wait_for(lambda: len(path.records()) == KEYS + 1, "the other one is delivered")
        path.child("invoker 1/2").send_signal(signal.SIGKILL)
        path.child("invoker 2/2").send_signal(signal.SIGKILL)
        wait_for(lambda: sum(child["restarts"] for child in path.status()["children"]) == 2, "successors")
        write(path.client, key7="other", key8="third")
        wait_for(lambda: skipped(path) >= 2 * KEYS - 2, "skipped by their successors")
        wait_for(lambda: path.last()[b"key:8"] == {"value": "third"}, "what changed")
        assert path.engine is not None
        path.engine.kill()
        path.engine.wait()
        path.client.hset("key:9", "value", "unheard")
        path.client.hset("key:10", "value", "same")
        before = len(path.records())
        path.start()
        wait_for(lambda: path.last()[b"key:9"] == {"value": "unheard"}, "what changed while nobody listened")
        wait_for(lambda: path.totals()["repairs"] >= 2 and not path.totals()["keys_to_scan"], "all is found")
        write(path.client, key7="other", key8="third", key9="unheard", key11="last")
        wait_for(lambda: path.last()[b"key:11"] == {"value": "last"}, "a change after the start")
        assert b"key:10" not in {record["id"].encode() for record in path.records()[before:]}
        assert path.stop() == 0
        assert {key: value["value"] for key, value in path.last().items() if value["value"] != "same"} == {
            b"key:7": "other", b"key:8": "third", b"key:9": "unheard", b"key:11": "last",
        }  # fmt: skip


def test_another_target_is_given_everything(tmp_path: Path) -> None:
    """A reload that names another function voids what the first one has accepted."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        write(path.client)
        wait_for(lambda: len(path.last()) == KEYS, "all keys")
        path.write_config(ROUTE.replace('"accept"', '"accept:live"'))
        version = path.status()["routes_version"]
        assert path.engine is not None
        path.engine.send_signal(signal.SIGHUP)
        wait_for(lambda: path.status()["routes_version"] > version, "new routes")
        before = len(path.records())
        write(path.client)
        wait_for(lambda: len({record["id"] for record in path.records()[before:]}) == KEYS, "all keys once more")


def test_what_an_audit_repairs_is_delivered(tmp_path: Path) -> None:
    """A mark goes to the function, though its digest says that it has the value."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        write(path.client)
        wait_for(lambda: len(path.last()) == KEYS, "all keys")
        wait_for(lambda: not path.totals()["keys_in_flight"], "nothing is in flight")
        heard = path.client.publish("__keyspace@0__:key:5", "repair")
        assert heard
        wait_for(lambda: len(path.records()) == KEYS + 1, "the marked key")
        assert path.records()[-1]["id"] == "key:5"
