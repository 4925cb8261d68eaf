"""What else there is to watch a keyspace with, on the same machine: the original's loop, and redis-py in a loop."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
import redis

from benchmarks.stand.load import hset_distinct
from engine.sandbox import aws
from engine.sandbox.functions.runtime import FunctionSpec, LambdaRuntime
from engine.sandbox.valkey import ValkeyServer

CHANNELS = "__keyevent@0__:*"
BURST = 2_000
PAUSE_S = 0.5
"""More than the original can take, yet not so much that the server drops it as a slow reader."""


@contextmanager
def _loaded_server(pause_s: float) -> Iterator[int]:
    """Run a server that tells of its changes, and a load of bursts with this pause between; give its port."""
    with ValkeyServer() as server:
        redis.Redis(port=server.port).config_set("notify-keyspace-events", "EA")
        load = multiprocessing.Process(target=_load_until_killed, args=(server.port, pause_s), daemon=True)
        load.start()
        try:
            yield server.port
        finally:
            load.kill()
            load.join()


def _load_until_killed(port: int, pause_s: float) -> None:
    time.sleep(0.2)
    while True:
        hset_distinct(port, BURST)
        time.sleep(pause_s)


def _listen(port: int) -> Any:
    listener: Any = redis.Redis(port=port, decode_responses=True)
    pubsub = listener.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe(CHANNELS)
    return pubsub


def measure_original(seconds: float) -> float:
    """Return the events a second of the original's loop: per event connect, read, invoke.

    The original also builds an AWS session for every event; here one client serves all, in its favour.
    """
    with _loaded_server(PAUSE_S) as port, LambdaRuntime([FunctionSpec("accept", "accept")]) as runtime:
        client, pubsub, events = aws.client("lambda", runtime.endpoint), _listen(port), 0
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            message = pubsub.get_message(timeout=1.0)
            if message is None or not message["channel"].endswith(":hset"):
                continue
            key = message["data"]
            with redis.Redis(port=port, decode_responses=True) as connection:
                body = orjson.dumps(connection.hgetall(key)).decode()
            payload = orjson.dumps({"id": key, "obj_name": key, "body": body})
            client.invoke(FunctionName="accept", Payload=payload)["Payload"].read()
            events += 1
        return events / (time.perf_counter() - started)


class RedisPy(NamedTuple):
    """CPU µs an event of redis-py's: hearing of it, and hearing of it and reading its hash."""

    hear_us: float
    read_us: float


def measure_redis_py(seconds: float) -> RedisPy:
    """Return what redis-py takes in a loop, one process, one event after the other, nothing invoked."""
    return RedisPy(_redis_py_us(seconds, reads=False), _redis_py_us(seconds, reads=True))


def _redis_py_us(seconds: float, *, reads: bool) -> float:
    with _loaded_server(PAUSE_S / 5) as port:
        pubsub, connection, events = _listen(port), redis.Redis(port=port, decode_responses=True), 0
        pubsub.get_message(timeout=5.0)
        started, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - started < seconds:
            message = pubsub.get_message(timeout=1.0)
            if message is None:
                continue
            if reads:
                connection.hgetall(message["data"])
            events += 1
        return (time.process_time() - cpu) / max(1, events) * 1e6
