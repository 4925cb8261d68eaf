"""An engine between any kind of server and a part of the sandbox's table of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from engine.delivery.failures.dead_letter import DeadLetter, FileSink
from engine.sandbox.demo import clean_environment, wait_until_ready
from engine.sandbox.stack import Sandbox, child_environment
from tests.support import WAIT_S, wait_for

CONFIG = """\
[redis]
url = "{url}"
[capture]
shards = 2
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
[delivery]
backlog_folder = "{folder}/backlog"
dead_letter_file = "{folder}/dead_letters.jsonl"
deadline_ms = 3_000
deadline_margin_ms = 500
[[routes]]
name = "carts"
function = "dynamodb"
keys = ["{prefix}*"]
events = ["*", "del", "expired", "evicted"]
destination = "dynamodb://{table}"
"""


class TableRig:
    """The engine's settings and commands, and what its table holds under one prefix."""

    def __init__(self, sandbox: Sandbox, url: str, folder: Path) -> None:
        self.sandbox, self.folder, self.prefix = sandbox, folder, f"{folder.name}:"
        ours = {name: value for name, value in sandbox.environment.items() if "REDIS" not in name}
        self.environment = clean_environment(child_environment(os.environ, ours))
        self.config = folder / "engine.toml"
        self.config.write_text(CONFIG.format(url=url, folder=folder, table=sandbox.table, prefix=self.prefix))

    def key(self, name: object) -> str:
        """Return a key of this test."""
        return f"{self.prefix}{name}"

    def items(self) -> dict[str, str]:
        """Return what the table holds of this test: the key without its prefix, and the body."""
        pages = self.sandbox.dynamodb_client().get_paginator("scan")
        found = pages.paginate(TableName=self.sandbox.table, ConsistentRead=True)
        items = (item for page in found for item in page["Items"] if "body" in item)
        ours = (item for item in items if item["id"]["S"].startswith(self.prefix))
        return {item["id"]["S"].removeprefix(self.prefix): item["body"]["S"] for item in ours}

    def forget(self, name: object) -> None:
        """Take an item out of the table, behind the engine's back."""
        key = {"id": {"S": self.key(name)}}
        self.sandbox.dynamodb_client().delete_item(TableName=self.sandbox.table, Key=key)

    @contextmanager
    def engine(self) -> Iterator[None]:
        """Run the engine; it drains in the end."""
        command = [sys.executable, "-m", "engine", "start", "--config", str(self.config)]
        with (self.folder / "engine.log").open("a") as log:
            process = subprocess.Popen(command, env=self.environment, stderr=log, cwd=self.folder)
        try:
            wait_until_ready(process, self.folder / "status.json")
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0, self.log()
        finally:
            process.kill()
            process.wait()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command of the engine's."""
        command = [sys.executable, "-m", "engine", *arguments, "--config", str(self.config)]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=2 * WAIT_S
        )

    def log(self) -> str:
        """Return what the engine has logged."""
        return (self.folder / "engine.log").read_text()

    def status(self) -> dict[str, Any]:
        """Return what the engine says of itself."""
        content: dict[str, Any] = orjson.loads((self.folder / "status.json").read_bytes())
        return content

    def bury(self, name: object, event: str = "hset") -> None:
        """Leave a dead letter of this key."""
        letter = DeadLetter(1, "carts", "dynamodb", self.key(name), event, 1, 3, "it broke")
        assert FileSink(str(self.folder / "dead_letters.jsonl"), 1_000_000).write([letter]) == ""

    def settle(self, client: Any, name: object = "marker") -> None:
        """Return when what was written before is delivered, by a key that is written now."""
        before = self.items().get(str(name), "")
        client.hset(self.key(name), "n", len(before) + 1)
        wait_for(lambda: self.items().get(str(name), "") != before, "the marker is delivered")
