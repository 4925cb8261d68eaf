"""``starting_position = "TRIM_HORIZON"`` on a real server: asked for later, widened, killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import PathUnderTest, come_to_rest, wait_for, whole_path

COUNT = 300

ROUTE = """\
[[routes]]
name = "all"
function = "accept"
keys = [{keys}]
events = ["hset"]
starting_position = "{position}"
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[PathUnderTest]:
    with whole_path(tmp_path) as one:
        pipe = one.client.pipeline(transaction=False)
        for number in range(COUNT):
            pipe.hset(f"cart:{number}", "n", number)
            pipe.hset(f"user:{number}", "n", number)
        pipe.execute()
        yield one


def configure(path: PathUnderTest, keys: str, position: str, more: str = "") -> None:
    path.write_config(ROUTE.format(keys=keys, position=position) + more)


def delivered(path: PathUnderTest, prefix: str) -> list[str]:
    return [record["id"] for record in path.records() if record["id"].startswith(prefix)]


def snapshot(path: PathUnderTest) -> Any:
    return path.status()["routes"][0]["snapshot"]


def test_a_snapshot_that_is_asked_for_later_is_taken_and_a_wider_route_gets_what_is_new(path: PathUnderTest) -> None:
    """After a run with LATEST the line TRIM_HORIZON delivers all 300 keys at the next start, once; new patterns deliver
    theirs, by a reload, and nothing of the old ones again.
    """
    configure(path, '"cart:*"', "LATEST")
    path.start()
    assert snapshot(path) == "none"
    path.client.hset("cart:new", "n", 1)
    wait_for(lambda: path.records(), "what changes is delivered")
    assert path.stop() == 0
    assert len(path.records()) == 1
    configure(path, '"cart:*"', "TRIM_HORIZON")
    path.start()
    wait_for(lambda: snapshot(path) == "done", "the snapshot is done")
    assert len(set(delivered(path, "cart:"))) == COUNT + 1
    come_to_rest(path.client, "cart:new")
    assert path.stop() == 0
    before = len(path.records())
    path.start()
    wait_for(lambda: path.totals()["repairs"] >= 2, "both shards looked for what they missed")
    assert snapshot(path) == "done"
    assert len(path.records()) < before + COUNT, "what was delivered is not again"
    carts = len(delivered(path, "cart:"))
    configure(path, '"cart:*", "user:*"', "TRIM_HORIZON")
    assert path.engine is not None
    path.engine.send_signal(signal.SIGHUP)
    wait_for(lambda: len(set(delivered(path, "user:"))) == COUNT, "the new keys are delivered")
    wait_for(lambda: snapshot(path) == "done", "and that is done")
    # What changed just before a stop may come once more, of the repair of that gap.
    assert len(delivered(path, "cart:")) < carts + COUNT, "what was delivered is not again"
    assert path.stop() == 0


def test_a_snapshot_that_was_killed_goes_on(path: PathUnderTest) -> None:
    """Killed while it is under way, a snapshot is under way after the restart, and ends with every key delivered."""
    slow = "[capture]\nshards = 2\nrepair_keys_per_s_max = 100\n"
    configure(path, '"*"', "TRIM_HORIZON")
    text = path.config.read_text().replace("[capture]\nshards = 2\n", slow)
    path.config.write_text(text)
    path.start()
    wait_for(lambda: len(path.records()) > 0, "some keys are delivered")
    assert snapshot(path) == "under way"
    path.stop(signal.SIGKILL)
    (path.folder / "status.json").unlink()
    path.config.write_text(text.replace("repair_keys_per_s_max = 100\n", ""))
    path.start()
    wait_for(lambda: snapshot(path) == "done", "the snapshot is done")
    assert len({record["id"] for record in path.records()}) == 2 * COUNT
    assert path.stop() == 0
