from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.sandbox.functions.runtime import FunctionSpec
from engine.supervision.signals import SAME_MS
from tests.support import ROUTE, PathUnderTest, wait_for, whole_path

SLOW = """\
[[routes]]
name = "all"
function = "slow"
batch_size = 10
parallelization_factor = 1
"""


def test_keys_of_every_byte_value_arrive(tmp_path: Path) -> None:
    """Keys ending in each of the 256 bytes, the empty key, binary keys and values, and 1 MB come out as they are."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start("--shards", "4")
        expected: dict[bytes, dict[str, str]] = {}
        client = path.client
        for byte in range(256):
            key = b"key:" + bytes((byte,))
            expected[key] = {"n": str(byte)}
        expected[b""] = {"n": "empty"}
        expected[b"k" * 1_000_000] = {"n": "long key"}
        expected[b"large"] = {"n": "v" * 1_000_000}
        for key, fields in expected.items():
            client.hset(key, mapping=fields)
        client.hset(b"binary\xff", b"\xfe", b"\xfd\x00")
        wait_for(lambda: len(path.last()) == len(expected) + 1, "all keys at the function")
        held = path.last()
        assert held.pop(b"binary\xff") == {"/g==": "/QA="}
        assert held == expected
        marked = [r for r in path.records() if r.get("body_encoding")]
        assert [record["id_encoding"] for record in marked] == ["base64"]
        assert path.stop() == 0


def test_a_key_that_expires_says_when(tmp_path: Path) -> None:
    """With `include_expiry` records carry the moment, and lose it with the time to live."""
    with whole_path(tmp_path) as path:
        path.write_config(
            ROUTE.replace('events = ["*", ', 'include_expiry = true\nevents = ["*", "expire", "persist", ')
        )
        path.start()
        moment_ms = round(time.time() * 1_000) + 3_600_000

        def told() -> list[int]:
            return [record.get("expires_at_ms", 0) for record in path.records()]

        path.client.hset("k", "f", "v")
        wait_for(lambda: told()[-1:] == [0], "a key that stays")
        path.client.pexpireat("k", moment_ms)
        wait_for(lambda: told()[-1:] == [moment_ms], "the key that expires")
        path.client.persist("k")
        wait_for(lambda: told()[-1:] == [0], "the key that stays again")
        assert path.stop() == 0


def test_every_type_has_a_body(tmp_path: Path) -> None:
    """Strings, lists, sets, sorted sets and streams arrive in their canonical form, and deletes where listed."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        client = path.client
        client.set("string", "text")
        client.rpush("list", "a", "b")
        client.sadd("set", "b", "a")
        client.zadd("zset", {"low": 1, "high": 2.5})
        client.xadd("stream", {"field": "value"}, id="1-1")
        client.hset("moved", "f", "v")
        client.rename("moved", "renamed")
        client.set("doomed", "x")
        client.delete("doomed")
        expected = {
            b"string": "text",
            b"list": ["a", "b"],
            b"set": ["a", "b"],
            b"zset": [["low", 1], ["high", 2.5]],
            b"stream": [["1-1", [["field", "value"]]]],
            b"renamed": {"f": "v"},
            b"doomed": None,
        }
        wait_for(lambda: expected.items() <= path.last().items(), "every type")
        types = {record["id"]: record["type"] for record in path.records() if record["body"]}
        assert types["zset"] == "zset"
        assert types["stream"] == "stream"
        assert path.stop() == 0


def test_a_gone_or_retyped_key_is_handled_and_counted(tmp_path: Path) -> None:
    """A key deleted before its read is settled without a record; one that changed its type is read as what it is."""
    with whole_path(tmp_path) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "accept"\nevents = ["hset"]\n')
        path.start()
        pipe = path.client.pipeline(transaction=True)
        for number in range(50):
            pipe.hset(f"gone:{number}", "f", "v").delete(f"gone:{number}")
            pipe.hset(f"other:{number}", "f", "v").delete(f"other:{number}").set(f"other:{number}", "now text")
        pipe.execute()
        wait_for(lambda: len(path.last()) == 50, "the retyped keys")
        assert set(path.last().values()) == {"now text"}
        wait_for(lambda: path.totals()["keys_gone"] == 50, "gone keys are counted")
        wait_for(lambda: path.totals()["keys_retyped"] >= 50, "retyped keys are counted")
        assert path.stop() == 0


