"""The server-side helpers of config/streams: a key and its entry in one step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tests.cluster import cluster, moves
from tests.servers import every_server, server_params
from tests.stream_rig import streams_path
from tests.support import wait_for

FOLDER = Path(__file__).parents[2] / "config" / "streams"


def by_function(client: Any) -> Callable[..., Any]:
    client.function_load((FOLDER / "ingest.lua").read_text(), replace=True)
    return lambda key, *command: client.fcall("ingest_write", 2, key, "changes", *command)


def by_script(client: Any) -> Callable[..., Any]:
    script = (FOLDER / "ingest_eval.lua").read_text()
    return lambda key, *command: client.eval(script, 2, key, "changes", *command)


def tell_a_story(under_test: Any, write: Callable[..., Any]) -> None:
    """Write, overwrite, delete and fail; what arrives is what the server holds."""
    assert write("user:1", "HSET", "name", "Ann", "age", "7") == 2
    assert write("user:2", "HSET", "name", "Bob") == 1
    write("text", "SET", "v")
    wait_for(lambda: len(under_test.path.last()) == 3, "what was written")
    assert write("user:2", "DEL") == 1
    assert write("user:1", "HDEL", "age") == 1
    wait_for(lambda: under_test.path.last()[b"user:2"] is None, "the delete")
    wait_for(lambda: under_test.path.last()[b"user:1"] == {"name": "Ann"}, "the newest value")
    assert under_test.path.last()[b"text"] == "v"
    before = under_test.client.xlen("changes")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        write("text", "HSET", "name", "Ann")
    with pytest.raises(redis.ResponseError, match="takes a key, a stream and a command"):
        write("text")
    assert under_test.client.xlen("changes") == before, "what fails leaves no entry"
    under_test.wait_acknowledged()


@pytest.mark.parametrize("server_binary", server_params("valkey-9.1", "redis-7.0"))
def test_a_function_writes_both_in_one_step(tmp_path: Path, server_binary: Path) -> None:
    """`FCALL ingest_write` runs a command on a key and adds an entry that names it."""
    with streams_path(tmp_path, binary=server_binary) as under_test:
        tell_a_story(under_test, by_function(under_test.client))


@every_server
def test_a_script_does_it_where_there_are_no_functions(tmp_path: Path, server_binary: Path) -> None:
    """The script for EVAL does the same, also on Redis 6."""
    with streams_path(tmp_path, binary=server_binary) as under_test:
        tell_a_story(under_test, by_script(under_test.client))


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-7.0"])
def test_a_delete_while_its_slot_moves_leaves_an_entry(server: str) -> None:
    """The node refuses what asks for a key that it has no more; the delete is done by then, and has to be told of."""
    with cluster(server, primaries=2) as made:
        source = made.owner_of(b"{7}")
        (target,) = (node for node in made.primaries() if node is not source)
        source.client.function_load((FOLDER / "ingest.lua").read_text())
        script = (FOLDER / "ingest_eval.lua").read_text()
        helpers: list[tuple[bytes | str, ...]] = [("FCALL", "ingest_write"), ("EVAL", script)]
        for number, helper in enumerate(helpers):
            assert source.call(*helper, 2, f"k{number}:{{7}}", "changes:{7}", "HSET", "n", "1") == 1
        moves.begin(key_slot(b"{7}"), source, target)
        for number, helper in enumerate(helpers):
            assert source.call(*helper, 2, f"k{number}:{{7}}", "changes:{7}", "DEL") == 1
        deletes = [fields[b"key"] for _, fields in source.client.xrange("changes:{7}") if b"event" in fields]
        assert deletes == [b"k0:{7}", b"k1:{7}"]
