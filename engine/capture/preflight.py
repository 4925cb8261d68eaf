"""What has to be true of the server before capture starts, and the shard plan; run in the planner process.

The engine is a guest: flags are merged into what the server has and never overwritten, keys are sampled and not
scanned, and nothing is written but, where CONFIG is refused, one short-lived canary.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import redis as redis_py
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import RedisError as ClientError

from engine import glob
from engine.capture.shards import Shard, channel_prefix, imbalance, plan_shards
from engine.config import RedisSettings, Settings
from engine.connection import RespConnection, pack, parse_url, refusal
from engine.errors import NotificationsOff, RedisRefused, RedisUnreachable
from engine.routes import RouteTable, merge_flags, notification_flags

MAPPING_EVENTS = ("hset", "hdel", "del")
MAPPINGS_MAX = 1_000
CANARY_PREFIX = "__engine_canary__"
CANARY_WAIT_S = 2.0


class CapturePlan(msgspec.Struct, frozen=True):
    """How the keyspace is cut, and what the user should know of the server."""

    shards: tuple[Shard, ...]
    database: int
    server: str
    warnings: tuple[str, ...]


def prepare_capture(settings: Settings, table: RouteTable) -> CapturePlan:
    """Check the server, see that it notifies, sample its keys, cut the shards.

    Raises `RedisUnreachable`, `RedisRefused` or `NotificationsOff`, each with its remedy.
    """
    # A greeting on the raw connection first: its refusals are told apart and have remedies.
    RespConnection.open(settings.redis, name="engine-planner").close()
    with client_of(settings.redis) as client:
        server = _check_server(client)
        events = {event.decode() for event in table.compile()}
        if settings.original.mapping_prefix:
            events.update(MAPPING_EVENTS)
        _see_to_notifications(client, settings.redis, notification_flags(events))
        sample = _sample(client, settings.capture.sample_keys_max)
    database = parse_url(settings.redis.url).database
    shards = plan_shards(settings.capture.shards, database, sample)
    warning = imbalance(shards, sample)
    return CapturePlan(shards, database, server, (warning,) if warning else ())


@contextmanager
def client_of(redis: RedisSettings) -> Iterator[Any]:
    """Yield a full client for the cold paths; its errors become the engine's own."""
    address = parse_url(redis.url)
    options: dict[str, Any] = {
        "username": redis.username or None,
        "password": redis.password or None,
        "socket_connect_timeout": redis.connect_timeout_ms / 1_000,
        "socket_timeout": redis.read_timeout_ms / 1_000,
        "client_name": "engine-planner",
    }
    if address.tls:
        options.update(
            ssl_ca_certs=redis.tls_ca_file or None,
            ssl_certfile=redis.tls_cert_file or None,
            ssl_keyfile=redis.tls_key_file or None,
            ssl_cert_reqs="required" if redis.tls_verify else "none",
            ssl_check_hostname=redis.tls_verify,
        )
    client = redis_py.Redis.from_url(redis.url, **options)
    try:
        yield client
    except (AuthenticationError, NoPermissionError, ResponseError) as error:
        text = str(error)
        raise refusal(address, "do what the start needs", text) from error
    except ClientError as error:
        raise RedisUnreachable(f"{address}: {error}", hint="is the server running?") from error
    finally:
        client.close()


def _check_server(client: Any) -> str:
    facts = client.info("server")
    mode = facts.get("redis_mode", facts.get("server_mode", "standalone"))
    name = "Valkey" if "valkey_version" in facts else "Redis"
    version = facts.get("valkey_version", facts.get("redis_version", "?"))
    if mode == "cluster":
        raise RedisRefused(
            "the server is a cluster node, and this version captures from one standalone server",
            hint="name a server without cluster mode in redis.url",
        )
    if mode == "sentinel":
        raise RedisRefused(
            "the server is a Sentinel, which holds no keys", hint="name the primary itself in redis.url"
        )
    return f"{name} {version}"


def _see_to_notifications(client: Any, redis: RedisSettings, needed: str) -> None:
    try:
        current = client.config_get("notify-keyspace-events").get("notify-keyspace-events", "")
    except ResponseError:
        _see_canary(client, redis, needed)
        return
    merged = merge_flags(current, needed)
    if merged == current:
        return
    if not redis.set_notifications:
        raise NotificationsOff(
            f"the server's notify-keyspace-events is {current!r}, and the routes need {needed!r} in it",
            hint=f"run CONFIG SET notify-keyspace-events {merged}, or allow redis.set_notifications",
        )
    try:
        client.config_set("notify-keyspace-events", merged)
    except ResponseError as error:
        raise NotificationsOff(
            f"the server's notify-keyspace-events is {current!r}, the routes need {needed!r} in it, "
            f"and the server refuses to set it: {error}",
            hint=f"set notify-keyspace-events to {merged} in its configuration or parameter group, "
            "or grant +config|set to the engine's user",
        ) from error


def _see_canary(client: Any, redis: RedisSettings, needed: str) -> None:
    """Find out by trying: managed services refuse CONFIG. Write a hash, and see whether its event comes."""
    key = f"{CANARY_PREFIX}{uuid.uuid4().hex}"
    database = parse_url(redis.url).database
    listener = RespConnection.open(redis, name="engine-canary", protocol=2)
    try:
        listener.send(pack(b"SUBSCRIBE", channel_prefix(database) + key.encode()))
        listener.receive()
        client.hset(key, "canary", "1")
        client.expire(key, 10)
        if not _heard(listener, b"hset"):
            raise NotificationsOff(
                f"the server sends no keyspace events, or not those of hashes, and does not allow CONFIG; "
                f"the routes need {needed!r}",
                hint=f"set notify-keyspace-events to {needed} in the server's parameter group",
            )
    finally:
        client.delete(key)
        listener.close()


def _heard(listener: RespConnection, event: bytes) -> bool:
    deadline = time.monotonic() + CANARY_WAIT_S
    while time.monotonic() < deadline:
        while (reply := listener.reply()) is not False:
            if reply[0] == b"message" and reply[2] == event:
                return True
        if not listener.receive_available():
            time.sleep(0.01)
    return False


def _sample(client: Any, keys_max: int) -> list[bytes]:
    if not keys_max or not client.dbsize():
        return []
    pipe = client.pipeline(transaction=False)
    for _ in range(keys_max):
        pipe.randomkey()
    return [key for key in pipe.execute(raise_on_error=False) if isinstance(key, bytes)]


def read_mappings(redis: RedisSettings, prefix: str) -> dict[str, dict[str, str]]:
    """Return the original's mapping hashes, ``{key: fields}``, whose keys begin with this prefix."""
    found: dict[str, dict[str, str]] = {}
    with client_of(redis) as client:
        pattern = glob.escape(prefix.encode()) + b"*"
        for key in client.scan_iter(match=pattern, count=1_000, _type="hash"):
            if len(found) >= MAPPINGS_MAX:
                raise RedisRefused(
                    f"more than {MAPPINGS_MAX} mapping hashes begin with {prefix!r}",
                    hint="choose a prefix of their own for them: META_MAP_SUFFIX",
                )
            fields = client.hgetall(key)
            found[key.decode("utf-8", "surrogateescape")] = {
                name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
                for name, value in fields.items()
            }
    return found
