"""The DynamoDB function: CPU an item, cold start, and what a million changes take, by the embedded DynamoDB.

The function runs in an interpreter of its own, as in Lambda; the table is in another process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import msgspec

from engine.sandbox.aws import sandbox_environment
from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.stack import child_environment

TABLE = "carts"
BATCH_SIZE = 500


class FunctionRun(msgspec.Struct):
    """One mode's run over batches of keys that the table has already.

    ``cpu_us`` is of the function's process, an item; ``batch_ms`` is how long an invocation took. ``calls`` and
    ``write_units`` are those of a million changes; a versioned statement that is refused is counted too.
    """

    batch_size: int
    cpu_us: float
    batch_ms: float
    calls: float
    write_units: float


def measure_dynamodb(write_mode: str, batches: int, batch_size: int = BATCH_SIZE) -> FunctionRun:
    """Run the function in this mode over so many batches of this size."""
    with DynamoDbServer() as server:
        server.create_table(TABLE)
        answer = _run(server.endpoint, "work", str(batches), str(batch_size), DYNAMO_WRITE_MODE=write_mode)
    return msgspec.json.decode(answer, type=FunctionRun)


def measure_aurora(batches: int) -> float:
    """Return the CPU µs an item of the Aurora MySQL function: its own, to the text of its statements.

    No server is asked: a stand-in accepts every statement.
    """
    return float(_run("http://127.0.0.1:1", "aurora", str(batches), str(BATCH_SIZE)))


def measure_cold_start(starts: int) -> float:
    """Return the ms from a new interpreter to its first answer, the median of some: imports, credentials, one call."""
    with DynamoDbServer() as server:
        server.create_table(TABLE)
        times = []
        # The first one pays for the server's own first request.
        for _ in range(starts + 1):
            started_ns = time.time_ns()
            times.append((int(_run(server.endpoint, "start")) - started_ns) / 1e6)
    return statistics.median(times[1:])


def _run(endpoint: str, *arguments: str, **variables: str) -> bytes:
    sandbox = sandbox_environment(dynamodb_endpoint=endpoint)
    environment = child_environment(os.environ, {**sandbox, "DYNAMO_TABLE": TABLE, **variables})
    command = [sys.executable, "-m", "benchmarks.measured.function_worker", *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    for mode in ("batch", "versioned"):
        print(mode, measure_dynamodb(mode, 10))
    print(f"cold start {measure_cold_start(5):.0f} ms")
