"""What a fault can reach: a server, a writer, an engine or two, a function, a table, and proxies in between."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import redis

from engine.sandbox.demo import clean_environment
from engine.sandbox.dynamodb import DynamoDbServer
from engine.sandbox.functions.runtime import ACCEPT, FunctionSpec, LambdaRuntime
from engine.sandbox.stack import child_environment, sandbox_environment
from engine.sandbox.valkey import ValkeyServer
from tests.chaos.engine_process import EngineProcess
from tests.chaos.oracle import Item, read_items
from tests.chaos.registry import Fault
from tests.chaos.sites import ClusterSite, OneServer, SentinelSite, site_of
from tests.chaos.writer import Writer
from tests.cluster import Cluster, Watched
from tests.servers import chosen_binary

FUNCTION = "dynamodb"

SETTINGS: dict[str, dict[str, Any]] = {
    "redis": {"connect_timeout_ms": 1_000, "read_timeout_ms": 2_000},
    "capture": {"shards": 2, "repair_keys_per_s_max": 100_000, "deletions_found_share_max": 1.0},
    "delivery": {
        "invokers": 2,
        "connect_timeout_ms": 1_000,
        "invoke_timeout_ms": 4_000,
        "deadline_ms": 2_000,
        "deadline_margin_ms": 1_000,
        "retry_backoff_ms_max": 500,
    },
    "supervision": {
        "heartbeat_timeout_s": 5.0,
        "restart_backoff_ms_min": 50,
        "restart_backoff_ms_max": 500,
        "drain_timeout_s": 10.0,
        "ready_timeout_s": 50.0,
        "checkpoint_interval_ms": 200,
    },
}
"""Small waits and quick looks, so that a fault passes in seconds; all else is as users have it."""

FUNCTION_SETTINGS = {
    "DYNAMO_CONNECT_TIMEOUT_MS": "300",
    "DYNAMO_READ_TIMEOUT_MS": "500",
    "DYNAMO_LATE_EFFECT_MS": str(SETTINGS["delivery"]["deadline_margin_ms"]),
}
"""As the function's README wants them for such a margin."""

ROUTE: dict[str, Any] = {
    "name": "all",
    "function": FUNCTION,
    "keys": ["*"],
    "events": ["*", "del", "expired", "rename_from"],
}


class NotStruck(Exception):
    """The fault did not come about: what follows proves nothing."""


