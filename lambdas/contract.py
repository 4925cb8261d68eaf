"""What the engine hands to a function, and what a function answers. Needs nothing but Python.

A batch is ``{"records": [record, …]}``; a record has ``record_id``, ``id``, ``obj_name``, ``body``, ``event``,
``type``, ``db``, ``version`` and ``captured_at_ms``, and ``expires_at_ms`` (Unix time) where the key expires and the
route asks for it by ``include_expiry``. Where each event is a record (``coalesce = false``), several of one key may
come from one read: they share ``version`` and ``body``, and ``ordinal`` (1, 2, …; absent for the first) tells them
apart, in their order. A record of a change that is traced has
``traceparent`` (W3C), which a `Record` leaves out. The answer ``{"batchItemFailures": [{"itemIdentifier":
record_id}]}`` names the records to deliver again, an empty list is success. The payload of the 2020 original is one
record, ``{"id", "obj_name", "body"}``: a failure is an exception. An empty batch asks whether the function could work.

``body`` is a JSON text, or null where the key is gone and the route asked to hear of it. A key that is not UTF-8 comes
as base64 with ``"id_encoding": "base64"``; with ``"body_encoding": "base64"`` every string inside the body is base64.

A batch may carry ``deadline_ms``, Unix time in milliseconds by the Lambda service's clock; absent or 0: none. After it
the function starts no write, and answers the records that it has not written as failed: the engine may be delivering
newer values of their keys by then. Ask it before each write, with a clock of your own::

    deadline = contract.deadline_of(event)
    for record in records:
        if deadline.has_passed(time.time_ns() // 1_000_000):
            failed.append(record.record_id)
            continue
        ...  # a write, by a client that gives up sooner than the engine's delivery.deadline_margin_ms

**Who keeps older values out.** A function that keeps them out by itself, whenever they come, says so in its answer to
the empty batch: ``{"batchItemFailures": [], "refusesOlderVersions": true}``. The engine then waits for none of its
invocations before it delivers newer values, and marks its batches ``"unfenced": true``. A function that does not keep
that promise (any more) raises `FenceWanted` for such a batch, before any write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

BASE64 = "base64"

UNBOUNDED_MS = 1 << 53
"""What remains until a deadline that there is not; an integer that JSON can carry."""


class ContractError(ValueError):
    """The event is not one that the engine makes."""


class SetupError(RuntimeError):
    """The function cannot work as it is set up, and no retry can mend it: the text says what to do.

    The engine asks by an empty batch before it starts, and tells the user what is raised.
    """


class DestinationUnavailable(RuntimeError):
    """What the function writes to does not take its calls now, whatever is in them; the text says why.

    It says nothing of the records: all of them are delivered again, and it is no attempt of theirs.
    """


class FenceWanted(RuntimeError):
    """The batch is unfenced, and this function does not keep older values out: the engine is to send it fenced."""


class Record(NamedTuple):
    """One changed key; ``body`` None means that it is gone. (A dataclass takes four times as long to make.)"""

    record_id: str
    id: str
    obj_name: str
    body: str | None
    event: str = ""
    type: str = "hash"
    db: int = 0
    version: int = 0
    captured_at_ms: int = 0
    id_encoding: str = ""
    body_encoding: str = ""
    expires_at_ms: int = 0
    """Unix time; 0 if the key does not expire, or nobody asked."""
    ordinal: int = 0
    """Of the events of one read, which this is: they are equal in version and body."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a batch's function stops starting writes: Unix time in ms, 0 for never. The clock is the caller's."""

    unix_ms: int = 0

    def remaining_ms(self, now_ms: int) -> int:
        """Return for how long writes may still start, never less than 0; `UNBOUNDED_MS` where there is no deadline."""
        return max(0, self.unix_ms - now_ms) if self.unix_ms else UNBOUNDED_MS

    def has_passed(self, now_ms: int) -> bool:
        """Tell whether no write may start any more."""
        return self.remaining_ms(now_ms) == 0


def is_batch(event: Any) -> bool:
    """Tell whether the event is a batch; else it is the original's single record."""
    return isinstance(event, dict) and "records" in event


def records_of(event: dict[str, Any]) -> tuple[list[Record], list[tuple[str, str]]]:
    """Return a batch's records, and the (record_id, reason) of those that are malformed.

    Raises `ContractError` if a record has no identifier: nothing could be reported of it.
    """
    raw = event["records"]
    if not isinstance(raw, list):
        raise ContractError("records is not a list")
    records: list[Record] = []
    malformed: list[tuple[str, str]] = []
    for item in raw:
        record_id = item.get("record_id") if isinstance(item, dict) else None
        if not isinstance(record_id, str) or not record_id:
            raise ContractError("a record has no record_id")
        try:
            records.append(_record(record_id, item))
        except ContractError as error:
            malformed.append((record_id, str(error)))
    return records, malformed


def deadline_of(event: dict[str, Any]) -> Deadline:
    """Return a batch's deadline; raise `ContractError` if it is no time: to write without it would be unsafe."""
    unix_ms = event.get("deadline_ms", 0)
    if not isinstance(unix_ms, int) or isinstance(unix_ms, bool) or unix_ms < 0:
        raise ContractError("deadline_ms is not a Unix time in whole milliseconds")
    return Deadline(unix_ms)


def check_fence(event: dict[str, Any], *, refuses_older_versions: bool) -> None:
    """Raise `FenceWanted` where the engine counts on a promise that this function does not keep."""
    if event.get("unfenced", False) is not False and not refuses_older_versions:
        raise FenceWanted(
            "the batch is unfenced, and the function no longer refuses older versions; nothing is written"
        )


def single(event: Any) -> Record:
    """Return the record of the original's payload; raise `ContractError` if it is not one."""
    if not isinstance(event, dict):
        raise ContractError("the event is neither a batch nor a record")
    return _record("", event)


def answer(failed: Mapping[str, str]) -> dict[str, Any]:
    """Return the answer that has these records (record_id → reason) delivered again; the engine logs the reasons."""
    return {
        "batchItemFailures": [{"itemIdentifier": record_id, "reason": reason} for record_id, reason in failed.items()]
    }


def answer_to_nothing(*, refuses_older_versions: bool) -> dict[str, Any]:
    """Return the answer to the empty batch: the function can write, and whether it promises what is named here."""
    return answer({}) | ({"refusesOlderVersions": True} if refuses_older_versions else {})


def _record(record_id: str, item: dict[str, Any]) -> Record:
    get = item.get
    key, body = get("id"), get("body")
    if not isinstance(key, str):
        raise ContractError("id is not a string")
    if body is not None and not isinstance(body, str):
        raise ContractError("body is neither a string nor null")
    return Record(
        record_id,
        key,
        str(get("obj_name", key)),
        body,
        str(get("event", "")),
        str(get("type", "hash")),
        int(get("db", 0)),
        int(get("version", 0)),
        int(get("captured_at_ms", 0)),
        str(get("id_encoding", "")),
        str(get("body_encoding", "")),
        int(get("expires_at_ms", 0)),
        int(get("ordinal", 0)),
    )
