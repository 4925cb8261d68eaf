"""Several engines, each with its slice of one server's keys."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from engine.routing.slices import Slice
from tests.support import ROUTE, PathUnderTest, wait_for, whole_path

KEYS = [f"cart:{number}" for number in range(300)] + ["user:é", "ends in z", "ends in Z", "?"]


def beside(path: PathUnderTest, name: str) -> PathUnderTest:
    """Return a second host: the same server and function, files of its own."""
    folder = path.folder / name
    folder.mkdir()
    return dataclasses.replace(path, folder=folder, engine=None)


def keys_of(path: PathUnderTest) -> set[str]:
    return {record["id"] for record in path.records()}


def metrics_of(host: PathUnderTest) -> str:
    command = [sys.executable, "-m", "engine", "metrics", "--config", str(host.config)]
    return subprocess.run(command, env=host.environment, capture_output=True, text=True, check=True).stdout


def delivered(host: PathUnderTest) -> int:
    return host.totals()["records_delivered"]


def test_two_engines_deliver_each_key_once_between_them(tmp_path: Path) -> None:
    """Two engines with a slice each deliver every key, and none of them delivers a key of the other's."""
    with whole_path(tmp_path) as one:
        other = beside(one, "other")
        one.write_config(ROUTE, shards=2, invokers=1)
        other.write_config(ROUTE, shards=1, invokers=2)
        one.start("--slice", "0/2")
        other.environment = {**other.environment, "ENGINE_SLICE": "1/2"}
        other.start()
        try:
            for key in KEYS:
                one.client.hset(key, "n", 1)
            wait_for(lambda: keys_of(one) >= set(KEYS), "all keys")
            assert one.status()["slice"] == "0/2"
            assert other.status()["slice"] == "1/2"
            mine = sum(Slice(0, 2).owns(key.encode()) for key in KEYS)
            wait_for(lambda: delivered(one) + delivered(other) >= len(KEYS), "all is counted")
            told = json.loads(metrics_of(other))
            assert (told["Slice"], told["RecordsDelivered"], told["Gaps"]) == ("1/2", len(KEYS) - mine, 0)
            assert (delivered(one), delivered(other)) == (mine, len(KEYS) - mine)
        finally:
            other.stop()


def test_another_cut_is_read_from_the_beginning(tmp_path: Path) -> None:
    """An engine that comes back with another slice reads all of it: nobody here has listened to it before."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE, shards=1, invokers=1)
        path.start("--slice", "0/2")
        path.stop()
        for key in KEYS:
            path.client.hset(key, "n", 1)
        path.start("--slice", "0/3")
        wanted = {key for key in KEYS if Slice(0, 3).owns(key.encode())}
        wait_for(lambda: keys_of(path) >= wanted, "the slice's keys")
        path.stop()
        assert keys_of(path) == wanted
        assert "checkpoint_of_another_slice" in path.log()


def test_a_slice_that_there_is_not_is_refused(tmp_path: Path) -> None:
    """A slice beyond the last is a wrong setting: one line, which says how many there are."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        path.launch("--slice", "3/3")
        assert path.engine is not None
        assert path.engine.wait(60) == 2
        assert "--slice" in path.log()
        assert "numbered from 0 to 2" in path.log()
        assert "Traceback" not in path.log()
