"""Limits of the settings, and the relations between them: all that can be judged without a server. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from engine.ring.codec import CHANGE_BYTES_MAX
from engine.routing.events import EVENT_CHARS_MAX
from engine.routing.slices import parse_slice, shards_max
from engine.settings.draft import Draft
from engine.settings.paths import PATHS

DAY_MS = 86_400_000
AUTO = "auto"
"""As many shards as the nodes need, with no node cut: that breaks no limit."""
LAMBDA_PAYLOAD_BYTES_MAX = 6_291_556
SHARED_BYTES_MAX = 68_719_476_736
FRAMING_BYTES_MAX = CHANGE_BYTES_MAX + EVENT_CHARS_MAX
"""What an event adds to its key in a frame."""


class Limits(NamedTuple):
    """The lowest and the highest value of a setting, and the reason if it is not obvious."""

    low: float
    high: float
    why: str = ""


_INVOKE_MS = "an invocation ends after 15 minutes, whatever we wait"

LIMITS: dict[str, Limits] = {
    "redis.connect_timeout_ms": Limits(1, 600_000),
    "redis.read_timeout_ms": Limits(1, 600_000),
    "capture.shards": Limits(
        1, 64, "each shard's pattern costs the server's one thread about 0.25 µs an event: 2 to 4 are enough"
    ),
    "capture.topology_interval_ms": Limits(100, DAY_MS, "each time a process asks the server for its nodes"),
    "capture.sample_keys_max": Limits(0, 100_000, "the sample is read from the server at every start"),
    "capture.dirty_keys_max": Limits(1, 100_000_000),
    "capture.read_bytes_max": Limits(4_096, 67_108_864),
    "capture.read_entries_max": Limits(1, 100_000, "the server does nothing else while it hands them out"),
    "capture.unsettled_entries_max": Limits(1, 100_000_000, "each takes about 20 bytes of memory"),
    "capture.claim_idle_ms": Limits(1_000, DAY_MS, "an entry that is being delivered must not be taken for a lost one"),
    "capture.repair_keys_per_s_max": Limits(1, 10_000_000),
    "capture.scan_period_s_max": Limits(1, 604_800, "a change is found a pass later, and a pass looks at every key"),
    "capture.deletions_found_share_max": Limits(0, 1, "it is a share: 0.25 is a quarter"),
    "capture.key_bytes_max": Limits(1, 536_870_912, "a Redis key has at most 512 MB"),
    "capture.uncoalesced_events_max": Limits(1, 10_000),
    "ring.ring_bytes": Limits(65_536, 1_073_741_824, "there is a ring for each shard and invoker"),
    "ring.frame_bytes_max": Limits(1_024, 268_435_456),
    "ring.frame_events_max": Limits(1, 65_536),
    "delivery.invokers": Limits(1, 64, "an invoker is a process: one per core is enough"),
    "delivery.gather_ms": Limits(0, 100, "a route has maximum_batching_window_in_seconds to wait for longer"),
    "delivery.fetch_keys_max": Limits(1, 10_000, "a pipeline holds all its values in memory"),
    "delivery.payload_bytes_max": Limits(
        1_024, LAMBDA_PAYLOAD_BYTES_MAX, "Lambda accepts 6 MB in a synchronous invocation"
    ),
    "delivery.connect_timeout_ms": Limits(1, 600_000),
    "delivery.invoke_timeout_ms": Limits(1, 960_000, _INVOKE_MS),
    "delivery.deadline_ms": Limits(100, 900_000, "a function runs for at most 15 minutes"),
    "delivery.deadline_margin_ms": Limits(0, 900_000),
    "delivery.set_aside_attempts": Limits(1, 1_000_000),
    "delivery.set_aside_backoff_ms_max": Limits(1, DAY_MS),
    "delivery.retrying_keys_max": Limits(1, 100_000_000),
    "delivery.waiting_keys_max": Limits(1, 100_000_000),
    "delivery.backlog_bytes_max": Limits(1_048_576, 2**50),
    "delivery.retry_backoff_ms_min": Limits(1, DAY_MS),
    "delivery.retry_backoff_ms_max": Limits(1, DAY_MS),
    "delivery.dead_letter_bytes_max": Limits(1_024, 2**50),
    "delivery.digest_bytes_max": Limits(8_192, 2**40, "each route and invoker has a file of this size"),
    "supervision.ready_timeout_s": Limits(0.1, 3_600),
    "supervision.heartbeat_timeout_s": Limits(0.1, 3_600),
    "supervision.restart_backoff_ms_min": Limits(1, DAY_MS),
    "supervision.restart_backoff_ms_max": Limits(1, DAY_MS),
    "supervision.drain_timeout_s": Limits(0.1, 86_400),
    "supervision.checkpoint_interval_ms": Limits(50, 3_600_000),
    "log.repeats_max": Limits(0, 1_000_000),
    "log.repeats_interval_s": Limits(1, 3_600),
    "console.connections_max": Limits(1, 10_000),
    "otlp.metrics_interval_s": Limits(0, 3_600, "0 sends none"),
    "otlp.traced_changes_per_million": Limits(0, 1_000_000, "0 traces none, 1000000 all"),
    "console.request_timeout_s": Limits(0.1, 600),
}
"""Every number in the settings has limits."""

_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def check_values(draft: Draft) -> None:
    """Note every limit and every relation that the values break."""
    for key, limits in LIMITS.items():
        value = draft.get(key)
        if value == AUTO:
            continue
        if not limits.low <= value <= limits.high:
            why = f"; {limits.why}" if limits.why else ""
            draft.say(draft.place(key), f"is {value}", f"allowed: {limits.low} to {limits.high}{why}")
    for key in ("redis.url", *PATHS):
        value = draft.get(key)
        if not value.strip() and (value or key == "redis.url"):
            draft.say(draft.place(key), "is empty", "leave it out for its default")
    _check_rings(draft)
    _check_slice(draft)
    _check_backoff(draft, "delivery.retry_backoff_ms")
    _check_backoff(draft, "supervision.restart_backoff_ms")
    _check_aws(draft)


def _check_rings(draft: Draft) -> None:
    ring_bytes, frame_bytes_max = draft.get("ring.ring_bytes"), draft.get("ring.frame_bytes_max")
    if ring_bytes > 0 and ring_bytes & (ring_bytes - 1):
        above = 1 << ring_bytes.bit_length()
        draft.say(
            draft.place("ring.ring_bytes"), f"is {ring_bytes}, which is not a power of two", f"{above} is the next one"
        )
    if ring_bytes < 4 * frame_bytes_max:
        draft.say(
            draft.place("ring.ring_bytes", "ring.frame_bytes_max"),
            f"a ring of {ring_bytes} bytes holds fewer than 4 frames of ring.frame_bytes_max = {frame_bytes_max}",
            f"set ring.ring_bytes to {1 << (4 * frame_bytes_max - 1).bit_length()} or more, or smaller frames",
        )
    key_bytes_max = draft.get("capture.key_bytes_max")
    if key_bytes_max + FRAMING_BYTES_MAX > frame_bytes_max:
        draft.say(
            draft.place("capture.key_bytes_max", "ring.frame_bytes_max"),
            f"a key of capture.key_bytes_max = {key_bytes_max} bytes does not fit a frame of "
            f"ring.frame_bytes_max = {frame_bytes_max} with {FRAMING_BYTES_MAX} bytes of framing",
            f"capture.key_bytes_max may be at most {max(frame_bytes_max - FRAMING_BYTES_MAX, 0)}",
        )
    shards = draft.get("capture.shards")
    shared_bytes = (0 if shards == AUTO else shards) * draft.get("delivery.invokers") * ring_bytes
    if shared_bytes > SHARED_BYTES_MAX:
        draft.say(
            draft.place("ring.ring_bytes", "capture.shards", "delivery.invokers"),
            f"shards × invokers × ring_bytes is {shared_bytes} bytes of shared memory",
            f"allowed: {SHARED_BYTES_MAX}",
        )


def _check_slice(draft: Draft) -> None:
    """Check that every shard of the slice gets a byte of its own."""
    shards, slices = draft.get("capture.shards"), parse_slice(draft.get("capture.slice")).count
    most = shards_max(slices)
    if shards != AUTO and shards > most:
        draft.say(
            draft.place("capture.shards", "capture.slice"),
            f"a slice of {slices} can't be cut into {shards} shards: each needs a byte that keys end in",
            f"set capture.shards to {most} or fewer",
        )


def _check_backoff(draft: Draft, key: str) -> None:
    least, most = draft.get(f"{key}_min"), draft.get(f"{key}_max")
    if least > most:
        place = draft.place(f"{key}_min", f"{key}_max")
        draft.say(place, f"{key}_min = {least} is more than {key}_max = {most}", "swap them")


def _check_aws(draft: Draft) -> None:
    region = draft.get("aws.region")
    if region and not _REGION.fullmatch(region):
        draft.say(draft.place("aws.region"), f"{region[:40]!r} is not a region", "as in us-east-1")
    url = draft.get("aws.lambda_endpoint_url")
    if not url:
        return
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right:
        draft.say(
            draft.place("aws.lambda_endpoint_url"), "is not the address of an endpoint", "as in http://127.0.0.1:9001"
        )
