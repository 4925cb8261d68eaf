"""A real supervisor over stub children, for the process tests; what the stubs do comes as JSON in argv[1]."""

from __future__ import annotations

import json
import select
import sys
import time
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
from engine.lifecycle import ChildLink, Compared, CompareWanted, Drain, MappingChanged, RoutesInForce, SetRoutes, Stop
from engine.ring.counters import ChildState, Counter
from engine.routing.assignment import assign
from engine.routing.nodes import Topology
from engine.routing.routes import RouteTable
from engine.supervision.errands.planner import Answer, Findings, Plan
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
        capture=CaptureSettings(shards=OPTIONS["shards"]),
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
    return Plan(feeds=assign(Topology(), settings.capture.shards), table=table.encode())


def compare(settings: Settings, database: int, table: bytes) -> Answer:
    """Compare nothing, for as long as the test wants."""
    note("comparison begins")
    while OPTIONS.get("comparison_waits") and not (FOLDER / "go").exists():
        time.sleep(0.02)
    note("comparison ends")
    return Findings(0, 0)


def subscriber(duty: Duty, link: ChildLink) -> int:
    """Write the frames that the test wants into the rings, once; then live until drained."""
    assert duty.feeds == assign(Topology(), OPTIONS["shards"])[duty.index]
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
        return run(load(), plan=plan, load=load, mains=Mains(subscriber, invoker), compare=compare)
    except EngineError as error:
        for problem in getattr(error, "problems", None) or (error,):
            print(f"engine: error: {problem}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
