"""The demo: the main job from end to end, on embedded parts, with proof.

The original's walk-through first, then some thousands of shopping carts changed at a steady pace, then every
key compared between the server and the table by code that knows nothing of the engine, then the figures. The
engine runs as its users run it: ``engine start`` in a process of its own.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine.sandbox.errors import SandboxError
from engine.sandbox.stack import Sandbox
from engine.text import counted

CARTS = 2_000
CHANGES = 8_000
CHANGES_A_SECOND = 400
SEED = 2020
WAIT_S_MAX = 45.0
ORIGINALS_VARIABLES = frozenset({"META_MAP_SUFFIX", "SUPPORTED_COMMANDS"})
ITEMS = ("tea", "coffee", "bread", "butter", "honey", "apples", "rice", "soap")

CONFIG = """\
[redis]
url = "{redis_url}"
[capture]
shards = 2
[delivery]
invokers = 1
dead_letter_file = "{folder}/dead_letters.jsonl"
backlog_folder = "{folder}/backlog"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
[log]
level = "warning"
[[routes]]
name = "everything"
function = "dynamodb"
keys = ["*"]
events = ["changes"]
batch_size = 500
"""


def run_demo() -> int:
    """Run the demo; return 0 only if every key is equal in the server and in the table."""
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="engine-demo-"))
    journal = folder / "journal.jsonl"
    try:
        console.print("Starting Valkey, DynamoDB, a Lambda runtime and the engine …")
        with Sandbox(journal=journal, journal_payloads=True) as sandbox:
            client = redis.Redis.from_url(sandbox.redis_url, decode_responses=True)
            with running_engine(sandbox, folder) as process:
                walk_through(console, client, sandbox)
                late_s = change_carts(console, client)
                differences, keys = compare_all(console, client, sandbox)
            stopped = process.returncode
        invocations = read_journal(journal)
        console.print(figures(invocations, late_s))
        return verdict(console, differences, keys, stopped)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_engine(sandbox: Sandbox, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``engine start`` until the block ends, then drain it with SIGTERM."""
    config = folder / "engine.toml"
    config.write_text(CONFIG.format(redis_url=sandbox.redis_url, folder=folder))
    environment = clean_environment(sandbox.child_environment())
    command = [sys.executable, "-m", "engine", "start", "--config", str(config)]
    process = subprocess.Popen(command, env=environment)
    try:
        wait_until_ready(process, folder / "status.json")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what the user has set for an engine of their own."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(("ENGINE_", "REDIS_")) and name not in ORIGINALS_VARIABLES
    }


def wait_until_ready(process: subprocess.Popen[bytes], status_file: Path) -> None:
    """Wait until the engine says that it is ready; raise SandboxError if it ends or stays silent."""
    deadline = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SandboxError("the engine ended before it was ready", hint="its own line above says why")
        if status_file.exists() and orjson.loads(status_file.read_bytes()).get("state") == "ready":
            return
        time.sleep(0.05)
    raise SandboxError(f"the engine was not ready within {WAIT_S_MAX:.0f} s")


def walk_through(console: Console, client: Any, sandbox: Sandbox) -> None:
    """Set the original's two people, and show their items from the table."""
    people = {
        "person1": {"firstName": "John", "lastName": "Smith"},
        "person2": {"firstName": "Jane", "lastName": "Doe"},
    }
    for key, fields in people.items():
        words = " ".join(f"{name} {value}" for name, value in fields.items())
        console.print(f"[bold]> hset {key} {words}[/bold]")
        client.hset(key, mapping=fields)
    table = Table(title=f"The items in the DynamoDB table {sandbox.table}", title_justify="left")
    for column in ("id", "obj_name", "body"):
        table.add_column(column, overflow="fold")
    for key, fields in people.items():
        item = wait_for_item(sandbox, key, fields)
        table.add_row(item["id"]["S"], item["obj_name"]["S"], item["body"]["S"])
    console.print(table)


def wait_for_item(sandbox: Sandbox, key: str, fields: dict[str, str]) -> dict[str, Any]:
    """Return the key's item once it holds these fields; raise SandboxError if it does not come to."""
    client = sandbox.dynamodb_client()
    deadline = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline:
        item: dict[str, Any] = client.get_item(TableName=sandbox.table, Key={"id": {"S": key}}).get("Item", {})
        if item and orjson.loads(item["body"]["S"]) == fields:
            return item
        time.sleep(0.02)
    raise SandboxError(f"{key} did not reach the table within {WAIT_S_MAX:.0f} s")


