"""A server that comes back without its newest writes: what was delivered of them is replaced by what it has."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.servers import server_params
from tests.stream_rig import StreamsUnderTest, streams_path
from tests.support import wait_for

KEYS = [f"k{number}" for number in range(40)]


def write_all(under_test: StreamsUnderTest, value: str) -> None:
    """Give all keys this value, and return once it is delivered and acknowledged."""
    for key in KEYS:
        under_test.write(key, n=value)
    wait_until_held(under_test, value)
    under_test.wait_acknowledged()


def wait_until_held(under_test: StreamsUnderTest, value: str) -> None:
    """Return once the destination holds this value of all keys."""
    wanted = {key.encode(): {"n": value} for key in KEYS}

    def is_held() -> bool:
        held = under_test.path.last()
        return all(held.get(key) == value for key, value in wanted.items())

    wait_for(is_held, f"{value} of all keys; the log says:\n{under_test.path.log()[-2_000:]}")


def lose_newest(under_test: StreamsUnderTest) -> None:
    """Have values be kept by the server, others be delivered on top of them, and the server end without these."""
    write_all(under_test, "kept")
    kept = under_test.group()["last-delivered-id"].decode()
    checkpoint = under_test.path.folder / "checkpoint"
    wait_for(lambda: kept in checkpoint.read_text(), "the checkpoint knows how far it is")
    under_test.client.save()
    write_all(under_test, "lost")
    under_test.path.server.kill()


@pytest.mark.parametrize("server_binary", server_params("valkey-9.1", "redis-7.0"))
def test_what_a_server_has_lost_is_found(tmp_path: Path, server_binary: Path) -> None:
    """No entry says that a delivered value was undone: a scan of what the server has now replaces it."""
    with streams_path(tmp_path, binary=server_binary) as under_test:
        lose_newest(under_test)
        under_test.path.server.start()
        wait_until_held(under_test, "kept")
        under_test.write("after", n="1")
        wait_for(lambda: b"after" in under_test.path.last(), "what comes then")
        assert len(under_test.logged("history_changed")) == 1
        assert not under_test.logged("entries_")


def test_what_a_server_lost_while_nobody_read_is_found(tmp_path: Path) -> None:
    """The checkpoint says of which history everything is, so an engine that starts later finds it too; once."""
    with streams_path(tmp_path) as under_test:
        path = under_test.path
        lose_newest(under_test)
        assert path.engine is not None
        path.engine.kill()
        path.engine.wait()
        path.server.start()
        path.start()
        wait_until_held(under_test, "kept")
        history = under_test.client.info("replication")["master_replid"]
        wait_for(lambda: history in (tmp_path / "checkpoint").read_text(), "the debt is settled")
        assert path.stop() == 0
        path.start()
        under_test.write("after", n="1")
        wait_for(lambda: b"after" in path.last(), "what comes then")
        assert len(under_test.logged("history_changed")) == 1


def test_a_subscriber_that_dies_amid_the_scan_leaves_it_to_the_next(tmp_path: Path) -> None:
    """The new history counts only once what the scan found is settled; until then whoever comes next scans."""
    with streams_path(tmp_path) as under_test:
        path = under_test.path
        lose_newest(under_test)
        invokers = [path.child(f"invoker {number}/2") for number in (1, 2)]
        for invoker in invokers:
            invoker.suspend()
        path.server.start()
        wait_for(lambda: under_test.logged("repaired"), "the scan is over, and nothing of it is settled")
        os.kill(path.child("subscriber 1/2").pid, signal.SIGKILL)
        wait_for(lambda: len(under_test.logged("history_changed")) == 2, "the next subscriber scans")
        for invoker in invokers:
            invoker.resume()
        wait_until_held(under_test, "kept")
