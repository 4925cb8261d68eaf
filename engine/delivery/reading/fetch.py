"""Reads: dirty keys → their values, as they are now, from whichever nodes have them.

The keys of a batch are asked for at all of their nodes at once, and gathered. A node that is away, being connected to,
or still busy with an earlier request is not asked; one that does not answer soon after the others is left to answer in
its own time. Only those keys wait (`Hold`), and the caller is notified once their node may be asked again.

What a cluster's nodes say about each other is followed at once: ``MOVED`` changes the table of slots, ``ASK`` asks one
key of the node that has it already. A key counts as gone only if the owner of its slot has said so.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.delivery.reading.asking import First
from engine.delivery.reading.gather import Late, gather
from engine.delivery.reading.job import Job, Key, Wish
from engine.delivery.reading.node_reader import KEYS_MAX, REPLY_BYTES_MAX, NodeReader
from engine.delivery.reading.questions import Fetched
from engine.delivery.reading.quick import is_for_one_go, read_quickly
from engine.delivery.reading.readers import Group, Readers
from engine.delivery.reading.versions import Versions
from engine.delivery.sockets import Sockets
from engine.errors import RedisError, RedisUnreachable
from engine.observe.logs import get_logger
from engine.redis.cluster.redirects import LATER
from engine.routing.databases import Databases, databases_of, split
from engine.routing.nodes import Node, Topology

__all__ = ["Fetched", "Fetcher", "Hold", "Key", "Read", "ReadLoop", "Wish"]

log = get_logger(__name__)

PATIENCE_MS = 100
"""How long the others wait for a node that is slow, counted from the last one that answered."""
IDLE_MS = 1_000
"""A connection that answered within this time is assumed to be open: a server's ``timeout`` is in whole seconds."""
REDIRECTS_MAX = 4
"""How often a key is asked for elsewhere before it waits."""
CONNECT_WAIT_MS_MAX = 5_000
"""A node that is away is retried after this time at the latest."""
LATER_MS_MAX = 1_000
"""Keys that their node does not give now are asked for again after this time at the latest."""
REPORT_MS = 1_000
"""How often moved slots are reported."""


@dataclass(slots=True)
class Hold:
    """Keys that are not read now, by index: ``reader`` tells when it may be asked, or it is a matter of ``wait_ms``.

    With a ``job`` their node has been asked, and will answer that.
    """

    indexes: Sequence[int]
    reader: NodeReader | None = None
    job: Job | None = None
    wait_ms: int = 0


@dataclass(slots=True)
class Read:
    """The results of one batch's reads: a value for each key, None if there is none.

    A key that has neither a value nor a hold was not asked for: it was enough before.
    """

    values: list[Fetched | None]
    found: int = 0
    """How many there are."""
    holds: list[Hold] = field(default_factory=list)

    def is_whole(self) -> bool:
        """Tell whether there is a value for each key."""
        return self.found == len(self.values)

    def take(self, job: Job) -> None:
        """Take in what was read at one node."""
        self.found += len(job.values) - len(job.redirects)
        if len(job.values) == len(self.values):
            self.values = job.values
            return
        for index, value in zip(job.indexes, job.values, strict=False):
            self.values[index] = value


@dataclass(frozen=True, slots=True)
class ReadLoop:
    """The loop that a fetcher is part of.

    ``wake`` may be called by threads. ``wait_ms`` is the backoff after so many failures in a row. ``failed`` receives
    each failure, ``changed`` why the topology may have changed, ``freed`` a node that may be asked again, ``given`` the
    highest version of a node (by its number).
    """

    sockets: Sockets
    wake: Callable[[], None]
    wait_ms: Callable[[int], int]
    failed: Callable[[], None]
    changed: Callable[[str], None]
    freed: Callable[[NodeReader], None]
    given: Callable[[int, int], None] = lambda _node, _version: None


