"""Tables that functions write to, and who writes to them: no older value over a newer one, no key in flight twice."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.world import World

Place = tuple[str, bytes]
"""A key in a table."""


class Broken(AssertionError):
    """The engine has not kept a promise."""


@dataclass(eq=False)
class Invocation:
    """One batch on its way: which change of each key it carries, and until when it may write."""

    table: str
    seqs: dict[bytes, int]
    fence_ms: int
    is_over: bool = False
    bodies: dict[bytes, str | None] = field(default_factory=dict)


class Destination:
    """What has arrived, by table and key."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held: dict[Place, int] = {}
        self.bodies: dict[Place, str | None] = {}
        self.buried: dict[Place, int] = {}
        self.versions: dict[bytes, tuple[int, int]] = {}
        self.invocations = 0
        self._running: dict[Place, list[Invocation]] = {}

    def started(self, invocation: Invocation) -> None:
        """Take in an invocation; none of its keys may be in another one that can still write."""
        now_ms = self.world.mono_ms
        self.invocations += 1
        for key in invocation.seqs:
            place = (invocation.table, key)
            running = [one for one in self._running.get(place, []) if not one.is_over and now_ms < one.fence_ms]
            if running:
                raise Broken(f"{key!r} is in flight twice to {invocation.table}: {running[0]} and {invocation}")
            self._running[place] = [invocation]

    def versioned(self, key: bytes, version: int, seq: int) -> None:
        """Take in the version of a value that was sent: versions order values as the cache did."""
        last_version, last_seq = self.versions.get(key, (0, 0))
        if seq < last_seq or version < last_version or (seq > last_seq and version <= last_version):
            raise Broken(f"{key!r}: version {version} of change {seq} after {last_version} of {last_seq}")
        self.versions[key] = (version, seq)

    def write(self, invocation: Invocation, key: bytes) -> None:
        """Take a value; it may not be older than the one that is there."""
        place, seq = (invocation.table, key), invocation.seqs[key]
        held = self.held.get(place, 0)
        if seq < held:
            raise Broken(f"{key!r} in {invocation.table}: change {seq} overwrites {held}")
        self.held[place] = seq
        self.bodies[place] = invocation.bodies[key]
