"""Functions of ill nature: the DynamoDB function, and what can go wrong around it in the same container."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from lambdas.dynamodb import handler as dynamodb

POISON = "poison"
SLOW_SHARE, HANG_SHARE = 0.4, 0.12
SLOW_S_MAX = 3.0
HANG_S = 60.0
REFUSED = "refused"
REFUSING_S = 1.8
CRASH_SHARE, RAISE_SHARE = 0.15, 0.15


class PoisonError(RuntimeError):
    """There is a record that this function never takes."""


def poisoned(event: Any, context: Any) -> Any:
    """Refuse the whole batch, unwritten, where a record's key begins with `POISON`."""
    if any(record["id"].startswith(POISON) for record in event["records"]):
        raise PoisonError("a poisoned record is among them")
    return dynamodb.handler(event, context)


def refusing(event: Any, context: Any) -> Any:
    """Refuse records whose key begins with `REFUSED` by name, after a while; write all others."""
    mine = [record for record in event["records"] if record["id"].startswith(REFUSED)]
    rest = [record for record in event["records"] if not record["id"].startswith(REFUSED)]
    answer = dynamodb.handler(event | {"records": rest}, context) if rest or not mine else {"batchItemFailures": []}
    if mine:
        time.sleep(REFUSING_S)
        answer["batchItemFailures"] += [{"itemIdentifier": record["record_id"]} for record in mine]
    return answer


def slow(event: Any, context: Any) -> Any:
    """Work, but often begin late, also past the batch's deadline, and sometimes hang until the runtime ends it."""
    if event["records"]:
        chance = random.random()
        if chance < HANG_SHARE:
            time.sleep(HANG_S)
        elif chance < HANG_SHARE + SLOW_SHARE:
            time.sleep(random.uniform(0.2, SLOW_S_MAX))
    return dynamodb.handler(event, context)


def breaking(event: Any, context: Any) -> Any:
    """Write a part, or all, and then end the process, or raise: effects without an answer."""
    chance = random.random()
    if not event["records"] or chance > CRASH_SHARE + RAISE_SHARE:
        return dynamodb.handler(event, context)
    count = random.randint(0, len(event["records"]))
    dynamodb.handler(event | {"records": event["records"][:count]}, context)
    if chance < CRASH_SHARE:
        os._exit(1)
    raise RuntimeError(f"broken after {count} of {len(event['records'])} records")
