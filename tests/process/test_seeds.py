"""A start that no host of ``redis.url`` answers to: who else is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RedisSettings, Settings, SupervisionSettings
from engine.sandbox.valkey import ValkeyServer
from engine.supervision.errands.seeds import with_a_host_that_answers
from engine.supervision.progress.checkpoint import Checkpoint, CheckpointFile

DEAD, OTHER_DEAD = "redis://127.0.0.1:1", "redis://127.0.0.1:2"


@pytest.fixture(scope="module")
def node() -> ValkeyServer:
    with ValkeyServer(config={"cluster-enabled": "yes"}) as server:
        yield server


def settings(folder: Path, url: str, *node_addresses: str) -> Settings:
    redis = RedisSettings(url=url, node_addresses=node_addresses)
    return Settings(redis=redis, supervision=SupervisionSettings(checkpoint_file=str(folder / "checkpoint")))


def keep(folder: Path, url: str, *addresses: str) -> None:
    CheckpointFile(str(folder / "checkpoint")).write(Checkpoint("cluster", url=url, addresses=addresses))


def test_the_checkpoint_knows(tmp_path: Path, node: ValkeyServer) -> None:
    """A node of the checkpoint stands in, which is told; the dead among them are passed over."""
    place = f"127.0.0.1:{node.port}"
    keep(tmp_path, DEAD, "127.0.0.1:3", place)
    found, told = with_a_host_that_answers(settings(tmp_path, DEAD))
    assert found.redis.url == f"redis://{place}"
    assert "cannot connect to 127.0.0.1:1" in told
    assert f"{place} is asked instead" in told
    several = f"{DEAD},127.0.0.1:2"
    keep(tmp_path, several, place)
    assert with_a_host_that_answers(settings(tmp_path, several))[0].redis.url == f"redis://{place}"


def test_another_url(tmp_path: Path, node: ValkeyServer) -> None:
    """A checkpoint that was written for another URL may be another cluster's: its nodes are not asked."""
    keep(tmp_path, OTHER_DEAD, f"127.0.0.1:{node.port}")
    asked = settings(tmp_path, DEAD)
    assert with_a_host_that_answers(asked) == (asked, "")


def test_mapped_addresses_know(tmp_path: Path, node: ValkeyServer) -> None:
    """So do addresses that nodes are reached at, without any checkpoint; a server that is no cluster's is of no use."""
    place = f"127.0.0.1:{node.port}"
    with ValkeyServer() as alone:
        asked = settings(tmp_path, DEAD, f"a:1=127.0.0.1:{alone.port}", f"b:1={place}")
        assert with_a_host_that_answers(asked)[0].redis.url == f"redis://{place}"
        asked = settings(tmp_path, DEAD, f"a:1=127.0.0.1:{alone.port}")
        assert with_a_host_that_answers(asked) == (asked, "")


def test_nothing_is_changed(tmp_path: Path, node: ValkeyServer) -> None:
    """A URL that answers stays, and so does one that is refused, or leads to Sentinels: others say what is wrong."""
    keep(tmp_path, node.url, "127.0.0.1:3")
    for url in (node.url, "redis+sentinel://127.0.0.1:1/carts"):
        asked = settings(tmp_path, url)
        assert with_a_host_that_answers(asked) == (asked, "")
    refused = Settings(redis=RedisSettings(url=node.url, password="wrong"))
    assert with_a_host_that_answers(refused) == (refused, "")
