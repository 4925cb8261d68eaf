"""The check that trusts nobody: what Redis holds at the end against what arrived, or against the table itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hiredis
import msgspec
import numpy as np

from benchmarks.drive.commands import DUE_FIELD, NUMBER_FIELD, PREFIX, key_name, key_number
from benchmarks.drive.plan import Plan
from benchmarks.lag.function import number_and_due
from benchmarks.lag.stages import Received
from benchmarks.stand.load import Where, connect, replies
from engine.redis.connection import pack

PIPELINE = 1_000
EXAMPLES_MAX = 5


class Verdict(msgspec.Struct, frozen=True):
    """Keys whose destination differs from Redis: not there, older, or with a value that nobody wrote."""

    keys: int
    lost: int
    stale: int
    invented: int
    examples: list[str] = []

    @property
    def is_well(self) -> bool:
        """Tell whether none differs."""
        return not (self.lost or self.stale or self.invented)


def in_redis(where: Where, plan: Plan, since_ns: int = 0) -> dict[int, int]:
    """Return key's number → its value's number, of every key that the plan names; 0 if it is gone.

    Keys whose value was due before (monotonic ns) are left out: what this run did to them left them as they were.
    """
    keys = np.unique(plan.key_numbers).tolist()
    found: dict[int, int] = {}
    sock, reader = connect(where), hiredis.Reader(encoding="utf-8")
    for start in range(0, len(keys), PIPELINE):
        part = keys[start : start + PIPELINE]
        sock.sendall(
            b"".join(pack("HMGET", key_name(key), NUMBER_FIELD, DUE_FIELD) + pack("GET", key_name(key)) for key in part)
        )
        found_there = list(replies(sock, reader, 2 * len(part)))
        for key, of_hash, of_string in zip(part, found_there[::2], found_there[1::2], strict=True):
            words = of_string.split("|") if isinstance(of_string, str) else of_hash
            number, due_ns = (int(words[0]), int(words[1])) if isinstance(words, list) and words[0] else (0, since_ns)
            if due_ns >= since_ns:
                found[key] = number
    sock.close()
    return found


def arrived(received: Received) -> dict[int, int]:
    """Return key's number → the number of the value that arrived last."""
    order = np.argsort(received.column("invoked_ns"), kind="stable")
    keys, numbers = received.column("key")[order].tolist(), received.column("number")[order].tolist()
    return dict(zip(keys, numbers, strict=True))


def in_table(client: Any, table: str, since_ns: int = 0) -> dict[int, int]:
    """Return key's number → its item's value's number, of a table's items that are ours; 0 for a key that is gone.

    Items whose value was due before (monotonic ns) are left out: another run wrote them, and this one did not.
    """
    found: dict[int, int] = {}
    for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        for item in page["Items"]:
            if item["id"]["S"].startswith(PREFIX):
                number, due_ns = _number_and_due(item)
                if not number or due_ns >= since_ns:
                    found[key_number(item["id"]["S"])] = number
    return found


def in_item(client: Any, table: str, key: int) -> int:
    """Return the number of one key's value, 0 if there is no item."""
    name = key_name(key).decode()
    answer = client.get_item(TableName=table, Key={"id": {"S": name}}, ConsistentRead=True)
    return _number_and_due(answer["Item"])[0] if "Item" in answer else 0


def _number_and_due(item: Mapping[str, Any]) -> tuple[int, int]:
    body = item.get("body")
    # What the function keeps of a key that is gone has no body.
    return number_and_due(body["S"]) if body else (0, 0)


def compare(truth: Mapping[int, int], held: Mapping[int, int], changes: int) -> Verdict:
    """Return how the destination differs from Redis; numbers above ``changes`` were never written."""
    lost = [key for key, number in truth.items() if number and key not in held]
    # One that Redis does not hold any more counts as newer than all.
    stale = [key for key, number in truth.items() if key in held and held[key] != number and held[key] <= changes]
    invented = [key for key, number in held.items() if key not in truth or number > changes]
    examples = [f"key {key}: {held.get(key)} rather than {truth.get(key)}" for key in [*lost, *stale, *invented]]
    return Verdict(len(truth), len(lost), len(stale), len(invented), examples[:EXAMPLES_MAX])
