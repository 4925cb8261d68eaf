"""The function's process in `benchmarks.measured.functions`: imports what a function has in Lambda, and no more."""

from __future__ import annotations

import sys
import time
from typing import Any


class Context:
    """Lambda's, as far as the function asks it."""

    def get_remaining_time_in_millis(self) -> int:
        """Return a minute, always."""
        return 60_000


def start() -> int:
    """Answer an empty batch; return the time then (Unix ns)."""
    from lambdas.dynamodb.handler import handler

    handler({"records": []}, Context())
    return time.time_ns()


def work(batches: int, size: int) -> dict[str, float]:
    """Write batches of records of the same keys, each with a higher version; return what they took."""
    from lambdas.dynamodb import client
    from lambdas.dynamodb.handler import handler
    from lambdas.repeats import TimeLeft

    calls: list[bytes] = []
    call = client.Client.call

    def counted(self: client.Client, operation: str, body: bytes, time_left: TimeLeft) -> dict[str, Any]:
        calls.append(body)
        return call(self, operation, body, time_left)

    client.Client.call = counted  # type: ignore[method-assign]
    cpu_s = wall_s = 0.0
    for number in range(-2, batches):
        event = {"records": [_record(key, number + 3) for key in range(size)], "deadline_ms": _now_ms() + 60_000}
        if number == 0:
            calls.clear()
        cpu, wall = time.process_time(), time.perf_counter()
        answer = handler(event, Context())
        if number >= 0:
            cpu_s += time.process_time() - cpu
            wall_s += time.perf_counter() - wall
        assert answer == {"batchItemFailures": []}, answer
    items = batches * size
    written = sum(body.count(b'"PutRequest"') + body.count(b'"Statement"') for body in calls)
    return {
        "batch_size": size,
        "cpu_us": cpu_s / items * 1e6,
        "batch_ms": wall_s / batches * 1e3,
        "calls": len(calls) / items * 1e6,
        # The records are far below the 1 KB that one unit writes.
        "write_units": written / items * 1e6,
    }


class Accepting:
    """Stands for the connection to a MySQL server that has the table: it accepts every statement."""

    packet_bytes_max = 16 << 20
    statements = 0

    def ready(self) -> None:
        """Be there."""

    def execute(self, sql: str) -> None:
        """Take a statement, as bytes as the driver does."""
        self.statements += bool(sql.encode())

    def query(self, sql: str) -> tuple[tuple[Any, ...], ...]:
        """Tell the table's columns, and its key."""
        if "information_schema.COLUMNS" not in sql:
            return (("PRIMARY", "cart_id", None),)
        text = ("varchar", "YES", 64, None, None, "utf8mb4_bin", "", "varchar(64)", "")
        number = ("YES", None, 0, None, None, "")
        return (
            ("cart_id", "varchar", "NO", *text[2:]),
            ("item", *text),
            ("count", "int", *number, "int(11)", ""),
            ("deleted_at", "datetime", "YES", None, None, 3, None, "", "datetime(3)", ""),
            ("version", "bigint", *number, "bigint(20)", ""),
        )


MAPPING = """[{"keys": ["cart:*"], "table": "carts", "key": {"column": "cart_id", "prefix": "cart:"},
  "columns": {"item": "text", "count": "int"}}]"""


def aurora(batches: int, size: int) -> float:
    """Write batches of records of the same keys to nowhere; return the CPU µs an item."""
    import os

    from lambdas.aurora_mysql import handler as function
    from lambdas.aurora_mysql.calls import Caller
    from lambdas.aurora_mysql.settings import read_settings
    from lambdas.aurora_mysql.writer import Writer

    told = {"AURORA_HOST": "127.0.0.1", "AURORA_USER": "u", "AURORA_DATABASE": "d", "AURORA_PASSWORD": "p"}
    os.environ.update({**told, "AURORA_MAPPING": MAPPING})
    settings, server = read_settings(os.environ), Accepting()
    writer = Writer(Caller(server, settings), settings)  # type: ignore[arg-type]
    function._writer = lambda: writer  # type: ignore[assignment]
    cpu_s = 0.0
    for number in range(-2, batches):
        event = {"records": [_record(key, number + 3) for key in range(size)], "deadline_ms": _now_ms() + 60_000}
        began_s = time.process_time()
        answer = function.handler(event, Context())
        cpu_s += (time.process_time() - began_s) if number >= 0 else 0.0
        assert answer == {"batchItemFailures": []}, answer
    assert server.statements >= batches
    return cpu_s / batches / size * 1e6


def _record(number: int, version: int) -> dict[str, Any]:
    """Return a record as the engine makes it, of a hash of two fields."""
    key = f"cart:{number:07d}"
    return {
        "record_id": str(number),
        "id": key,
        "obj_name": key,
        "body": f'{{"count":"{version % 9}","item":"tea-{number}"}}',
        "event": "hset",
        "type": "hash",
        "db": 0,
        "version": 1_763_890_000_123_000 + version,
        "captured_at_ms": 1_763_890_000_123,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    import json

    what, numbers = sys.argv[1], [int(one) for one in sys.argv[2:]]
    print(start() if what == "start" else aurora(*numbers) if what == "aurora" else json.dumps(work(*numbers)))
