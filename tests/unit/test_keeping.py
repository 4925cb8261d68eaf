"""The supervisor's part in losing nothing: what a start takes from the checkpoint of the engine before it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.clock import monotonic_ms
from engine.config import RouteSettings, Settings
from engine.model import Watermark
from engine.routing.assignment import assign
from engine.routing.nodes import Node, Topology
from engine.routing.routes import RouteTable
from engine.supervision.children import Child, Role
from engine.supervision.errands.planner import Plan
from engine.supervision.memory import SharedMemory
from engine.supervision.progress.checkpoint import FORMAT, Checkpoint, CheckpointFile, NodeKept
from engine.supervision.progress.keeping import Keeper, fence_after_ms

SCOPE = "redis 1"
BEFORE = Checkpoint(SCOPE, 40_000, 7, 1_000, ("carts",))


def keeper(folder: Path, found: Checkpoint | None, settings: Settings) -> Keeper:
    file = CheckpointFile(str(folder / "checkpoint"))
    if found is not None:
        assert file.write(found) == ""
    table = RouteTable.build([RouteSettings(name="carts", function="f")])
    plan = Plan(feeds=assign(Topology(), 1), table=table.encode(), scope=SCOPE, server_ms=50_000)
    return Keeper(settings, plan, SharedMemory(1, settings.delivery.invokers, 1 << 16), file)


@pytest.fixture
def settings() -> Settings:
    settings = Settings()
    return msgspec.structs.replace(settings, delivery=msgspec.structs.replace(settings.delivery, invokers=1))


def test_a_start_after_a_crash_waits_for_what_may_still_write(tmp_path: Path, settings: Settings) -> None:
    """Nobody knows what was in flight: nothing goes out before an invocation of then has come to its deadline."""
    began_ms = monotonic_ms()
    fence_ms = keeper(tmp_path, BEFORE, settings).fence_ms
    assert fence_ms >= began_ms + fence_after_ms(settings, (RouteSettings(name="carts", function="f"),))


@pytest.mark.parametrize("found", [None, msgspec.structs.replace(BEFORE, is_clean=True)], ids=["first", "drained"])
def test_a_start_with_nothing_in_flight_waits_for_nobody(
    tmp_path: Path, settings: Settings, found: Checkpoint | None
) -> None:
    """A first start, and one after a drain, deliver at once."""
    assert keeper(tmp_path, found, settings).fence_ms == 0


def test_a_fence_after_a_crash_is_as_long_as_it_was_for_what_was_in_flight(tmp_path: Path, settings: Settings) -> None:
    """Invocations of an engine with a deadline of 60 s may write for 64 s, whatever the settings of its successor say;
    where a checkpoint does not know, the settings of now count.
    """
    long, short = (with_deadline(settings, deadline_ms) for deadline_ms in (60_000, 1_000))
    keeper(tmp_path, None, long).keep(is_clean=False)
    successor = keeper(tmp_path, None, short)
    assert 60_000 < successor.fence_ms - monotonic_ms() <= 64_000
    successor.keep(is_clean=False)
    # The fence of the first is in force yet: who comes third waits for it too.
    assert 60_000 < keeper(tmp_path, None, short).fence_ms - monotonic_ms() <= 64_000
    assert 0 < keeper(tmp_path, BEFORE, short).fence_ms - monotonic_ms() <= 5_000


def with_deadline(settings: Settings, deadline_ms: int) -> Settings:
    delivery = msgspec.structs.replace(settings.delivery, deadline_ms=deadline_ms, deadline_margin_ms=4_000)
    return msgspec.structs.replace(settings, delivery=delivery)


def test_each_start_says_which_state_it_found(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first start says that it is one, and where it looked; a later one where its checkpoint is and how old."""
    (tmp_path / ".engine").mkdir()
    (tmp_path / ".engine" / "checkpoint").touch()
    monkeypatch.chdir(tmp_path)
    file = str(tmp_path / "checkpoint")
    supervision = msgspec.structs.replace(settings.supervision, checkpoint_file=file)
    placed = msgspec.structs.replace(settings, supervision=supervision)
    keeper(tmp_path, None, placed).keep(is_clean=True)
    first = capsys.readouterr().out
    assert "first_start" in first and file in first
    assert "older_state" in first and str(tmp_path / ".engine" / "checkpoint") in first
    keeper(tmp_path, None, placed)
    later = capsys.readouterr().out
    assert "resumed" in later and file in later and "age_s=0" in later
    assert "first_start" not in later


@pytest.mark.parametrize(("heard_mark", "kept_mark"), [(7, 7), (8, 0), (0, 0)])
def test_a_mark_is_kept_only_where_it_still_holds(
    tmp_path: Path, settings: Settings, heard_mark: int, kept_mark: int
) -> None:
    """What is settled is older than what was heard: another mark since, as after a clock that was set, ends its own."""
    memory = SharedMemory(1, 1, 1 << 16)
    file = CheckpointFile(str(tmp_path / "checkpoint"))
    table = RouteTable.build([RouteSettings(name="carts", function="f")])
    kept = Keeper(
        settings, Plan(feeds=assign(Topology(), 1), table=table.encode(), scope=SCOPE, server_ms=50_000), memory, file
    )
    memory.rings.ring(0, 0).reader().set_watermark(Watermark(60_000, 7))
    memory.heard.row(0).set(0, 60_000, heard_mark, 1_000_000)
    kept.keep(is_clean=False)
    found, _ = file.load()
    assert found is not None
    assert (found.watermark_ms, found.server_mark) == (60_000, kept_mark)
    assert found.clocks.server_ahead_ms() == 1_000_000


@pytest.mark.parametrize(
    ("members", "is_resumed"), [(("new", "a"), True), (("new",), False), ((), False)], ids=["replica", "other", "one"]
)
def test_a_cluster_is_known_by_its_nodes(
    tmp_path: Path, settings: Settings, members: tuple[str, ...], is_resumed: bool
) -> None:
    """A checkpoint is found whichever node the URL names today, and though its primaries are replicas now: by ids."""
    file = CheckpointFile(str(tmp_path / "checkpoint"))
    kept = Checkpoint("seed:1/0 slice 0/2", format=FORMAT, nodes={"a": NodeKept(40_000)}, version=7)
    assert file.write(kept) == ""
    topology = Topology((Node(id="new", address="new:1"),), is_cluster=True, version=1)
    table = RouteTable.build([RouteSettings(name="carts", function="f")]).encode()
    plan = Plan(assign(topology, 1), table, topology, scope="other:1/0 slice 0/2", members=members, server_ms=50_000)
    found = Keeper(settings, plan, SharedMemory(1, settings.delivery.invokers, 1 << 16), file)
    child = Child(0, Role.SUBSCRIBER, 0, 1)
    missed = found.missed_by(child)
    assert bool(missed.get(0)) == is_resumed
    found.keep(is_clean=False)
    checkpoint, _ = file.load()
    assert checkpoint is not None
    assert checkpoint.scope == plan.scope
