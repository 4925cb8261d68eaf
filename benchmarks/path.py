"""The whole path: CPU an event, throughput, lag, and the original's loop on the same load."""

from __future__ import annotations

import bisect
import multiprocessing
import time
from dataclasses import dataclass
from typing import Any

import boto3
import orjson
import redis

from benchmarks.harness import Rig, rig, wait_until
from benchmarks.load import hset_distinct, hset_scheduled
from engine.sandbox.stack import sandbox_environment

LAG_RATE = 1_000.0
LAG_KEYS = 5_000
WARM_UP = 2_000


@dataclass(frozen=True)
class Saturation:
    """What one run at full load showed."""

    cpu_us: float
    events_per_s: float
    batch_mean: float


def measure_saturation(events: int, batch_size: int = 1_000, shards: int = 1, invokers: int = 1) -> Saturation:
    """Set distinct keys as fast as the server takes them; watch until the last is accepted."""
    with rig(batch_size=batch_size, shards=shards, invokers=invokers) as bench:
        hset_distinct(bench.redis_port, WARM_UP, prefix="warm")
        bench.wait("records_delivered", WARM_UP)
        before, cpu_before = bench.totals(), bench.cpu_s()
        started_ns = time.time_ns()
        hset_distinct(bench.redis_port, events)
        bench.wait("records_delivered", WARM_UP + events)
        cpu_s = bench.cpu_s() - cpu_before
        batches = bench.totals()["invocations"] - before["invocations"]
        bench.stop()
        accepted_ns = max(orjson.loads(line)["ended_ns"] for line in bench.journal.read_bytes().splitlines())
    elapsed_s = (accepted_ns - started_ns) / 1e9
    return Saturation(cpu_s / events * 1e6, events / elapsed_s, events / batches)


@dataclass(frozen=True)
class Lag:
    """Lag p50 and p99, the sender's own worst lateness, in ms; and how many records an invocation had."""

    p50_ms: float
    p99_ms: float
    late_ms: float
    records_per_invocation: float


def measure_lag(seconds: float) -> Lag:
    """Change keys at 1,000 a second.

    Lag is from HSET answered to the request that carries the change, or a newer one of its key, being
    received whole at the function.
    """
    changes = int(seconds * LAG_RATE)
    with rig(journal_payloads=True, batch_size=500) as bench:
        hset_scheduled(bench.redis_port, 500, LAG_RATE, 500, prefix="warm")
        answered, late_ns = hset_scheduled(bench.redis_port, changes, LAG_RATE, LAG_KEYS)
        wait_until(lambda: bench.totals()["keys_waiting"] + bench.totals()["keys_in_flight"] == 0, "idle")
        totals = bench.totals()
        bench.stop()
        arrivals = _arrivals(bench)
    lags = []
    for number, moment in enumerate(answered):
        seen = arrivals[number % LAG_KEYS]
        place = bisect.bisect_left(seen, (number, 0))
        lags.append((seen[place][1] - moment) / 1e6)
    lags.sort()
    batch = totals["records_delivered"] / totals["invocations"]
    return Lag(lags[len(lags) // 2], lags[int(len(lags) * 0.99)], late_ns / 1e6, batch)


def _arrivals(bench: Rig) -> dict[int, list[tuple[int, int]]]:
    """Return for each key the (change number, time) in which it arrived, in order."""
    arrivals: dict[int, list[tuple[int, int]]] = {}
    for line in bench.journal.read_bytes().splitlines():
        invocation = orjson.loads(line)
        for record in invocation["event"]["records"]:
            prefix, _, name = record["id"].partition(":")
            if prefix != "cart":
                continue
            key = int(name)
            number = int(orjson.loads(record["body"])["n"])
            arrivals.setdefault(key, []).append((number, invocation["started_ns"]))
    for seen in arrivals.values():
        seen.sort()
    return arrivals


def _original_loop(redis_port: int, lambda_endpoint: str, seconds: float) -> float:
    """Run the original's loop for a while: per event connect, read, invoke; return events a second.

    The original also builds an AWS session for every event; here one client serves all, in its favour.
    """
    environment = sandbox_environment(lambda_endpoint=lambda_endpoint)
    client = boto3.client(
        "lambda",
        endpoint_url=lambda_endpoint,
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    listener: Any = redis.Redis(port=redis_port, decode_responses=True)
    pubsub = listener.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe("__keyevent@0__:*")
    events = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        message = pubsub.get_message(timeout=1.0)
        if message is None or not message["channel"].endswith(":hset"):
            continue
        key = message["data"]
        with redis.Redis(port=redis_port, decode_responses=True) as connection:
            body = orjson.dumps(connection.hgetall(key)).decode()
        payload = orjson.dumps({"id": key, "obj_name": key, "body": body})
        client.invoke(FunctionName="accept", Payload=payload)["Payload"].read()
        events += 1
    return events / (time.perf_counter() - started)


def measure_original(seconds: float) -> float:
    """Return the events a second of the original's loop under the same load."""
    from engine.sandbox.lambda_runtime import FunctionSpec, LambdaRuntime
    from engine.sandbox.valkey import ValkeyServer

    with ValkeyServer() as server, LambdaRuntime([FunctionSpec("accept", "accept")]) as runtime:
        redis.Redis(port=server.port).config_set("notify-keyspace-events", "EA")
        load = multiprocessing.Process(target=_load_until_killed, args=(server.port,), daemon=True)
        load.start()
        try:
            return _original_loop(server.port, runtime.endpoint, seconds)
        finally:
            load.kill()
            load.join()


def _load_until_killed(port: int) -> None:
    time.sleep(0.2)
    while True:
        hset_distinct(port, 2_000)
        # More than the loop can take, yet not so much that the server drops it as a slow reader.
        time.sleep(0.5)
