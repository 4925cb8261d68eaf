"""Figures in words: what each is called, which question it answers, and whether its run is to be believed.  (pure)"""

from __future__ import annotations

from benchmarks.judged.results import Results

SWING_MIN = 1.15
"""A machine whose speed swings by less is calm."""
OTHERS = "More"

QUESTIONS: dict[str, dict[str, str]] = {
    "Was anything lost?": {
        "bench_lost": "Changes lost, stale or invented",
        "soak_lost": "The same, over a soak",
    },
    "How much can it take?": {
        "saturation_events_per_s": "Saturation: the highest rate with a p99 lag of at most 250 ms",
        "engine_events_per_s": "Throughput at full load",
        "capture_headroom": "Events one subscriber can hear, for each event that one primary can publish",
        "ring_events_per_s": "Events through a ring",
        "scaling_efficiency": "Scaling efficiency, 1 to 8 shards",
    },
    "How late is a change?": {
        "lag_ms_p50": "Median lag at 1,000 changes/s",
        "lag_ms_p99": "p99 lag at 1,000 changes/s",
        "half_lag_ms_p50": "Median lag at half of saturation",
        "half_lag_ms_p99": "p99 lag at half of saturation",
        "half_lag_ms_p999": "p99.9 lag at half of saturation",
        "dynamodb_lag_ms_p99": "p99 lag until the item is in DynamoDB, 500 changes/s",
    },
    "What does a change cost?": {
        "engine_cpu_us": "CPU of the engine per event, full batches",
        "half_cpu_y": "CPU of the engine per change at half of saturation",
        "light_cpu_y": "CPU of the engine per change at 1,000 changes/s",
        "capture_cpu_us": "CPU per event captured, socket to ring",
        "fetch_cpu_us": "CPU per value read",
        "invoke_cpu_y": "CPU per invocation",
        "light_requests": "Lambda requests per million changes, 1,000 changes/s",
        "half_requests": "Lambda requests per million changes, half of saturation",
        "dirty_key_bytes": "Memory per waiting key",
    },
    "What does Redis pay?": {
        "hset_p99_ratio": "p99 of the application's HSET with and without the engine, cores apart",
        "hset_p99_ratio_shared": "The same, all on the same cores",
        "wire_in_bytes": "Bytes to Redis per change",
        "wire_out_bytes": "Bytes from Redis per change",
        "wire_payload_bytes": "Bytes to the function per change",
    },
    "What do the functions cost?": {
        "dynamodb_batch_cpu_us": "CPU of the DynamoDB function per item",
        "dynamodb_versioned_cpu_us": "The same, versioned writes",
        "aurora_mysql_cpu_us": "CPU of the Aurora MySQL function per item",
        "dynamodb_cold_start_ms": "Cold start of the DynamoDB function",
    },
    "How does it compare?": {
        "times_original": "Throughput against the 2020 original's loop",
        "original_events_per_s": "Throughput of the original's loop",
        "redis_py_hear_cpu_us": "CPU per event heard by redis-py",
        "redis_py_read_cpu_us": "CPU per event heard and read by redis-py",
    },
    "Does it stay flat?": {
        "soak_rss_slope": "Growth of memory per hour",
        "soak_descriptors": "Growth of open descriptors",
    },
    "How fast is this machine?": {
        "yardstick_us": "The yardstick: one event parsed by hiredis and put into a dictionary",
        "driver_hset_per_s": "HSETs that one process of the load sends",
    },
}
"""Question → figure → its title, in the order of the page."""


def question_of(name: str) -> str:
    """Return the question that a figure answers."""
    return next((question for question, figures in QUESTIONS.items() if name in figures), OTHERS)


def title_of(name: str) -> str:
    """Return a figure's name in words; its code name where it has none."""
    return QUESTIONS.get(question_of(name), {}).get(name, name)


def swing_of(results: Results) -> float | None:
    """Return how far the machine's own speed went up and down, as a factor; None if it was not measured."""
    yardstick = results.figure("yardstick_us")
    if yardstick is None or len(yardstick.runs) < 2:
        return None
    return max(yardstick.runs) / min(yardstick.runs)


def verdict_of(results: Results) -> list[str]:
    """Return whether this run is to be believed, in sentences: the worst first."""
    found = []
    lost = results.figure("bench_lost")
    if lost is not None and lost.value:
        found.append(f"Do not use this run: {lost.value:,.0f} changes were lost, stale or invented.")
    if late := [one.name for one in results.figures if "NOT on schedule" in one.note]:
        found.append(f"The load's sender fell behind its schedule; the lag is overstated in {', '.join(late)}.")
    if results.quick:
        found.append("This is a quick run: each part ran once, and shortly. Use a full one to plan.")
    swing = swing_of(results)
    if swing is not None and swing >= SWING_MIN:
        found.append(
            "The machine's own speed, by a yardstick beside the measurements, went up and down by a factor of "
            f"{swing:.1f}: what differs by less between two runs tells nothing."
        )
    missing = [one for one in results.figures if one.value is None]
    if missing:
        found.append(f"{len(missing)} figures could not be measured; each says why.")
    if not found:
        found.append("Nothing speaks against this run.")
    if lost is not None and not lost.value:
        found.append(f"0 {lost.note}.")
    return found
