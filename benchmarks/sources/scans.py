"""Scans: seconds a pass over many keys, CPU a key of server and engine, memory and disk a key."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import orjson
import psutil

from benchmarks.stand.harness import CONFIG, Rig, engine_environment, stand_in, start_engine, wait_until
from benchmarks.stand.load import hset_distinct, info
from engine.config import RedisSettings
from engine.sandbox.functions.runtime import LambdaRuntime
from engine.sandbox.valkey import ValkeyServer

ROUTE = """\
events = ["changes"]
skip_unchanged = true
starting_position = "TRIM_HORIZON"
"""
PASSES = 2


class Scanned(msgspec.Struct, frozen=True):
    """What a pass over all keys takes, none of which has changed: seconds, and CPU a key in µs."""

    keys: int
    pass_s: float
    server_us: float
    subscriber_us: float
    invokers_us: float
    server_share: float
    """Of the server's one thread, while passes go on."""
    digest_bytes: float
    names_bytes: float
    """On disk, a key."""
    memory_bytes: float
    """By which the engine's processes have grown since they were ready, a key."""


@contextmanager
def scanning(redis: RedisSettings, server_pid: int, keys_per_s_max: int, period_s: float, keys: int) -> Iterator[Rig]:
    """Run an engine that scans; its digests have 24 bytes a key."""
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as name:
        folder = Path(name)
        with LambdaRuntime([stand_in(folder)], journal=None) as runtime:
            config = folder / "engine.toml"
            ours = f'source = "scan"\nscan_period_s_max = {period_s}\nrepair_keys_per_s_max = {keys_per_s_max}'
            text = CONFIG.format(
                redis_url=redis.url, folder=folder, shards=1, invokers=1, function="accept", keys='["*"]',
                batch_size=5_000, parallelization_factor=2, capture=ours,
            )  # fmt: skip
            text = text.replace("[delivery]\n", f"[delivery]\ndigest_bytes_max = {24 * keys + 8_192}\n")
            config.write_text(text + ROUTE)
            rig = Rig(redis, start_engine(config, folder, engine_environment(runtime.endpoint)), folder, server_pid, 0)
            try:
                yield rig
            finally:
                rig.stop()


def children(rig: Rig) -> dict[str, psutil.Process]:
    """Return the engine's children by their role."""
    status = orjson.loads((rig.folder / "status.json").read_bytes())
    return {child["role"]: psutil.Process(child["pid"]) for child in status["children"]}


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def own_bytes(process: psutil.Process) -> int:
    """Return the memory that is this process's own, and the pages of files that it maps."""
    return int(process.memory_full_info().pss)


def measure_scans(keys: int, keys_per_s_max: int = 10_000_000) -> Scanned:
    """Scan so many hashes of two fields as fast as it goes. The first pass, which delivers them, is not measured."""
    with ValkeyServer() as server:
        redis = RedisSettings(url=server.url)
        hset_distinct(server.port, keys)
        with scanning(redis, server.pid, keys_per_s_max, 1.0, keys) as rig:
            processes = children(rig)
            before_bytes = sum(map(own_bytes, processes.values()))
            wait_until(lambda: rig.totals()["repairs"] >= 1, "the first pass", 3_600)
            wait_until(
                lambda: rig.totals()["records_delivered"] + rig.totals()["skipped_unchanged"] >= keys,
                "all are delivered", 3_600,
            )  # fmt: skip
            first = rig.totals()["repairs"]
            wait_until(lambda: rig.totals()["repairs"] > first, "a pass begins", 3_600)
            began_s, began = time.monotonic(), {role: cpu_s(process) for role, process in processes.items()}
            server_s, passes, skipped = used(redis), rig.totals()["repairs"], rig.totals()["skipped_unchanged"]
            wait_until(lambda: rig.totals()["repairs"] >= passes + PASSES, f"{PASSES} passes", 3_600)
            took_s = time.monotonic() - began_s
            looked_at = rig.totals()["skipped_unchanged"] - skipped
            cost = {role: (cpu_s(process) - began[role]) / looked_at * 1e6 for role, process in processes.items()}
            grown = sum(map(own_bytes, processes.values())) - before_bytes
            backlog = rig.folder / "backlog"
            names = sum(path.stat().st_size for path in backlog.glob("names/*"))
            digests = sum(path.stat().st_size for path in backlog.glob("digests/*"))
            server_used = used(redis) - server_s
            return Scanned(
                keys, took_s / (rig.totals()["repairs"] - passes), server_used / looked_at * 1e6, cost["subscriber"],
                cost["invoker"], server_used / took_s, digests / keys, names / keys, grown / keys,
            )  # fmt: skip


def used(redis: RedisSettings) -> float:
    """Return the CPU seconds that a server has used."""
    told = info(redis, "cpu")
    return float(told["used_cpu_sys"]) + float(told["used_cpu_user"])
