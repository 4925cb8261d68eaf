"""Keys that are deleted while nobody listens, or by commands that no event tells of."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from engine.sandbox.demo import clean_environment, wait_until_ready
from engine.sandbox.stack import DEFAULT_TABLE, Sandbox
from tests.support import WAIT_S, wait_for

CONFIG = """\
[redis]
url = "{url}"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
[delivery]
backlog_folder = "{folder}/backlog"
deadline_ms = 1000
deadline_margin_ms = 500
[[routes]]
name = "all"
function = "dynamodb"
events = ["*", "del", "expired"]
destination = "dynamodb://{table}"
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as stack:
        yield stack


@contextmanager
def engine(sandbox: Sandbox, folder: Path) -> Iterator[None]:
    """Run an engine, and drain it at the end."""
    config = folder / "engine.toml"
    config.write_text(CONFIG.format(url=sandbox.redis_url, folder=folder, table=DEFAULT_TABLE))
    command = [sys.executable, "-m", "engine", "start", "--config", str(config)]
    process = subprocess.Popen(command, env=clean_environment(sandbox.child_environment()))
    try:
        wait_until_ready(process, folder / "status.json")
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()


def keys_in_table(sandbox: Sandbox) -> set[str]:
    pages = sandbox.dynamodb_client().get_paginator("scan").paginate(TableName=DEFAULT_TABLE, ConsistentRead=True)
    return {item["id"]["S"] for page in pages for item in page["Items"]}


def test_deletes_while_the_engine_is_down_and_a_flush_are_found(sandbox: Sandbox, tmp_path: Path) -> None:
    """A key deleted between two runs, and all keys of a FLUSHALL, leave the table; what was written since stays."""
    client: Any = redis.Redis.from_url(sandbox.redis_url)
    with engine(sandbox, tmp_path):
        for number in range(30):
            client.hset(f"key:{number}", "n", number)
        wait_for(lambda: len(keys_in_table(sandbox)) == 30, "all keys in the table")
    client.delete("key:0", "key:1")
    with engine(sandbox, tmp_path):
        left = {f"key:{number}" for number in range(2, 30)}
        wait_for(lambda: keys_in_table(sandbox) == left, "the deleted keys are gone")
        client.flushall()
        client.hset("key:7", "n", "again")
        wait_for(lambda: keys_in_table(sandbox) == {"key:7"}, "the flushed keys are gone")
