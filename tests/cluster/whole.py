"""A cluster: nodes that know each other, failovers, nodes that come and go."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot

from engine.routing.nodes import SLOTS, slots_in
from engine.sandbox import ports
from tests.cluster import moves
from tests.cluster.net import Net
from tests.cluster.nodes import ADMIN, SECRET, WAIT_S, Known, Node, wait_until
from tests.cluster.start import Config, StartNode
from tests.cluster.tls import tls_config, tls_options
from tests.servers import chosen
from tests.tls_proxy import make_certificates

NODE_TIMEOUT_MS = 1_500
_FAILOVER_S_MAX = 6.0

Failover = Literal["kill", "stop", "CLUSTER FAILOVER", "CLUSTER FAILOVER FORCE", "CLUSTER FAILOVER TAKEOVER"]
Migration = Literal["migrate", "migrateslots"]


class Cluster:
    """Made by `cluster`. ``nodes`` are all, also those that were killed."""

    def __init__(self, start_node: StartNode) -> None:
        self.nodes: list[Node] = []
        self.net = start_node.net
        self.options = start_node.options
        """How clients connect: user, password, TLS."""
        self.is_old = start_node.is_old
        self._start_node = start_node
        self._clients: list[Any] = []

    # Looking

    @property
    def url(self) -> str:
        """Return a URL for clients that find the other nodes by themselves: that of a node that runs."""
        scheme = "rediss" if "ssl" in self.options else "redis"
        user = f"{ADMIN}:{SECRET}@" if "username" in self.options else ""
        return f"{scheme}://{user}{self.alive()[0].address}"

    def client(self, **options: Any) -> RedisCluster:
        """Return redis-py's client of the whole cluster (bytes out); it is closed with the cluster."""
        nodes = [ClusterNode(ports.HOST, node.announced_port) for node in self.alive()]
        made = RedisCluster(startup_nodes=nodes, **{"socket_timeout": 5, **self.options, **options})
        self._clients.append(made)
        return made

    def alive(self) -> list[Node]:
        """Return the nodes that run, and are not halted."""
        return [node for node in self.nodes if node.is_alive]

    def node(self, id: str) -> Node:
        """Return a node by its id."""
        return next(node for node in self.nodes if node.id == id)

    def primaries(self) -> list[Node]:
        """Return the primaries that run, with slots or without."""
        known = self.known()
        return [node for node in self.alive() if node.id in known and known[node.id].is_primary]

    def replicas_of(self, primary: Node) -> list[Node]:
        """Return the replicas of a node that run."""
        known = self.known()
        return [node for node in self.alive() if node.id in known and known[node.id].primary_id == primary.id]

    def slots_of(self, node: Node) -> tuple[tuple[int, int], ...]:
        """Return a node's slots, as ranges."""
        return self.known()[node.id].slots

    def owner_of(self, key: bytes) -> Node:
        """Return the node that has this key's slot."""
        slot = key_slot(key)
        return self.node(next(id for id, known in self.known().items() if slot in slots_in(known.slots)))

    def known(self) -> dict[str, Known]:
        """Return what the node knows that has seen the highest epoch: one that was left behind learns of it late."""
        return max(self.alive(), key=lambda node: int(node.info()["cluster_current_epoch"])).known()

    def wait_until_ok(self, wait_s: float = WAIT_S) -> None:
        """Return when all that run agree on who has which slots, all slots are served, and replicas follow."""
        wait_until(self.is_ok, "the cluster is well", wait_s)

    def is_ok(self) -> bool:
        """Tell whether all is as `wait_until_ok` waits for."""
        ids = {node.id for node in self.alive()}
        views = []
        for node in self.alive():
            known = node.known()
            if node.info()["cluster_state"] != "ok" or not ids <= known.keys():
                return False
            ours = [known[id] for id in sorted(ids)]
            if any({"fail", "fail?", "handshake"} & one.flags or not one.is_linked for one in ours):
                return False
            if known[node.id].primary_id and node.client.info("replication")["master_link_status"] != "up":
                return False
            views.append([(one.id, one.primary_id, one.slots) for one in ours])
        return all(view == views[0] for view in views)

    # Nodes that come and go

    def add_node(self, *, replica_of: Node | None = None, config: Config | None = None) -> Node:
        """Start one more, a primary without slots or a replica, and return it when all know it and all is well."""
        node = self._start(config or {})
        for other in self.primaries():
            self._meet(other, node)
        self._wait_until_known()
        if replica_of is not None:
            self._replicate(node, replica_of)
        self.wait_until_ok()
        return node

    def remove_node(self, node: Node) -> None:
        """End a node that has no slots (any more), and have the others forget it."""
        # A node that is forgotten while another still believes it to be an owner leaves slots without one, for good.
        self.wait_until_ok()
        assert not self.slots_of(node), "it still has slots"
        node.kill()
        for other in self.alive():
            other.call("CLUSTER", "FORGET", node.id)
        self.nodes.remove(node)
        node.close()
        self.wait_until_ok()

    def _start(self, config: Config) -> Node:
        node = self._start_node(config)
        self.nodes.append(node)
        return node

    def _meet(self, node: Node, other: Node) -> None:
        bus = [] if self.is_old else [other.announced_bus_port]
        node.call("CLUSTER", "MEET", ports.HOST, other.announced_port, *bus)

    def _wait_until_known(self) -> None:
        ids = {one.id for one in self.alive()}
        wait_until(
            lambda: all(
                ids <= {id for id, known in one.known().items() if "handshake" not in known.flags}
                for one in self.alive()
            ),
            "all know each other",
        )

    def _replicate(self, node: Node, primary: Node) -> None:
        wait_until(lambda: node.call("CLUSTER", "REPLICATE", primary.id), "it becomes a replica")

    def kill(self, node: Node) -> None:
        """End a node with SIGKILL."""
        node.kill()

    def restart(self, node: Node) -> None:
        """Start a node again that was ended: it knows who it is; what it held is lost, unless ``appendonly``."""
        node.server.start()

    def stop(self, node: Node) -> None:
        """Halt a node (SIGSTOP)."""
        node.stop()

    def cont(self, node: Node) -> None:
        """Have a halted node go on."""
        node.cont()

    def failover(self, primary: Node, how: Failover = "kill") -> Node:
        """Have a replica take a primary's place; return it. With "kill" and "stop" the old one stays away."""
        replica = wait_until(lambda: self._followers(primary), "a replica follows")[0]
        match how:
            case "kill":
                primary.kill()
            case "stop":
                primary.stop()
            case _:
                self._order(replica, how)
        self.wait_until_led_by(replica)
        return replica

    def _followers(self, primary: Node) -> list[Node]:
        replicas = self.replicas_of(primary)
        return [one for one in replicas if one.client.info("replication").get("master_link_status") == "up"]

    def _order(self, replica: Node, how: str) -> None:
        """Order a failover, and again if it comes to nothing: a server gives one up after five seconds."""
        deadline = time.monotonic() + WAIT_S
        while not self._is_led_by(replica):
            assert time.monotonic() < deadline, f"{how} came to nothing"
            with contextlib.suppress(redis.ResponseError):  # it leads by now
                replica.call(*how.split())
            with contextlib.suppress(AssertionError):
                wait_until(lambda: self._is_led_by(replica), how, _FAILOVER_S_MAX)

    def wait_until_led_by(self, replica: Node) -> None:
        """Return when all that run take this node for a primary with slots."""
        wait_until(lambda: self._is_led_by(replica), "the replica takes over")

    def _is_led_by(self, replica: Node) -> bool:
        views = [node.known()[replica.id] for node in self.alive()]
        return all(known.is_primary and known.slots for known in views)

    def wait_until_replaced(self, primary: Node) -> None:
        """Return when no node that runs believes that this one has slots, and all slots are served."""

        def is_replaced() -> bool:
            return all(
                not node.known()[primary.id].slots and node.info()["cluster_state"] == "ok" for node in self.alive()
            )

        wait_until(is_replaced, "another node has its slots")

    # Slots

    def move_slots(self, slots: Iterable[int], source: Node, target: Node, how: Migration = "migrate") -> None:
        """Move slots with all that is in them, by ``SETSLOT`` and ``MIGRATE`` or Valkey 9's ``MIGRATESLOTS``."""
        if how == "migrateslots":
            moves.migrate_slots(slots, source, target)
        else:
            others = [node for node in self.primaries() if node not in (source, target)]
            # One that has not heard of the owner's epoch may claim with a lower one: then gossip takes the slots back.
            wait_until(
                lambda: target.known()[source.id].epoch == source.known()[source.id].epoch, "the target knows the epoch"
            )
            for slot in slots:
                moves.move_slot(slot, source, target, others, with_user="username" in self.options)

    def partition(self, *nodes: Node, clients: bool = True, peers: bool = True) -> None:
        """Cut these nodes off from all others and from clients, or from either (``proxied=True``)."""
        assert self.net is not None, "partitions need a cluster that was made with proxied=True"
        self.net.isolate([node.port for node in nodes], clients=clients, peers=peers)

    def heal(self) -> None:
        """End all partitions: what was on its way arrives late, as TCP has it."""
        assert self.net is not None
        self.net.heal()

    def shift_clock(self, node: Node, seconds: int) -> None:
        """Have a node tell clients another time by so much (``proxied=True``)."""
        assert self.net is not None
        self.net.shift_clock(node.port, seconds)

    # Its life

    def create(self, primaries: int, replicas: int) -> None:
        """Start the nodes, deal the slots evenly, and return when all is well."""
        for number in range(primaries * (1 + replicas)):
            self._start({}).call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first = self.nodes[:primaries]
        for number, node in enumerate(first):
            mine = (SLOTS * number // primaries, SLOTS * (number + 1) // primaries - 1)
            moves.assign(node, mine, one_by_one=self.is_old)
        for node, other in itertools.combinations(self.nodes, 2):
            self._meet(node, other)
        self._wait_until_known()
        for number, node in enumerate(self.nodes[primaries:]):
            self._replicate(node, first[number % primaries])
        self.wait_until_ok()

    def close(self) -> None:
        """End all that was started."""
        for client in self._clients:
            with contextlib.suppress(redis.RedisError, OSError):
                client.close()
        for node in self.nodes:
            node.close()
        if self.net is not None:
            self.net.close()


@contextmanager
def cluster(
    server: str | Path = "valkey-9.1",
    *,
    primaries: int = 3,
    replicas: int = 0,
    tls: bool = False,
    users: bool | Sequence[str] = False,
    config: Config | None = None,
    node_timeout_ms: int = NODE_TIMEOUT_MS,
    proxied: bool = False,
) -> Iterator[Cluster]:
    """Yield a cluster that is well; the test is skipped where the server, or a part of it, can't be had.

    ``server`` is a name of `tests.servers`, or a binary. ``replicas`` is of each primary. ``tls`` (Debian's Redis alone
    has it): no port is plain, and clients need a certificate; `Cluster.options` has what they need. ``users``: the
    default user is off, ``admin`` may do everything; further ones are given as ``user`` lines: ``e on >pw ~* +@read``.
    ``proxied``: what clients and nodes are told are addresses of proxies, so that `Cluster.partition` can cut them.
    """
    binary, name = _binary_of(server)
    is_old = name.partition("-")[2] < "7.0" and name.startswith("redis")
    with contextlib.ExitStack() as stack:
        ours: dict[str, str | Sequence[str]] = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(node_timeout_ms),
            # Nodes change roles when a test says so, and not because they were left without slots.
            "cluster-allow-replica-migration": "no",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
        }
        options: dict[str, Any] = {}
        if users is not False:
            more = [] if users is True else list(users)
            ours |= {"user": ["default off", f"{ADMIN} on >{SECRET} ~* &* +@all", *more]}
            ours |= {"masteruser": ADMIN, "masterauth": SECRET}
            options |= {"username": ADMIN, "password": SECRET}
        if tls:
            if name != "redis-7.0":
                pytest.skip(f"{name} is built without TLS")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-"))
            certificates = make_certificates(Path(folder))
            ours |= tls_config(certificates)
            options |= tls_options(certificates)
        net = stack.enter_context(contextlib.closing(Net())) if proxied else None
        made = Cluster(StartNode(binary, {**ours, **(config or {})}, options, is_old=is_old, net=net))
        stack.callback(made.close)
        made.create(primaries, replicas)
        yield made


def _binary_of(server: str | Path) -> tuple[Path, str]:
    known = chosen()
    if isinstance(server, Path):
        return server, next((name for name, path in known.items() if path == server), "valkey-9.1")
    if server not in known:
        pytest.skip(f"{server} is not here: `make servers`")
    return known[server], server
