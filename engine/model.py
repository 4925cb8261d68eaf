"""What flows through the engine: from a keyspace event to a settled delivery.  (pure)"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec

Events = tuple[tuple[str, int], ...]
"""Names and times of a key's events, the oldest first."""

RouteMask = int
"""A set of routes: bit *n* stands for the route in slot *n* of the route table (0 to 62)."""

ROUTE_SLOTS_MAX = 63
"""Routes alive at once; a mask then fits a signed 64-bit word."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """What is known of a dirty key on its way to a ring: *it changed*, not what it holds.

    Keys that changed in the same way share one. ``event`` is the newest event's name, as Redis names it; ``routes`` the
    routes that want the key; ``captured_ms`` when the oldest event that this change stands for was read from the socket
    (Unix time, milliseconds). ``events`` are all events that it stands for, with their times, the oldest first, if a
    route wants each of them (``coalesce = false``). ``trace`` is its mark where it is traced (`engine.tracing.mark`).
    """

    event: str
    routes: RouteMask
    captured_ms: int
    events: Events = ()
    trace: bytes = b""


class Run(msgspec.Struct, array_like=True, gc=False):
    """Keys that changed in the same way, on their way through a ring: a `Change` and its keys.

    Without any route it is a watermark: everything that was published before ``captured_ms`` is in this ring, or
    settled.
    """

    event: str
    routes: RouteMask
    captured_ms: int
    keys: list[bytes]
    events: Events = ()
    trace: bytes = b""


EVERY_ROUTE: RouteMask = (1 << ROUTE_SLOTS_MAX) - 1

FORCED: RouteMask = 1 << ROUTE_SLOTS_MAX
"""Set beside the routes of a change that is to be delivered even if the value is the one last accepted."""

THE_BEGINNING_MS = 1
"""The start of a gap without a start: the whole keyspace is to be found."""


class Watermark(NamedTuple):
    """Everything that this node published before this moment (Unix ms, its own clock) is in the rings, or settled.

    ``server_mark`` is that of the server then (`engine.capture.watch.sight.Sight.mark`), 0 if it is unknown;
    ``node`` the node's number. ``version`` is that of the feeds that it is true of (`engine.lifecycle.SetFeeds`):
    what they were handed as missed is found, or the watermark is not sent.
    """

    moment_ms: int
    server_mark: int
    node: int = 0
    version: int = 0


class StreamKept(msgspec.Struct, frozen=True):
    """What is kept of a stream: an id up to which everything is acknowledged, and the history of the server of which
    everything is that was read (`engine.capture.sources.stream.histories`); "" where either is not known.
    """

    settled: str = ""
    history: str = ""


class Missed(msgspec.Struct, frozen=True):
    """What a shard did not hear: everything since ``since_ms`` (Unix time, by the server's clock).

    ``server_mark`` is that of the server then (`engine.capture.watch.sight.Sight.mark`, 0 if it is unknown); ``routes``
    the routes that miss it. A route in ``delivered`` ({slot: patterns}) does not miss keys that these match.
    ``clock_ms`` is how far the server's clock was ahead of this host's monotonic one, 0 if that is unknown. ``slots``
    are the cluster's slots that are missed, as ranges with both ends; () means all. If there are some, this engine has
    not listened to them before, and all of their keys are to be found.
    """

    since_ms: int
    server_mark: int = 0
    routes: RouteMask = EVERY_ROUTE
    delivered: dict[int, tuple[str, ...]] = {}
    clock_ms: int = 0
    slots: tuple[tuple[int, int], ...] = ()


NOTHING_HEARD = Missed(0)
"""What a gap misses if nothing before it is known to have been heard."""


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """One key's value in the batch payload (field names and meanings are a contract with functions).

    ``body`` is a JSON text, or None if the key is gone. ``version`` orders the values of a key: microseconds of the
    Redis node's clock, in a cluster plus 10 s for each configuration epoch of the node, never going backwards. A key
    (or a body with a string) that is not UTF-8 is carried as base64 and says so in ``id_encoding``
    (``body_encoding``). ``expires_at_ms`` is Unix time, for a key that expires, if the route asks for it.
    ``ordinal`` tells the events of one read apart, if each is a record: 0, which is left out, for the first.
    ``traceparent`` (W3C) is the invocation's span, of a change that is traced.
    """

    record_id: str
    id: str
    obj_name: str
    body: str | None
    event: str
    type: str
    db: int
    version: int
    captured_at_ms: int
    id_encoding: str | msgspec.UnsetType = msgspec.UNSET
    body_encoding: str | msgspec.UnsetType = msgspec.UNSET
    expires_at_ms: int | msgspec.UnsetType = msgspec.UNSET
    ordinal: int = 0
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


class OriginalRecord(msgspec.Struct, gc=False, omit_defaults=True):
    """The payload of the 2020 original: one record per invocation, ``body`` a JSON text.

    The two marks are absent for UTF-8, so that functions written for the original see what they know.
    """

    id: str
    obj_name: str
    body: str | None
    id_encoding: str | msgspec.UnsetType = msgspec.UNSET
    body_encoding: str | msgspec.UnsetType = msgspec.UNSET


class Failure(IntEnum):
    """Why an invocation did not settle all of its records."""

    NONE = 0
    FUNCTION_ERROR = 1
    THROTTLED = 2
    SERVICE = 3
    TIMEOUT = 4
    CONNECTION = 5
    OVERSIZE = 6
    BAD_ANSWER = 7
    REFUSED = 8
    """The target itself is wrong (missing function, missing right): retried slowly, and reported prominently."""
    ITEMS = 9
    """Some records failed alone (``batchItemFailures``)."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one invocation.

    ``failed_ids`` names the records to deliver again; if it is empty, all of them failed, or, with ITEMS, none.
    ``reason`` is for people and dead letters. It may quote a function, and a function may quote a value: ``brief`` is
    then what a log may say, "" if the reason quotes nobody. ``retry_after_ms`` is what the service asks for, 0 if
    nothing. ``is_lost`` if it is unknown whether the function still runs and writes. ``wants_fence`` if an unfenced
    batch reached a function that does not keep older values out by itself: it has written nothing. ``remark`` is what
    the function's author should know about the answer, whatever became of the records.
    """

    failure: Failure = Failure.NONE
    failed_ids: tuple[str, ...] = ()
    reason: str = ""
    retry_after_ms: int = 0
    is_lost: bool = False
    wants_fence: bool = False
    remark: str = ""
    brief: str = ""
