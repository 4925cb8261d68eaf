"""A cache that forgets, and routes that keep or follow."""

from __future__ import annotations

from pathlib import Path

from engine.sandbox.functions.runtime import FunctionSpec
from tests.commands.driver import Destinations
from tests.support import wait_for, whole_path

FUNCTIONS = [FunctionSpec("changes", "accept"), FunctionSpec("evicted", "accept")]
ROUTES = """
[[routes]]
name = "keeps"
function = "changes"
events = "changes"
[[routes]]
name = "follows"
function = "evicted"
events = ["changes", "evicted"]
"""
VALUE = b"v" * 50_000
KEYS = 100


def test_evictions_are_kept_or_followed_and_deletes_always(tmp_path: Path) -> None:
    """What the server evicts stays in a destination whose route does not list it, and goes from one whose route does;
    what is deleted goes from both.
    """
    with whole_path(tmp_path, functions=FUNCTIONS) as path:
        path.write_config(ROUTES)
        path.start()
        client, destinations = path.client, Destinations(tmp_path / "journal.jsonl")
        keeps, follows = destinations.held["changes"], destinations.held["evicted"]

        def holds(count: int) -> bool:
            destinations.read()
            return all(sum(item is not None for item in held.values()) == count for held in (keeps, follows))

        for number in range(KEYS):
            client.set(f"k:{number}", VALUE)
        wait_for(lambda: holds(KEYS), "all are delivered")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 30 * len(VALUE))
        wait_for(lambda: client.info("stats")["evicted_keys"] >= 20, "evictions")
        client.config_set("maxmemory", 0)
        left = set(client.scan_iter(count=KEYS))
        deleted = sorted(left)[0]
        client.delete(deleted)
        evicted = {key for key in keeps if key not in left}
        assert len(evicted) >= 20

        def is_followed() -> bool:
            destinations.read()
            return keeps[deleted] is None and {key for key, item in follows.items() if item is None} == {
                deleted,
                *evicted,
            }

        wait_for(is_followed, "the delete, and the evictions where they are followed")
        assert {key for key, item in keeps.items() if item is None} == {deleted}