def test_a_key_goes_to_several_functions(tmp_path: Path) -> None:
    """A key that two routes want is delivered to both; a key that one wants to that one alone."""
    functions = (FunctionSpec("first", "accept"), FunctionSpec("second", "accept"))
    routes = """\
[[routes]]
name = "carts"
function = "first"
keys = ["cart:*"]
[[routes]]
name = "all"
function = "second"
"""
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(routes)
        path.start()
        path.client.hset("cart:1", "f", "v")
        path.client.hset("user:1", "f", "v")
        wait_for(lambda: len(path.records()) == 3, "three records")
        seen = {(i["function"], r["id"]) for i in path.invocations() for r in i["event"]["records"]}
        assert seen == {("first", "cart:1"), ("second", "cart:1"), ("second", "user:1")}


@pytest.mark.parametrize("victim", ["invoker 1/2", "subscriber 1/2"])
def test_a_killed_child_is_replaced_and_changes_go_on(tmp_path: Path, victim: str) -> None:
    """After SIGKILL of a child, keys changed before and after it reach the function, without help."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        client = path.client
        for number in range(500):
            client.hset(f"before:{number}", "n", number)
        if victim.startswith("subscriber"):
            # What a subscriber had not yet passed on is a gap, to be repaired; here it had passed on all.
            wait_for(lambda: len(path.last()) == 500, "the first keys")
        killed = path.child(victim)
        killed.kill()
        wait_for(lambda: _replaced(path, victim, killed.pid), "a replacement")
        for number in range(500):
            client.hset(f"after:{number}", "n", number)
        wait_for(lambda: len(path.last()) == 1_000, "all keys")
        if victim.startswith("subscriber"):
            wait_for(lambda: path.totals()["gaps"] >= 1, "the gap is counted")
        assert path.stop() == 0


def _replaced(path: PathUnderTest, name: str, old_pid: int) -> bool:
    children = path.status().get("children", [])
    return any(c["name"] == name and c["pid"] != old_pid and c["state"] == "ready" for c in children)


def test_a_killed_invoker_delivers_again_what_was_not_settled(tmp_path: Path) -> None:
    """Keys in flight and waiting in a killed invoker are read again from the ring and delivered."""
    functions = (FunctionSpec("slow", "tests.functions:slow", timeout_s=30.0),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(SLOW, invokers=1)
        path.start()
        # All at once: a writer that is slower than the function would leave nothing to lose.
        with path.client.pipeline(transaction=False) as pipeline:
            for number in range(300):
                pipeline.hset(f"key:{number}", "n", number)
            pipeline.execute()
        wait_for(path.records, "the first batch")
        path.child("invoker 1/1").kill()
        assert len(path.last()) < 300, "the kill came too late to prove anything"
        wait_for(lambda: len(path.last()) == 300, "every key in spite of the kill")
        assert path.stop() == 0


def test_a_drain_delivers_what_waits(tmp_path: Path) -> None:
    """SIGTERM with work waiting delivers all that was captured, then exits with 0 and leaves no process."""
    functions = (FunctionSpec("slow", "tests.functions:slow"),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(SLOW)
        path.start()
        assert path.engine is not None
        children = psutil.Process(path.engine.pid).children(recursive=True)
        for number in range(200):
            path.client.hset(f"key:{number}", "n", number)
        assert path.stop() == 0
        assert len(path.last()) == 200
        assert not [child for child in children if child.is_running()]


def test_a_second_sigterm_stops_at_once(tmp_path: Path) -> None:
    """A drain that takes long is cut short by a second SIGTERM; the status says by what."""
    functions = (FunctionSpec("stuck", "tests.functions:stuck", concurrency_max=4, timeout_s=600.0),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config(SLOW.replace('"slow"', '"stuck"'))
        path.start()
        path.client.hset("key", "f", "v")
        wait_for(lambda: path.totals()["keys_in_flight"] == 1, "an invocation in flight")
        assert path.engine is not None
        path.engine.send_signal(signal.SIGTERM)
        wait_for(lambda: path.status().get("state") == "draining", "the drain")
        time.sleep(2 * SAME_MS / 1_000)
        path.engine.send_signal(signal.SIGTERM)
        assert path.engine.wait(30) in {128 + signal.SIGTERM, -signal.SIGTERM}


def test_a_killed_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    """SIGKILL of the supervisor takes every child with it."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        assert path.engine is not None
        children = psutil.Process(path.engine.pid).children(recursive=True)
        assert len(children) == 4
        os.kill(path.engine.pid, signal.SIGKILL)
        path.engine.wait()
        wait_for(lambda: not any(_runs(child) for child in children), "no orphan")


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_failing_function_is_tried_again_until_it_accepts(tmp_path: Path) -> None:
    """Function errors and batchItemFailures are retried with the newest value; neighbours are not held up."""
    marker = tmp_path / "healed"
    functions = (FunctionSpec("flaky", "tests.functions:flaky", environment={"HEALED": str(marker)}),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "flaky"\n')
        path.start()
        client = path.client
        client.hset("poison", "n", 1)
        client.hset("good", "n", 1)
        wait_for(lambda: path.totals()["records_retried"] >= 2, "retries")
        wait_for(lambda: path.totals()["records_delivered"] >= 1, "the neighbour")
        client.hset("poison", "n", 2)
        marker.write_text("yes")
        wait_for(lambda: path.totals()["records_delivered"] >= 2, "the poisoned record, healed")
        assert path.last()[b"poison"] == {"n": "2"}
        assert path.stop() == 0


def test_attempts_end_in_a_dead_letter(tmp_path: Path) -> None:
    """With maximum_retry_attempts used up, the record is kept with its reason, and the engine goes on."""
    functions = (FunctionSpec("broken", "tests.functions:broken"),)
    with whole_path(tmp_path, functions=functions) as path:
        path.write_config('[[routes]]\nname = "all"\nfunction = "broken"\nmaximum_retry_attempts = 2\n')
        path.start()
        path.client.hset("poison", "n", 1)
        letters = tmp_path / "dead_letters.jsonl"
        wait_for(letters.exists, "a dead letter")
        text = wait_for(letters.read_text, "its line")
        assert '"id":"poison"' in text
        assert "this function is broken" in text
        assert path.stop() == 0
        assert len(path.invocations()) == 3


def test_large_values_are_cut_into_payloads_that_fit(tmp_path: Path) -> None:
    """40 values of 1 MB waiting at once arrive in invocations of at most 6 MB, each key once or more, none lost."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.start()
        pipe = path.client.pipeline(transaction=True)
        for number in range(40):
            pipe.hset(f"large:{number}", "v", str(number % 10) * 1_000_000)
        pipe.execute()
        wait_for(lambda: len(path.last()) == 40, "all values")
        assert max(one["payload_bytes"] for one in path.invocations()) <= 6_000_000
        assert {len(held["v"]) for held in path.last().values()} == {1_000_000}
        assert path.stop() == 0


def test_a_route_may_be_told_of_each_event(tmp_path: Path) -> None:
    """With coalesce = false, 400 changes of one key are 400 records, in order; another route of the key has fewer."""
    each = '[[routes]]\nname = "each"\nfunction = "accept"\ncoalesce = false\n'
    last = '[[routes]]\nname = "last"\nfunction = "second"\n'
    functions = (FunctionSpec("accept", "accept"), FunctionSpec("second", "accept"))
    bound = {"ENGINE_CAPTURE_UNCOALESCED_EVENTS_MAX": "1000"}
    with whole_path(tmp_path, functions=functions, environment=bound) as path:
        path.write_config(each + last)
        path.start()
        with path.client.pipeline(transaction=False) as pipe:
            for number in range(400):
                pipe.hset("cart", "n", number)
            pipe.execute()
        wait_for(lambda: path.totals()["keys_in_flight"] == path.totals()["keys_waiting"] == 0, "everything")
        wait_for(lambda: len(records_of(path, "accept")) >= 400, "each event")
        assert path.stop() == 0
        records = records_of(path, "accept")
        assert len(records) == 400
        assert records[-1]["body"] == '{"n":"399"}'
        times = [record["captured_at_ms"] for record in records]
        assert times == sorted(times)
        assert 1 <= len(records_of(path, "second")) < 400


def records_of(path: PathUnderTest, function: str) -> list[Any]:
    mine = [one for one in path.invocations() if one["function"] == function]
    return [record for one in sorted(mine, key=lambda one: one["started_ns"]) for record in one["event"]["records"]]
