"""How far each node, and each feed of it, is settled, as the status says it.  (pure)

A feed here is what one shard hears of one node: its watermarks travel through that shard's rings, so one feed may lag
alone, if an invoker falls behind with what one shard writes, or if a shard hears a node late.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.routing.byte_classes import in_words
from engine.routing.nodes import ranges_in_words
from engine.supervision.progress.nodes import Heard, NodeProgress, Settled


def standing_of(one: NodeProgress, settled: Settled, heard: Heard, moment_ms: int) -> dict[str, Any]:
    """Return what the status says about a node (``moment_ms``: this host's monotonic clock).

    Moments are the node's own (Unix ms). Ages are None if they are not known yet.
    """
    missed = [heard(shard, one.node.number)[1] for shard in one.parts]
    marks = {known.server_mark for known in missed}
    return {
        "number": one.node.number,
        "id": one.node.id,
        "address": one.node.address,
        "reads_at": one.node.reads_at,
        "slots": ranges_in_words(one.node.slots),
        "shards": sorted(one.parts),
        "feeds": list(_feeds_of(one, settled, heard, moment_ms)),
        "settled_until_ms": one.settled.since_ms,
        "settled_age_ms": None if one.host_ms is None else max(0, moment_ms - one.host_ms),
        "heard_until_ms": min(known.since_ms for known in missed),
        "server_mark": marks.pop() if len(marks) == 1 else 0,
        "slots_owed": len(one.owed),
    }


def _feeds_of(one: NodeProgress, settled: Settled, heard: Heard, moment_ms: int) -> Iterator[dict[str, Any]]:
    for shard, part in sorted(one.parts.items()):
        said = settled(shard, one.node.number)
        clock_ms = heard(shard, one.node.number)[1].clock_ms
        settled_ms = min((watermark.moment_ms for watermark in said), default=0)
        # A watermark that was sent for another part of the node says nothing about this one.
        is_known = settled_ms and clock_ms and all(watermark.version >= part.changed for watermark in said)
        yield {
            "shard": shard,
            "keys": in_words(b"".join(last_bytes for last_bytes, _ in part.feeds)),
            "settled_age_ms": max(0, moment_ms - (settled_ms - clock_ms)) if is_known else None,
        }