class Fetcher:
    """Reads on connections that it makes, and renews, by itself: for a loop (`read`), or for a caller that waits.

    Versions are higher than ``version_floor`` (one server), or ``floors`` (by node id).
    """

    def __init__(
        self,
        redis: RedisSettings,
        database: int,
        name: str,
        keys_max: int = KEYS_MAX,
        reply_bytes_max: int = REPLY_BYTES_MAX,
        version_floor: int = 0,
        *,
        topology: Topology | None = None,
        floors: Mapping[str, int] | None = None,
        loop: ReadLoop | None = None,
    ) -> None:
        self._redis = redis
        self._databases = databases_of(redis, database)
        self._name = name
        self._keys_max = keys_max
        self._reply_bytes_max = reply_bytes_max
        self._loop = loop
        self._idle_ms = IDLE_MS if loop is not None else 0
        self._late = Late(loop.sockets, self._answered) if loop is not None else None
        self._report_after_ms = 0
        self.version = version_floor
        """The highest that was given out (µs)."""
        self.readers = Readers(self._make, topology or Topology(), floors or {"": version_floor}, self._databases)
        self._look_by(0)

    def _look_by(self, moment_ms: int) -> None:
        if self._loop is not None:
            self._loop.sockets.expect(self, moment_ms)

    def _connected(self) -> None:
        """Make the loop take a connection over; a thread calls this."""
        if self._loop is not None:
            self._loop.sockets.hurry()
            self._loop.wake()

    def _make(self, node: Node, is_cluster: bool, versions: Versions, database: int) -> NodeReader:
        return NodeReader(
            self._redis,
            database,
            self._name,
            node,
            keys_max=self._keys_max,
            reply_bytes_max=self._reply_bytes_max,
            is_cluster=is_cluster,
            # With a loop, it reads what feeds have heard, and is told where.
            counts_on_role=self._loop is not None,
            versions=versions,
            on_end=self._connected,
        )

    def set_topology(self, topology: Topology) -> None:
        """Read from these nodes from now on. Answers of removed nodes are not waited for."""
        for reader in self.readers.use(topology):
            if self._late is not None:
                self._late.abandon(reader)
            reader.close()
            if self._loop is not None:
                self._loop.freed(reader)
        self._report_after_ms = 0
        self._look_by(0)

    def close(self) -> None:
        """Close all connections."""
        for reader in self.readers.all():
            reader.close()

    def fetch(
        self,
        keys: Sequence[Key],
        body_chars_max: int | None = None,
        *,
        include_expiry: bool = False,
        explained: Container[str] | None = None,
        age_ms: int = 0,
    ) -> list[Fetched]:
        """Return the values of these (key, event name) pairs, in their order, as `Wish` says; wait for all nodes.

        With ``body_chars_max``, stop after the pipeline with which the bodies become longer than that: then the
        values are those of the first keys only, of one at least. Raises `RedisUnreachable` or `RedisRefused`; the
        next call connects again.
        """
        wish = Wish(include_expiry, explained, age_ms, body_chars_max)
        values: list[Fetched | None] = [None] * len(keys)
        left: Sequence[int] = range(len(keys))
        while left:
            try:
                read = self.read([keys[index] for index in left], wish)
            except BaseException:
                self.close()
                raise
            if len(left) == len(keys) and read.is_whole() and not self._databases.are_several:
                return read.values  # type: ignore[return-value]
            for index, value in zip(left, read.values, strict=True):
                values[index] = value
            if any(hold.reader is None for hold in read.holds):
                raise RedisUnreachable("some keys are moving between nodes, or have no node", hint="ask again")
            # What has neither a value nor a hold was no longer asked for.
            left = [left[place] for hold in read.holds for place in hold.indexes]
        return _first_read(keys, values)

    # For a loop

    def is_open(self) -> bool:
        """Tell whether any node may be asked now."""
        readers = self.readers
        return readers.lone.is_ready() if readers.lone else any(reader.is_ready() for reader in readers.all())

    def read(self, keys: Sequence[Key], wish: Wish) -> Read:
        """Return the values of these keys from all nodes that answer. For a loop it never raises `RedisError`."""
        lone, first = self.readers.lone, None
        patience_ms = PATIENCE_MS if self._loop is not None else None
        if lone is not None and is_for_one_go(lone, keys, wish, self._idle_ms):
            found, first = read_quickly(lone, keys, wish, patience_ms)
            if first is None:
                self._note_version(lone)
                lone.answered()
                return Read(found, len(found))  # type: ignore[arg-type]
            patience_ms = 0 if first.is_late else patience_ms
        groups, orphans = self.readers.group(keys)
        read = Read([None] * len(keys))
        if orphans:
            self._changed("a slot has no owner")
            read.holds.append(Hold(orphans, wait_ms=LATER_MS_MAX))
        for _ in range(REDIRECTS_MAX):
            jobs = [job for group in groups if (job := self._start(keys, wish, group, read, first)) is not None]
            late = gather(jobs, patience_ms)
            groups, first = [], None
            for job in jobs:
                groups += self._collect(job, read, is_late=job in late)
            if not groups:
                return read
        read.holds += [Hold(indexes, wait_ms=LATER_MS_MAX) for _, indexes, _, _ in groups]
        return read

    def _start(self, keys: Sequence[Key], wish: Wish, group: Group, read: Read, first: First | None) -> Job | None:
        """Begin to ask a node for some of the keys; None if they have to wait for it."""
        reader, indexes, slots, asked = group
        if first is None:
            reader.drop_if_closed(self._idle_ms)
            if self._loop is None:
                reader.connect()
        if not reader.is_ready():
            read.holds.append(Hold(indexes, reader))
            self._look_by(0)
            return None
        mine = _as_the_server_knows(keys, indexes, self._databases)
        versions = self.readers.slot_versions
        reader.job = Job(reader, mine, wish, indexes, slots, versions, asked_versions=asked, first=first)
        return reader.job

    def _collect(self, job: Job, read: Read, *, is_late: bool) -> list[Group]:
        """Take in what a job has read; return which readers to ask for the keys that are elsewhere."""
        reader = job.reader
        if is_late:
            assert self._late is not None
            read.holds.append(Hold(job.indexes, reader, job))
            self._late.watch(job)
            self._look_by(job.heard_ms + reader.read_timeout_ms)
            return []
        self._over(job)
        read.take(job)
        left = job.indexes[len(job.values) :]
        if reader.connection is None:
            if left:
                read.holds.append(Hold(left, reader))
            # Even if nothing is left: a value that ends each connection is reported; the next batch needs a new one.
            self._look_by(reader.due_ms)
        return self._followed(job, read) if job.redirects else []

    def _followed(self, job: Job, read: Read) -> list[Group]:
        groups, later, is_moved = self.readers.follow(job, self._redis.node_addresses)
        if is_moved:
            self._changed("slots have moved")
        if later:
            wait_ms = self._loop.wait_ms(job.reader.refusals) if self._loop is not None else 0
            read.holds.append(Hold(later, wait_ms=min(wait_ms, LATER_MS_MAX)))
        return groups

    def _over(self, job: Job) -> None:
        """Note that a node has answered, or will not."""
        reader = job.reader
        reader.job = None
        job.note_versions()
        self._note_version(reader)
        if job.error is not None:
            self._failed(reader, job.error)
        else:
            reader.answered(is_refused=any(one is LATER for _, one, _ in job.redirects))

    def _note_version(self, reader: NodeReader) -> None:
        newest = reader.versions.newest
        self.version = max(self.version, newest)
        if self._loop is not None and reader.node.number >= 0:
            self._loop.given(reader.node.number, newest)

    def _failed(self, reader: NodeReader, error: RedisError) -> None:
        """Let a node that can't be asked rest."""
        if self._loop is None:
            reader.close()
            raise error
        wait_ms = min(self._loop.wait_ms(reader.failures + 1), CONNECT_WAIT_MS_MAX)
        reader.failed(monotonic_ms(), wait_ms)
        self._look_by(reader.due_ms)
        self._loop.failed()
        log.warning("fetch_failed", error=str(error), attempt=reader.failures, retry_in_ms=wait_ms)
        if self.readers.is_cluster:
            self._changed(f"{reader.address} can't be read")

    def _changed(self, reason: str) -> None:
        moment_ms = monotonic_ms()
        if self._loop is not None and moment_ms >= self._report_after_ms:
            self._report_after_ms = moment_ms + REPORT_MS
            self._loop.changed(reason)

    # What runs beside the loop

    def _answered(self, job: Job) -> None:
        assert self._loop is not None
        self._over(job)
        self._look_by(0)
        self._loop.freed(job.reader)

    def next_expiry_ms(self) -> int | None:
        """Return when (monotonic) something is to be done without an event: a node is silent, or has rested."""
        return min((ms for reader in self.readers.all() if (ms := reader.next_due_ms()) is not None), default=None)

    def expire(self, moment_ms: int) -> None:
        """Connect if that is due, take over connections, and stop waiting for nodes that are silent."""
        assert self._loop is not None
        assert self._late is not None
        for reader in self.readers.all():
            job = reader.job
            if job is not None:
                if moment_ms - job.heard_ms >= reader.read_timeout_ms:
                    self._late.abandon(reader)
                    self._over(job)
                continue
            try:
                if reader.look(moment_ms):
                    self._loop.freed(reader)
            except RedisError as error:
                self._failed(reader, error)


def _as_the_server_knows(keys: Sequence[Key], indexes: Sequence[int], databases: Databases) -> Sequence[Key]:
    """Return these keys by the names that they have in their database."""
    mine = keys if len(indexes) == len(keys) else [keys[index] for index in indexes]
    return [(split(key)[1], event) for key, event in mine] if databases.are_several else mine


def _first_read(keys: Sequence[Key], values: Sequence[Fetched | None]) -> list[Fetched]:
    """Return the values up to the first that was not read, each with its key as the caller knows it."""
    found: list[Fetched] = []
    for (key, _), value in zip(keys, values, strict=True):
        if value is None:
            break
        value.key = key
        found.append(value)
    return found
