"""What an invocation costs an invoker: CPU of a call of 1 kB, one at a time, paced, over connections that stay open.

The invoker's own parts send it (`engine.delivery.dispatch`), in an interpreter of its own; the service that answers is
another process.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections import deque

from engine.config import AwsSettings, DeliverySettings
from engine.sandbox.aws import sandbox_environment
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from engine.sandbox.stack import child_environment

PAYLOAD_BYTES = 1_000
WARM_UP = 50
PACE_S = 0.005
WAIT_MS = 10_000


def measure_invoking(calls: int) -> float:
    """Return the µs of CPU that one of so many calls costs who makes it."""
    with LambdaRuntime([FunctionSpec("accept", "accept", concurrency_max=4)]) as runtime:
        environment = child_environment(os.environ, sandbox_environment(lambda_endpoint=runtime.endpoint))
        command = [sys.executable, "-m", "benchmarks.measured.invoking", runtime.endpoint, str(calls)]
        answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return float(answer)


def work(endpoint: str, calls: int) -> float:
    """Make calls at a pace; return the µs of CPU that each took, of all threads."""
    from engine.delivery.dispatch import Buried, Completion, Delivered, Dispatcher, Prepared
    from engine.delivery.failures.dead_letter import FileSink
    from engine.delivery.lanes.work import Batch
    from engine.delivery.sockets import Sockets
    from engine.delivery.targets.lambda_ import LambdaTarget
    from engine.model import Failure
    from engine.ring.wake import Wake

    aws = AwsSettings("us-east-1", endpoint)
    target = LambdaTarget("accept", aws, DeliverySettings(), report_item_failures=True, connections_max=1)
    done: deque[Completion] = deque()
    wake, sockets = Wake(), Sockets()
    sockets.watch(wake.fileno(), select.POLLIN, wake.clear)
    dispatcher = Dispatcher(0, target, FileSink("/dev/null", 0), 1, done, wake, sockets)
    payload = b'{"records":[],"filler":"' + b"x" * PAYLOAD_BYTES
    payload = payload[: PAYLOAD_BYTES - 2] + b'"}'

    def call() -> None:
        dispatcher.submit(Batch([], payload=payload))
        while True:
            while not done:
                sockets.wait(WAIT_MS)
            ended = done.popleft()
            assert not isinstance(ended, Buried)
            if isinstance(ended, Delivered):
                assert ended.outcome.failure is Failure.NONE, ended.outcome
                return
            assert isinstance(ended, Prepared)
            ended.go_on()

    for _ in range(WARM_UP):
        call()
    began, due_s = time.process_time(), time.perf_counter()
    for _ in range(calls):
        due_s += PACE_S
        time.sleep(max(0.0, due_s - time.perf_counter()))
        call()
    return (time.process_time() - began) / calls * 1e6


if __name__ == "__main__":
    print(work(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else measure_invoking(400))