class Run:
    """One round of one fault; a context manager, in which everything is up. The writer is started by the suite."""

    def __init__(self, fault: Fault, name: str, seed: int, dynamodb: DynamoDbServer, folder: Path) -> None:
        self.fault = fault
        self.seed = seed
        self.folder = folder
        self.table = name
        self.rng = random.Random(seed)
        self.dynamodb = dynamodb
        self.site = site_of(fault)
        self.journal = folder / "journal.jsonl"
        ours = self._function()
        specs = {FUNCTION: ours, ACCEPT: FunctionSpec(ACCEPT, ACCEPT)} | {
            spec.name: dataclasses.replace(spec, environment={**ours.environment, **spec.environment})
            for spec in fault.functions
        }
        self.runtime = LambdaRuntime(list(specs.values()), journal=self.journal, journal_payloads=True)
        self.engines: list[EngineProcess] = []
        self.writer = Writer(
            self.site.link,
            random.Random(self.rng.random()),
            keys=fault.keys,
            rate=fault.rate,
            deletes=fault.deletes,
            key_bytes=fault.key_bytes,
            databases=fault.databases,
            tags=fault.tags,
        )
        self.redis_proxy: Any = None
        self.lambda_proxy: Any = None
        self.dynamo_proxy: Any = None
        self.healed_s = 0.0
        self._table_client = dynamodb.client()
        self._stack = contextlib.ExitStack()

    def _function(self) -> FunctionSpec:
        fault = self.fault
        ours = {"DYNAMO_TABLE": self.table, "DYNAMO_WRITE_MODE": fault.write_mode}
        ours["DYNAMO_DATABASE_IN_KEY"] = "on" if fault.databases else "off"
        environment = ours | FUNCTION_SETTINGS | dict(fault.environment)
        return FunctionSpec(
            FUNCTION,
            "lambdas.dynamodb.handler:handler",
            concurrency_max=fault.concurrency,
            timeout_s=fault.function_timeout_s,
            environment=environment,
        )

    @property
    def engine(self) -> EngineProcess:
        """Return the first engine."""
        return self.engines[0]

    # For faults

    @property
    def _one(self) -> OneServer:
        assert isinstance(self.site, OneServer)
        return self.site

    @property
    def server(self) -> ValkeyServer:
        """Return the one server, where the fault's stage is that."""
        return self._one.server

    @property
    def cluster(self) -> Cluster:
        """Return the cluster; the fault's stage is one."""
        assert isinstance(self.site, ClusterSite)
        return self.site.cluster

    @property
    def watched(self) -> Watched:
        """Return the servers that Sentinels watch; the fault's stage is that."""
        assert isinstance(self.site, SentinelSite)
        return self.site.watched

    def client(self, port: int = 0) -> Any:
        """Return a redis client (bytes in, bytes out) of the current primary, or of this port; not through the proxy.

        For looking and for administration. What changes keys goes through ``run.writer.execute``.
        """
        client = redis.Redis(port=port or self._one.port, protocol=2, socket_timeout=10)
        self._stack.callback(client.close)
        return client

    def more_server(self, **config: str) -> ValkeyServer:
        """Start another server (options with ``_`` for ``-``); it is stopped with the run."""
        server = ValkeyServer(
            binary=chosen_binary(), config={name.replace("_", "-"): value for name, value in config.items()}
        )
        self._stack.callback(server.close)
        return server.start()

    def use_primary(self, port: int) -> None:
        """From now on the writer writes to, and the oracle reads from, the server on this port."""
        self._one.port = port
        self.writer.reconnect()

    def sleep(self, seconds: float) -> None:
        """Let things happen; the writer goes on."""
        time.sleep(seconds)

    def wait(self, condition: Callable[[], Any], what: str, wait_s: float = 20.0) -> Any:
        """Poll until the condition is true and return it; raise NotStruck("what did not come about") after the time."""
        deadline = time.monotonic() + wait_s
        while not (result := condition()):
            if time.monotonic() > deadline:
                raise NotStruck(f"did not come about within {wait_s:g} s: {what}")
            time.sleep(0.03)
        return result

    def healed(self) -> None:
        """Note that the fault is over from now on; without this, it is when the fault function returns."""
        self.healed_s = time.monotonic()

    def cleanup(self, action: Callable[[], Any]) -> None:
        """Have this done at the end of the round, whatever happens (last in, first out)."""
        self._stack.callback(action)

    def stop_functions(self) -> None:
        """End the Lambda runtime, with what it is doing: connections to it are refused."""
        self.runtime.kill()

    def start_functions(self) -> None:
        """Start the Lambda runtime again, on its port; it goes on with its journal."""
        self.runtime.start()

    def items(self) -> dict[bytes, Item]:
        """Return what the destination holds now, as the oracle reads it."""
        return read_items(self._table_client, self.table)

    def forget(self, key: bytes) -> None:
        """Remove a key's item from the destination, behind everybody's back; its name is text."""
        self._table_client.delete_item(TableName=self.table, Key={"id": {"S": key.decode()}})

    def invocations(self) -> list[dict[str, Any]]:
        """Return the Lambda runtime's journal so far: ``started_ns``, ``ended_ns``, ``status``, ``error``, ``event``.

        The empty batches, by which an engine asks before it starts, are left out.
        """
        if not self.journal.exists():
            return []
        lines = self.journal.read_bytes().split(b"\n")[:-1]
        return [one for one in map(json.loads, lines) if one["records"]]

    # Up and down

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._stack.close)
            self._start()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        """Start everything side by side; the engines come last, to keys that are there already."""
        self._stack.callback(self._table_client.close)
        self.site.start(self._stack)
        listener = self.runtime.bind()
        dynamodb_endpoint = self.dynamodb.endpoint
        if "dynamo" in self.fault.proxies:
            self.dynamo_proxy = self._http_proxy(dynamodb_endpoint)
            dynamodb_endpoint = self.dynamo_proxy.endpoint
        self.runtime.environment.update(sandbox_environment(dynamodb_endpoint=dynamodb_endpoint))
        self._stack.callback(self.runtime.kill)
        self.runtime.launch(listener)
        self.dynamodb.create_table(self.table)
        self.site.wait_ready()
        self.writer.preload()
        self._stack.callback(self.writer.stop)
        self.runtime.wait_ready()
        self._make_engines(dynamodb_endpoint)
        if self.fault.start_engines:
            for engine in self.engines:
                engine.launch()
            for engine in self.engines:
                engine.wait_ready()

    def _http_proxy(self, endpoint: str) -> Any:
        from tests.chaos.proxies.http_proxy import HttpFaultProxy

        return self._stack.enter_context(HttpFaultProxy(endpoint))

    def _make_engines(self, dynamodb_endpoint: str) -> None:
        url, lambda_endpoint = self.site.url(), self.runtime.endpoint
        if "redis" in self.fault.proxies:
            from tests.chaos.proxies.redis_proxy import RedisProxy

            self.redis_proxy = self._stack.enter_context(RedisProxy(self._one.port))
            url = f"redis://127.0.0.1:{self.redis_proxy.port}/0"
        if "lambda" in self.fault.proxies:
            self.lambda_proxy = self._http_proxy(lambda_endpoint)
            lambda_endpoint = self.lambda_proxy.endpoint
        ours = sandbox_environment(lambda_endpoint=lambda_endpoint, dynamodb_endpoint=dynamodb_endpoint)
        environment = clean_environment(child_environment(os.environ, ours))
        in_key = "?database_in_key=on" if self.fault.databases else ""
        for number in range(self.fault.engines):
            folder = self.folder / f"engine-{number + 1}"
            engine = EngineProcess(
                folder,
                self._settings(folder, url, number),
                [
                    ROUTE | {"destination": f"dynamodb://{self.table}{in_key}"} | dict(self.fault.route),
                    *self.fault.more_routes,
                ],
                environment | dict(self.fault.engine_environment),
                limits=self.fault.limits,
                shifted_clock=self.fault.shifted_clock,
            )
            engine.write_config()
            self.engines.append(engine)
            self._stack.callback(engine.kill_all)

    def _settings(self, folder: Path, redis_url: str, number: int) -> dict[str, dict[str, Any]]:
        settings = {section: dict(keys) for section, keys in SETTINGS.items()}
        settings["redis"] |= {"url": redis_url, **self.site.access(self.folder)}
        settings["delivery"]["backlog_folder"] = str(folder / "backlog")
        settings["delivery"]["dead_letter_file"] = str(folder / "dead_letters.jsonl")
        settings["supervision"]["status_file"] = str(folder / "status.json")
        settings["supervision"]["checkpoint_file"] = str(folder / "checkpoint")
        if self.fault.sliced:
            settings["capture"]["slice"] = f"{number}/{self.fault.engines}"
        for section, keys in self.fault.settings.items():
            settings.setdefault(section, {}).update(keys)
        return settings
