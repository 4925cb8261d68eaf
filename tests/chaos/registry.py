"""The faults: what each needs of its rig, and how it strikes.

A module of faults is any ``tests/chaos/faults_*.py``; the suite imports them all. A fault is a function::

    @fault("redis: connection reset", proxies=("redis",), wait_s=30)
    def connection_reset(run: Run) -> str:
        count = run.redis_proxy.reset_all()
        return f"{count} connections reset" if count else ""

It is called while the writer writes; it strikes, heals, and returns the evidence that it struck. An empty text, or an
exception, means that it did not, and fails the suite. See `Fault` for the options, `tests.chaos.rig.Run` for what a
fault can reach.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from tests.chaos.rig import Run

    Strike = Callable[[Run], str]

Stage = Literal["server", "cluster", "sentinel"]
STAGES: tuple[Stage, ...] = get_args(Stage)

ENGINE_SECRET = "engine-secret"

_faults: dict[str, Fault] = {}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault and the rig that it wants. Everything but ``name`` and ``strike`` has a default."""

    name: str
    strike: Strike

    # The engine.
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Over the rig's, by section and key: ``{"delivery": {"invokers": 1}}``."""
    route: Mapping[str, Any] = field(default_factory=dict)
    """Over the rig's one route: ``{"maximum_retry_attempts": 3}``."""
    more_routes: Sequence[Mapping[str, Any]] = ()
    """Further ``[[routes]]``, each whole; functions are ``dynamodb``, ``accept`` and those of ``functions``."""
    engines: int = 1
    """Engines side by side, each with its own state folder: ``run.engines``."""
    sliced: bool = False
    """Whether each of the engines has a slice of its own; otherwise all have all keys."""
    start_engines: bool = True
    """False: the fault itself calls ``run.engine.start()``."""
    shifted_clock: bool = False
    """Run the engines under a launcher whose clock ``run.engine.shift_clock(seconds)`` moves."""
    engine_environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the engines' processes, as they are at the first start."""
    limits: Mapping[int, int] = field(default_factory=dict)
    """Resource limits of the engines' processes: ``{resource.RLIMIT_FSIZE: 65_536}``."""

    # The function.
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the function."""
    write_mode: Literal["batch", "versioned"] = "batch"
    """``DYNAMO_WRITE_MODE`` of the function."""
    function_timeout_s: float = 3.5
    """When the Lambda runtime ends the function; below ``delivery.invoke_timeout_ms``."""
    concurrency: int = 10
    """Invocations that the Lambda runtime allows at once."""
    functions: Sequence[Any] = ()
    """More `engine.sandbox.functions.runtime.FunctionSpec`; one named ``dynamodb`` takes the place of the rig's."""

    # The server and what is between.
    stage: Stage = "server"
    """What the engine captures: one server, a cluster (``run.cluster``), or what Sentinels watch (``run.watched``)."""
    databases: Sequence[int] = ()
    """Of one server: those that are captured, where there are several. Keys are known as ``3:name`` to the suite."""
    primaries: int = 3
    """Of a cluster."""
    replicas: int = 1
    """Of each primary of a cluster."""
    partitions: bool = False
    """Whether ``run.cluster.partition(node)`` is wanted: all that nodes and clients say goes through proxies."""
    tls: bool = False
    """Whether a cluster has no plain port, and wants certificates of its clients: Debian's Redis alone can."""
    users: Sequence[str] = ()
    """``user`` lines of a cluster, whose default user is off then; the engine is ``engine``, with `ENGINE_SECRET`."""
    only_on: Sequence[str] = ()
    """The servers, by their names in `tests.servers`, that have what it needs; none named: all."""
    not_on: Sequence[str] = ()
    """Servers, by their names in `tests.servers`, that cannot tell of it: a limit that the documents name."""
    server_config: Mapping[str, str] = field(default_factory=dict)
    """``valkey.conf`` over the sandbox's."""
    proxies: Sequence[Literal["redis", "lambda", "dynamo"]] = ()
    """Which of ``run.redis_proxy``, ``run.lambda_proxy``, ``run.dynamo_proxy`` stand between; without, direct."""

    # The load.
    streams: bool = False
    """Whether each change of a key is written together with an entry of a stream that names it: ``changes``, or that
    of the key's tag."""
    tags: int = 0
    """How many hash tags the writer's keys have, each its own slot; 0: none."""
    keys: int = 200
    """Distinct keys that the writer chooses from."""
    key_bytes: int = 0
    """Names of keys are filled up to this length."""
    rate: float = 300.0
    """Changes a second."""
    deletes: float = 0.03
    """The share of changes that are a ``DEL``."""
    warm_s: float = 1.0
    """How long is written before the fault strikes."""
    after_s: float = 0.5
    """How long is written after it has healed."""

    # The verdict.
    wait_s: float = 60.0
    """How long after healing the destination may take to equal the truth."""
    settle_s: float = 0.6
    """For how long it must stay equal: the time in which a late effect could still come."""
    absent: Literal["must_go", "may_stay"] = "must_go"
    """What of keys that are gone from Redis: the destination must forget them, or may still hold a value of theirs."""
    exempt: Callable[[bytes], bool] | None = None
    """Keys that the oracle leaves out: those that can't be stored, such as poison records that are dead-lettered."""

    def is_for(self, server: str) -> bool:
        """Tell whether this server, by its name in `tests.servers`, can show it."""
        if self.partitions and server == "redis-6.2":
            # It has no bind-source-addr, by which nodes are told apart.
            return False
        return server not in self.not_on and (not self.only_on or server in self.only_on)


def fault(name: str, **options: Any) -> Callable[[Strike], Strike]:
    """Register a fault under a unique name; the options are `Fault`'s."""

    def register(strike: Strike) -> Strike:
        assert name not in _faults, f"two faults are named {name!r}"
        _faults[name] = Fault(name=name, strike=strike, **options)
        return strike

    return register


def load() -> list[Fault]:
    """Import every ``faults_*`` module of the package; return all faults in the order of their registration."""
    import tests.chaos as package

    for module in sorted(found.name for found in pkgutil.iter_modules(package.__path__)):
        if module.startswith("faults_"):
            importlib.import_module(f"tests.chaos.{module}")
    return list(_faults.values())
