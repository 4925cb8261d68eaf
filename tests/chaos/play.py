"""One round of one fault: write, strike, heal, wait, judge."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import redis
from botocore.exceptions import BotoCoreError, ClientError

from engine.sandbox.dynamodb import DynamoDbServer
from tests.chaos.model import Round
from tests.chaos.oracle import Verdict, count_duplicates, judge
from tests.chaos.registry import Fault
from tests.chaos.rig import NotStruck, Run

LOOK_S = 0.2
SETTLED_S_MAX = 30.0
WRITTEN_MIN = 50


def play(
    fault: Fault,
    seed: int,
    dynamodb: DynamoDbServer,
    table: str,
    *,
    turn: int = 0,
    wait_s_max: float = 600.0,
    keep: Path | None = None,
) -> Round:
    """Play one round; never raises but for an interrupt. ``keep``: where its logs and state are left."""
    fault = replace(fault, wait_s=min(fault.wait_s, wait_s_max))
    result = Round(seed, turn)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        if keep is not None:
            folder = keep
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with stderr_to(folder / "functions.log"), Run(fault, table, seed, dynamodb, folder) as run:
                _strike(run, result)
                _judge(run, result)
        except Exception as error:
            result.error = _describe(error)
        finally:
            dynamodb_client = dynamodb.client()
            _drop(dynamodb_client, table)
    result.took_s = time.monotonic() - started
    return result


def _strike(run: Run, result: Round) -> None:
    run.writer.start()
    run.sleep(run.fault.warm_s)
    try:
        result.evidence = run.fault.strike(run)
        result.struck = bool(result.evidence)
        if not result.struck:
            result.error = "the fault has no evidence that it struck"
    except NotStruck as error:
        result.error = str(error)
    except Exception as error:
        result.error = _describe(error)
    run.healed_s = run.healed_s or time.monotonic()
    rest_s = run.healed_s + run.fault.after_s - time.monotonic()
    run.sleep(max(0.0, rest_s))
    run.writer.stop()
    result.written = run.writer.acknowledged
    if result.written < WRITTEN_MIN:
        result.error = result.error or f"only {result.written} changes were acknowledged: that proves nothing"


def _judge(run: Run, result: Round) -> None:
    """Wait until the destination is right and stays so, or the time is over; then once more, with the engines gone."""
    verdict, equal_s = _wait_until_whole(run)
    if equal_s is not None:
        result.whole_again_s = max(0.0, equal_s - run.healed_s)
    statuses = [engine.stop() for engine in run.engines if engine.is_running()]
    if verdict.is_whole:
        if any(statuses) or not statuses:
            result.error = result.error or f"the engine was drained at the end, and exited with {statuses}"
        verdict = _compare(run)
    result.keys, result.lost, result.stale = verdict.keys, verdict.lost, verdict.stale
    result.invented, result.redis_lost, result.details = verdict.invented, verdict.redis_lost, verdict.details
    run.runtime.stop()
    result.duplicates = count_duplicates(run.invocations())


def _wait_until_whole(run: Run) -> tuple[Verdict, float | None]:
    """Return the last comparison, and since when the destination has been equal."""
    if not run.site.may_look_unnoticed():
        _wait_until_settled(run)
    deadline = run.healed_s + run.fault.wait_s
    equal_s: float | None = None
    while True:
        looked_s = time.monotonic()
        verdict = _attempt(lambda: _compare(run), looked_s > deadline)
        if verdict is None or not verdict.is_whole:
            equal_s = None
            if verdict is not None and looked_s > deadline:
                return verdict, None
        else:
            equal_s = looked_s if equal_s is None else equal_s
            if looked_s - equal_s >= run.fault.settle_s:
                return verdict, equal_s
        time.sleep(LOOK_S)


def _wait_until_settled(run: Run) -> None:
    """Wait until the engines say that they are done: a look before would show them which keys were used.

    What they say is not believed; but on a server on which every look resets idle times, one that comes too early
    would mend what it is to find.
    """
    written_ms = time.time_ns() // 1_000_000  # servers have this host's clock
    deadline = time.monotonic() + min(SETTLED_S_MAX, run.fault.wait_s)
    running = [engine for engine in run.engines if engine.is_running()]
    while time.monotonic() < deadline:
        nodes = [engine.status().get("nodes", ()) for engine in running]
        if all(of_one and all(node["settled_until_ms"] > written_ms for node in of_one) for of_one in nodes):
            return
        time.sleep(LOOK_S)


def _attempt(compare: Callable[[], Verdict], is_last: bool) -> Verdict | None:
    """Return None where one side can't be read now; the last time its error is the caller's."""
    try:
        return compare()
    except (redis.RedisError, OSError, ClientError, BotoCoreError):
        if is_last:
            raise
        return None


def _compare(run: Run) -> Verdict:
    fault = run.fault
    return judge(
        run.site.truth(),
        run.items(),
        run.writer.ledger,
        absent_may_stay=fault.absent == "may_stay",
        exempt=fault.exempt,
    )


@contextlib.contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Have what our children say, functions above all, go to a file: under faults they complain a lot."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def _drop(client: object, table: str) -> None:
    try:
        client.delete_table(TableName=table)  # type: ignore[attr-defined]
    except (ClientError, BotoCoreError):
        pass
    finally:
        client.close()  # type: ignore[attr-defined]


def _describe(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
