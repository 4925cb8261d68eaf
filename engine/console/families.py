"""Which counter of the board is which metric.  (pure)"""

from __future__ import annotations

from typing import NamedTuple

from engine.ring.counters import Counter

SUBSCRIBER, INVOKER = "subscriber", "invoker"


class Family(NamedTuple):
    """A metric of one counter, less others; of each process of a ``role``, or of all together where it is ""."""

    name: str
    help: str
    role: str
    counters: tuple[Counter, ...]


TOTALS = (
    Family("events_captured", "Events that were read from the server.", SUBSCRIBER, (Counter.EVENTS_READ,)),
    Family("events_filtered", "Events that no route wants.", SUBSCRIBER, (Counter.EVENTS_READ, Counter.EVENTS_ROUTED)),
    Family("events_coalesced", "Events of keys that were dirty already.", SUBSCRIBER, (Counter.EVENTS_COALESCED,)),
    Family("events_dropped", "Events without room; each is within a gap.", SUBSCRIBER, (Counter.EVENTS_DROPPED,)),
    Family("keys_too_long", "Events of keys past capture.key_bytes_max.", SUBSCRIBER, (Counter.KEYS_TOO_LONG,)),
    Family("changes_written", "Changes that were handed to invokers.", SUBSCRIBER, (Counter.CHANGES_WRITTEN,)),
    Family("ring_full", "How often a ring had no room.", SUBSCRIBER, (Counter.RING_FULL,)),
    Family("reconnects", "Subscriptions that were made again.", SUBSCRIBER, (Counter.RECONNECTS,)),
    Family("repairs", "Scans that repaired a gap.", SUBSCRIBER, (Counter.REPAIRS,)),
    Family("repair_keys_scanned", "Keys that repairs looked at.", SUBSCRIBER, (Counter.KEYS_LOOKED_AT,)),
    Family("repair_keys_found", "Keys that repairs marked dirty.", SUBSCRIBER, (Counter.KEYS_REPAIRED,)),
    Family("comparisons", "Comparisons with destinations, for deletions.", SUBSCRIBER, (Counter.COMPARISONS,)),
    Family("changes_coalesced", "Changes of keys that waited already.", INVOKER, (Counter.CHANGES_COALESCED,)),
    Family("keys_fetched", "Keys whose value was read.", INVOKER, (Counter.KEYS_FETCHED,)),
    Family("keys_gone", "Keys that were gone for a reason that no route lists.", INVOKER, (Counter.KEYS_GONE,)),
    Family("keys_unchanged", "Values that were accepted before, and not sent.", INVOKER, (Counter.SKIPPED_UNCHANGED,)),
    Family("fetch_errors", "Reads that failed.", INVOKER, (Counter.FETCH_ERRORS,)),
    Family("records_delivered", "Records that were accepted.", INVOKER, (Counter.RECORDS_DELIVERED,)),
    Family("records_retried", "Records that are delivered again.", INVOKER, (Counter.RECORDS_RETRIED,)),
    Family("dead_letters", "Records that were given up on, and kept.", INVOKER, (Counter.DEAD_LETTERS,)),
    Family("invocations_started", "Invocations that were sent.", INVOKER, (Counter.INVOCATIONS,)),
    Family("payload_bytes", "Bytes that were sent to functions.", INVOKER, (Counter.PAYLOAD_BYTES,)),
    Family("backlog_refused", "Keys that the disk refused.", INVOKER, (Counter.BACKLOG_REFUSED,)),
    Family("spans_dropped", "Spans that an invoker had no room for.", INVOKER, (Counter.SPANS_DROPPED,)),
    Family("stream_entries_acknowledged", "Entries of streams that were settled.", "", (Counter.ENTRIES_ACKNOWLEDGED,)),
    Family("stream_entries_malformed", "Entries of streams that name no key.", "", (Counter.ENTRIES_MALFORMED,)),
    Family("stream_entries_missed", "Entries that were gone before they were read.", "", (Counter.ENTRIES_MISSED,)),
)
"""What only grows; Prometheus's names end in ``_total``."""

COUNTS = (
    Family("feeds", "Subscriptions that there should be.", SUBSCRIBER, (Counter.FEEDS,)),
    Family("feeds_proved", "Feeds that listen and are proved to receive events.", SUBSCRIBER, (Counter.FEEDS_PROVED,)),
    Family("dirty_keys", "Keys that wait for room in a ring.", SUBSCRIBER, (Counter.DIRTY_KEYS,)),
    Family("scan_keys", "Keys that the repairs under way have to look at.", SUBSCRIBER, (Counter.KEYS_TO_SCAN,)),
    Family("scan_keys_done", "Of them looked at.", SUBSCRIBER, (Counter.KEYS_SCANNED,)),
    Family("keys_waiting", "Keys that wait in memory.", INVOKER, (Counter.KEYS_WAITING,)),
    Family("keys_in_flight", "Keys whose invocation is under way.", INVOKER, (Counter.KEYS_IN_FLIGHT,)),
    Family("backlog_keys", "Keys that wait on disk.", INVOKER, (Counter.KEYS_BACKLOG,)),
    Family("stream_entries_behind", "Entries of streams that were not read yet.", "", (Counter.ENTRIES_BEHIND,)),
    Family("stream_entries_unsettled", "Entries read, not acknowledged.", "", (Counter.ENTRIES_UNSETTLED,)),
    Family("keys_set_aside", "Of them set aside: they keep failing.", INVOKER, (Counter.KEYS_SET_ASIDE,)),
)
"""What goes up and down."""

GAUGES = (
    ("deletions_held", "Deletions that wait for a decision.", "deletions_held"),
    ("topology_version", "The version of the nodes and feeds; each change of either is a new one.", "topology_version"),
    ("routes_version", "The version of the routes that are in force.", "routes_version"),
)
"""Name, help, and the status's own word for it."""
