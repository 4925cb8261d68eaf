"""The ``scan`` source on the whole path: a server that publishes nothing, and allows only what it must."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import PathUnderTest, wait_for, whole_path

ROUTE = """\
[[routes]]
name = "all"
function = "accept"
events = ["changes"]
skip_unchanged = true
starting_position = "TRIM_HORIZON"
"""
DENIED = "-config -psubscribe -subscribe -cluster|slots -cluster|shards -keys -object -client|list -publish -watch"
"""What serverless caches do not have, and a scan does not need."""


@contextmanager
def scanned(folder: Path, *, period_s: float = 1.0, config: dict[str, str] | None = None) -> Iterator[PathUnderTest]:
    """Yield a path whose engine may do no more than a scan needs, on a server without notifications."""
    with whole_path(folder, server_config={"notify-keyspace-events": "", **(config or {})}) as path:
        path.client.acl_setuser("default", enabled=True, nopass=True)
        path.client.execute_command("ACL", "SETUSER", "scanner", "on", ">pw", "~*", "&*", "+@all", *DENIED.split())
        path.write_config(ROUTE, shards=1)
        ours = f'username = "scanner"\npassword = "pw"\n[capture]\nsource = "scan"\nscan_period_s_max = {period_s}\n'
        text = path.config.read_text().replace("[capture]\n", ours, 1)
        path.config.write_text(text)
        yield path


def write(client: Any, keys: int, value: str = "1", first: int = 0) -> None:
    pipe = client.pipeline(transaction=False)
    for number in range(first, keys):
        pipe.hset(f"key:{number}", "value", value)
    pipe.execute()


def holds(path: PathUnderTest, key: str, value: str | None) -> bool:
    """Tell whether a destination would hold this."""
    held = path.last().get(key.encode(), ())
    return held == (None if value is None else {"value": value})


def test_changes_are_found_without_any_notification(tmp_path: Path) -> None:
    """All keys are delivered once, then what changed, of every type, and what was deleted."""
    with scanned(tmp_path) as path:
        write(path.client, 1_500)
        path.start()
        wait_for(lambda: len(path.last()) == 1_500, "all keys")
        path.client.hset("key:7", "value", "other")
        path.client.set("text", "words")
        path.client.rpush("list", "a", "b")
        path.client.delete("key:8")
        wait_for(lambda: holds(path, "key:7", "other"), "a change")
        wait_for(lambda: path.last().get(b"text") == "words" and path.last().get(b"list") == ["a", "b"], "new keys")
        wait_for(lambda: holds(path, "key:8", None), "a deletion")
        wait_for(lambda: path.totals()["skipped_unchanged"] > 3_000, "passes deliver only what changed")
        assert len(path.records()) == 1_500 + 4
        assert path.stop() == 0


def test_what_happens_while_nobody_looks_is_found(tmp_path: Path) -> None:
    """Over a drain and a kill: changes, deletions of keys that were delivered, and nothing twice."""
    with scanned(tmp_path) as path:
        write(path.client, 300)
        path.start()
        wait_for(lambda: len(path.last()) == 300, "all keys")
        passes = path.totals()["repairs"]
        wait_for(lambda: path.totals()["repairs"] > passes + 1, "another pass")
        assert path.engine is not None
        path.engine.kill()
        path.engine.wait()
        path.client.delete("key:1")
        path.client.hset("key:2", "value", "unheard")
        path.start()
        wait_for(lambda: holds(path, "key:1", None), "a deletion that nobody saw")
        wait_for(lambda: holds(path, "key:2", "unheard"), "a change that nobody saw")
        assert path.stop() == 0
        path.client.delete("key:3")
        path.start()
        wait_for(lambda: holds(path, "key:3", None), "a deletion after a drain")
        assert path.stop() == 0
        assert len(path.records()) == 303


def test_killed_processes_lose_nothing(tmp_path: Path) -> None:
    """A subscriber and an invoker that are killed in the midst of passes: the last values arrive, deletions too."""
    with scanned(tmp_path) as path:
        write(path.client, 2_000)
        path.start()
        for number in range(4):
            path.child("subscriber 1/1" if number % 2 else "invoker 1/2").send_signal(signal.SIGKILL)
            write(path.client, 2_000, str(number), first=number * 100)
            path.client.delete(f"key:{number}")
            restarts = number + 1
            wait_for(
                lambda restarts=restarts: sum(one["restarts"] for one in path.status()["children"]) >= restarts,
                "a successor",
            )
        truth = {key: {"value": path.client.hget(key, "value").decode()} for key in path.client.scan_iter(count=1_000)}
        wait_for(lambda: {key: value for key, value in path.last().items() if value is not None} == truth, "all")
        assert path.stop() == 0


def test_a_server_that_came_back_empty_deletes_nothing(tmp_path: Path) -> None:
    """What a server forgot the destination keeps; what is written then is delivered."""
    with scanned(tmp_path, config={"save": "", "appendonly": "no"}) as path:
        write(path.client, 300)
        path.start()
        wait_for(lambda: len(path.last()) == 300, "all keys")
        passes = path.totals()["repairs"]
        wait_for(lambda: path.totals()["repairs"] > passes, "their names are known")
        path.client.flushall()
        wait_for(lambda: "deletions_held" in path.log(), "the deletions are held")
        path.client.hset("key:5", "value", "new")
        wait_for(lambda: holds(path, "key:5", "new"), "a new value")
        assert not [record for record in path.records() if record["body"] is None]
        assert path.stop() == 0


def test_a_connection_that_breaks_begins_a_pass_anew(tmp_path: Path) -> None:
    """A scan that is cut off in the middle says nothing; the next one finds what changed."""
    with scanned(tmp_path, period_s=2.0) as path:
        write(path.client, 3_000)
        path.start()
        wait_for(lambda: len(path.last()) == 3_000, "all keys")
        for number in range(5):
            path.client.client_kill_filter(_type="normal", skipme=True)
            path.client.hset(f"key:{number}", "value", "other")
        wait_for(lambda: all(holds(path, f"key:{number}", "other") for number in range(5)), "the changes")
        path.server.kill()
        path.server.start()
        path.client.execute_command("ACL", "SETUSER", "scanner", "on", ">pw", "~*", "&*", "+@all", *DENIED.split())
        write(path.client, 3_000, "again")
        wait_for(lambda: all(holds(path, f"key:{number}", "again") for number in (0, 1_500, 2_999)), "after a restart")
        assert path.stop() == 0


def test_a_key_that_is_back_for_a_moment_is_deleted_in_the_end(tmp_path: Path) -> None:
    """Found gone, written again before that is read, delivered, and deleted before the next pass looks."""
    with scanned(tmp_path) as path:
        write(path.client, 200)
        path.start()
        wait_for(lambda: len(path.last()) == 200, "all keys")
        invokers, subscriber = [path.child(f"invoker {number}/2") for number in (1, 2)], path.child("subscriber 1/1")
        for invoker in invokers:
            invoker.send_signal(signal.SIGSTOP)
        path.client.delete("key:1")
        passes = path.totals()["repairs"]
        wait_for(lambda: path.totals()["repairs"] > passes + 2, "a pass that does not find it, and another")
        subscriber.send_signal(signal.SIGSTOP)
        path.client.hset("key:1", "value", "back")
        for invoker in invokers:
            invoker.send_signal(signal.SIGCONT)
        wait_for(lambda: holds(path, "key:1", "back"), "what it held for a moment")
        path.client.delete("key:1")
        subscriber.send_signal(signal.SIGCONT)
        wait_for(lambda: holds(path, "key:1", None), "its deletion")
        assert path.stop() == 0
