"""Handlers that the sandbox's Lambda runtime runs for the tests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from lambdas import contract


def slow(event: Any, context: Any) -> None:
    time.sleep(0.05)


def stuck(event: Any, context: Any) -> None:
    if not event["records"]:
        return
    time.sleep(600)


def broken(event: Any, context: Any) -> None:
    raise RuntimeError("this function is broken")


def flaky(event: Any, context: Any) -> Any:
    """Fail the poisoned record alone until the marker file is there."""
    if Path(os.environ["HEALED"]).exists():
        return None
    failed = [record["record_id"] for record in event["records"] if record["id"] == "poison"]
    return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}


def refuse_with_reason(event: Any, context: Any) -> Any:
    """Fail every record alone, and say why."""
    names = [record["record_id"] for record in event["records"]]
    return {"batchItemFailures": [{"itemIdentifier": name, "reason": "no such shelf"} for name in names]}


def quoting(event: Any, context: Any) -> None:
    """Fail everything, with a record's value and what a terminal obeys in the message."""
    if event["records"]:
        raise ValueError(f"cannot use \x1b[31m{event['records'][0]['body']}\n at all")


def gate(event: Any, context: Any) -> None:
    """Fail everything until the marker file is there."""
    if event["records"] and not Path(os.environ["HEALED"]).exists():
        raise RuntimeError("the gate is shut")


def note_trace(event: Any, context: Any) -> None:
    """Write down what is said of traces; raise as often as there are files that say so."""
    if not event["records"]:
        return
    told = context.client_context.custom if context.client_context is not None else {}
    line = {
        "context": told.get("traceparent"),
        "records": {one["id"]: one.get("traceparent") for one in event["records"]},
    }
    with Path(os.environ["NOTED"]).open("a") as file:
        file.write(json.dumps(line) + "\n")
    for sign in Path(os.environ["NOTED"]).parent.glob("fail-*"):
        sign.unlink()
        raise RuntimeError("not yet")


def moody(event: Any, context: Any) -> Any:
    """Do what the event says: fail, take too long, or end the process."""
    print("called with", event, flush=True)
    if event["do"] == "fail":
        raise KeyError("missing")
    if event["do"] == "stall":
        time.sleep(600)
    if event["do"] == "exit":
        os._exit(3)
    return {"batchItemFailures": event.get("failures", [])}


def promising(event: Any, context: Any) -> Any:
    """Refuse older versions as long as the marker file is there; hang while the other one is."""
    refuses = Path(os.environ["REFUSES"]).exists()
    if not event["records"]:
        return contract.answer_to_nothing(refuses_older_versions=refuses)
    contract.check_fence(event, refuses_older_versions=refuses)
    while Path(os.environ["HANGS"]).exists():
        time.sleep(0.05)
    return None


def picky(event: Any, context: Any) -> Any:
    """Name the poisoned records as failed, after ``SLOW_S`` where there are any; take the others."""
    failed = [record["record_id"] for record in event["records"] if record["id"].startswith("poison")]
    healed = os.environ.get("HEALED", "")
    if not failed or (healed and Path(healed).exists()):
        return None
    time.sleep(float(os.environ.get("SLOW_S", "0")))
    return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}


def heavy(event: Any, context: Any) -> None:
    """Fail a batch in which there is a poisoned record, whole and by name of nothing."""
    if any(record["id"].startswith("poison") for record in event["records"]):
        raise RuntimeError("the batch holds a poisoned record")


def refusing(event: Any, context: Any) -> Any:
    """Name every record as failed until the marker file is there."""
    if Path(os.environ["HEALED"]).exists():
        return None
    return {"batchItemFailures": [{"itemIdentifier": record["record_id"]} for record in event["records"]]}
