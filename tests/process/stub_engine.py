"""A real supervisor over stub children, for the process tests; what the stubs do comes as JSON in argv[1]."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.clock import monotonic_ms
from engine.config import (
    CaptureSettings,
    DeliverySettings,
    RingSettings,
    RouteSettings,
    Settings,
    SupervisionSettings,
)
from engine.errors import EngineError, RedisUnreachable
from engine.lifecycle import (
    ChildLink,
    Compared,
    CompareWanted,
    Drain,
    MappingChanged,
    RoutesInForce,
    SetFeeds,
    SetRoutes,
    SetTopology,
    Stop,
    TopologyChanged,
    TopologyInForce,
)
from engine.ring.counters import ChildState, Counter
from engine.routing.assignment import assign
from engine.routing.feeds import Feed
from engine.routing.nodes import SLOTS, Node, Topology
from engine.routing.routes import RouteTable
from engine.supervision.errands.planner import Answer, Findings, Nodes, Plan
from engine.supervision.mains import Duty, Mains
from engine.supervision.supervisor import run

OPTIONS: dict[str, Any] = json.loads(sys.argv[1])
FOLDER = Path(OPTIONS["folder"])
TURN_MS = 20


def note(line: str) -> None:
    """Append a line to the journal that the test reads; one write, so lines stay whole."""
    with (FOLDER / "journal").open("a") as file:
        file.write(line + "\n")


def load() -> Settings:
    """Return the settings; routes come from a file that a test may change."""
    names = json.loads((FOLDER / "routes").read_text())
    if not isinstance(names, list):
        raise EngineError("the routes are no list", hint="write a list")
    return Settings(
        capture=CaptureSettings(shards=OPTIONS["shards"], **OPTIONS.get("capture", {})),
        delivery=DeliverySettings(
            invokers=OPTIONS["invokers"],
            backlog_folder=str(FOLDER / "backlog"),
            dead_letter_file=str(FOLDER / "dead_letters.jsonl"),
            deadline_ms=200,
            deadline_margin_ms=100,
        ),
        ring=RingSettings(ring_bytes=65_536, frame_bytes_max=4_096),
        supervision=SupervisionSettings(
            status_file=str(FOLDER / "status.json"),
            checkpoint_file=str(FOLDER / "checkpoint"),
            restart_backoff_ms_min=20,
            **OPTIONS["limits"],
        ),
        routes=tuple(RouteSettings(name=name, function="f") for name in names),
    )


def plan(settings: Settings, previous: bytes | None) -> Answer:
    """Plan without servers."""
    if OPTIONS.get("planner") == "refuses":
        raise RedisUnreachable("nobody answers at 127.0.0.1:1", hint="is the server running?")
    if OPTIONS.get("planner") == "hangs":
        time.sleep(600)
    if OPTIONS.get("planner") == "crashes":
        raise RuntimeError("a bug")
    table = RouteTable.build(settings.routes, RouteTable.decode(previous) if previous else None)
    topology = topology_of()
    node_ms = {node.id: 0 for node in topology.nodes}
    return Plan(assign(topology, settings.capture.shards), table.encode(), topology, node_ms=node_ms)


def topology_of() -> Topology:
    """Return the nodes whose names are in a file that a test may change; one server where there is none."""
    if not (FOLDER / "nodes").exists():
        return Topology()
    names = (FOLDER / "nodes").read_text().split()
    if not names:
        raise RedisUnreachable("the cluster does not answer")
    bounds = [SLOTS * number // len(names) for number in range(len(names) + 1)]
    nodes = [
        Node(number, name, f"{name}:1", ((bounds[number], bounds[number + 1] - 1),))
        for number, name in enumerate(names)
    ]
    return Topology(tuple(nodes), is_cluster=True, version=1)


def ask(settings: Settings, database: int, before: Nodes) -> Answer:
    """Ask for the nodes without servers."""
    topology = topology_of()
    return Nodes(topology, assign(topology, len(before.feeds), before=before.feeds), before.epoch)


def compare(settings: Settings, database: int, table: bytes) -> Answer:
    """Compare nothing, for as long as the test wants."""
    note("comparison begins")
    while OPTIONS.get("comparison_waits") and not (FOLDER / "go").exists():
        time.sleep(0.02)
    note("comparison ends")
    return Findings(0, 0)


def subscriber(duty: Duty, link: ChildLink) -> int:
    """Write the frames that the test wants into the rings, once; then live until drained."""
    note(f"subscriber {duty.index} has {nodes_in_words(duty.feeds)}")
    misbehave("subscriber", duty, link)
    if duty.missed:
        link.row.add(Counter.GAPS, 1)
    elif OPTIONS.get("frames"):
        for invoker, wake in enumerate(duty.wakes):
            writer = duty.rings.ring(duty.index, invoker).writer()
            for number in range(OPTIONS["frames"]):
                assert writer.offer(f"{duty.index}>{invoker}:{number}".encode())
            wake.signal()
    name = f"subscriber {duty.index}"
    wishes = 0
    while not live(name, link):
        if wishes < OPTIONS.get("wishes", 0):
            wishes += 1
            link.report(CompareWanted(wishes))
        if (FOLDER / f"moved {duty.index}").exists():
            (FOLDER / f"moved {duty.index}").unlink()
            link.report(TopologyChanged("a slot has moved"))
        if OPTIONS.get("mapping_file") and (FOLDER / "mapping").exists():
            (FOLDER / "mapping").unlink()
            link.report(MappingChanged())
            link.report(MappingChanged())
    return 0


def invoker(duty: Duty, link: ChildLink) -> int:
    """Settle a frame a turn, when the test lets it; drained once the rings are empty."""
    misbehave("invoker", duty, link)
    readers = [duty.rings.ring(shard, duty.index).reader() for shard in range(OPTIONS["shards"])]
    draining = False
    while True:
        draining = live(f"invoker {duty.index}", link) or draining
        if OPTIONS.get("invoker_waits") and not (draining and (FOLDER / "go").exists()):
            continue
        frames = [(reader, frame) for reader in readers if (frame := reader.read())]
        if draining and not frames:
            link.set_state(ChildState.DRAINED)
            return 0
        for reader, (payload, end) in frames:
            note(f"settled {payload.decode()}")
            reader.release(end)


def live(name: str, link: ChildLink) -> bool:
    """Do one turn; return True when told to drain."""
    poller = select.poll()
    poller.register(link.fileno(), select.POLLIN)
    poller.poll(TURN_MS)
    link.beat(monotonic_ms())
    draining = False
    for command in link.commands():
        if isinstance(command, SetRoutes):
            table = RouteTable.decode(command.table)
            note(f"{name} routes {','.join(route.name for route in table.routes.values())}")
            link.report(RoutesInForce(table.version))
        elif isinstance(command, SetFeeds | SetTopology):
            take_topology(name, command, link)
        elif isinstance(command, Compared):
            note(f"{name} has {command.number}")
        elif isinstance(command, Stop):
            sys.exit(0)
        elif isinstance(command, Drain):
            note(f"{name} drains")
            draining = True
    if link.row.state is ChildState.STARTING:
        link.set_state(ChildState.READY)
    return draining


def take_topology(name: str, command: SetFeeds | SetTopology, link: ChildLink) -> None:
    """Take in feeds or nodes; the first time the test may want this child not to."""
    feeds = isinstance(command, SetFeeds)
    version = command.version if isinstance(command, SetFeeds) else command.topology.version
    words = nodes_in_words(command.feeds) if isinstance(command, SetFeeds) else ids_in_words(command.topology.nodes)
    note(f"{name} {'feeds' if feeds else 'nodes'} {words}")
    if (FOLDER / f"ignores {name}").exists():
        (FOLDER / f"ignores {name}").unlink()
        return
    link.report(TopologyInForce(version))


def nodes_in_words(feeds: Sequence[Feed]) -> str:
    """Return the names of the feeds' nodes, with their numbers."""
    return ids_in_words([feed.node for feed in feeds])


def ids_in_words(nodes: Sequence[Node]) -> str:
    return ",".join(sorted(f"{node.id}{node.number}" for node in nodes))


def misbehave(role: str, duty: Duty, link: ChildLink) -> None:
    """Fail, crash or hang at the start, where the test wants this child to."""
    wanted = OPTIONS.get("misbehave", {}).get(f"{role} {duty.index}")
    if wanted == "fails":
        raise EngineError("the stub cannot start", hint="ask the test")
    if wanted == "crashes":
        raise RuntimeError("a bug")
    while wanted == "hangs":
        link.beat(monotonic_ms())
        time.sleep(0.05)


def main() -> int:
    """Run the supervisor as the command line does."""
    try:
        mains, file = Mains(subscriber, invoker), str(FOLDER / "routes")
        return run(load(), plan=plan, load=load, mains=mains, compare=compare, ask=ask, file=file)
    except EngineError as error:
        for problem in getattr(error, "problems", None) or (error,):
            print(f"engine: error: {problem}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