def progress_bar(console: Console) -> Progress:
    """Return a bar that fits a narrow terminal, and prints one line into a file."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
    )


def change_carts(console: Console, client: Any) -> float:
    """Change carts at a steady pace; return how late the sender itself ever was, in seconds.

    Each change carries the time at which it was due, so that a stall shows as lag.
    """
    rng = random.Random(SEED)
    late_s = 0.0
    started = time.time()
    with progress_bar(console) as progress:
        task = progress.add_task(f"Changing {CARTS:,} carts", total=CHANGES)
        for number in range(CHANGES):
            due = started + number / CHANGES_A_SECOND
            wait = due - time.time()
            if wait > 0:
                time.sleep(wait)
            late_s = max(late_s, -wait)
            fields = {rng.choice(ITEMS): rng.randint(1, 9), "changed_at_us": int(due * 1e6)}
            client.hset(f"cart:{rng.randrange(CARTS):05d}", mapping=fields)
            progress.advance(task)
    return late_s


def compare_all(console: Console, client: Any, sandbox: Sandbox) -> tuple[list[str], int]:
    """Compare every key of the server with the table, until all are equal or the wait is over."""
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        differences, keys = compare_once(console, client, sandbox)
        if not differences or time.monotonic() > deadline:
            return differences, keys
        time.sleep(0.5)


def compare_once(console: Console, client: Any, sandbox: Sandbox) -> tuple[list[str], int]:
    """Return the keys that differ, and how many keys there are on both sides together."""
    items: dict[str, str] = {}
    for page in sandbox.dynamodb_client().get_paginator("scan").paginate(TableName=sandbox.table):
        items.update({item["id"]["S"]: item["body"]["S"] for item in page["Items"]})
    keys = sorted(set(client.scan_iter(count=1_000)) | items.keys())
    differences = []
    with progress_bar(console) as progress:
        for key in progress.track(keys, description="Comparing every key"):
            body = items.get(key)
            if body is None or orjson.loads(body) != client.hgetall(key):
                differences.append(key)
    return differences, len(keys)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the invocations that the Lambda runtime noted, but for the empty batch before the start."""
    invocations = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [invocation for invocation in invocations if invocation["records"]]


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile of sorted values; 0 if there are none."""
    return values[min(len(values) - 1, int(len(values) * percent / 100))] if values else 0.0


def figures(invocations: list[dict[str, Any]], late_s: float) -> Table:
    """Return the table of figures; lag is from when a change was due to when its item was in the table."""
    lags: list[float] = []
    for invocation in invocations:
        for record in invocation["event"]["records"]:
            due_us = orjson.loads(record["body"]).get("changed_at_us")
            if due_us is not None and not invocation["error"]:
                lags.append(invocation["ended_ns"] / 1e6 - int(due_us) / 1e3)
    lags.sort()
    sizes = sorted(float(invocation["records"]) for invocation in invocations)
    table = Table(title="Figures", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = {
        "changes": f"{CHANGES + 2:,}",
        "changes a second": f"{CHANGES_A_SECOND:,}",
        "values delivered": f"{sum(sizes):,.0f}",
        "invocations": f"{len(invocations):,}",
        "batch size p50 / p99 / max": " / ".join(f"{percentile(sizes, p):.0f}" for p in (50, 99, 100)),
        "lag p50 (change due → in the table)": f"{percentile(lags, 50):.1f} ms",
        "lag p99": f"{percentile(lags, 99):.1f} ms",
        "sender behind its schedule, at most": f"{late_s * 1e3:.1f} ms",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def verdict(console: Console, differences: list[str], keys: int, stopped: int) -> int:
    """Print what was proved; return the exit status."""
    if differences:
        shown = ", ".join(differences[:5])
        console.print(f"[red]{len(differences):,} of {counted(keys, 'key')} differ[/red], first: {shown}")
        return 1
    if keys < CARTS // 2 or stopped != 0:
        console.print(f"[red]the run is invalid[/red]: {keys:,} keys, the engine ended with {stopped}")
        return 1
    console.print(f"[green]Every one of {keys:,} keys is equal in the server and in the table.[/green]")
    return 0
