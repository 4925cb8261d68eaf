"""One node as an invoker reads it: its connection, how much it is asked at once, the order of its answers.

**Bounds.** A pipeline whose replies grow past ``REPLY_BYTES_MAX`` is given up and read again in halves, down to the one
key that can't be read at all; the halved size is kept, and doubles again while replies are small. A server, or a proxy,
has its own bounds, and ends a connection whose replies exceed them: then the same is done.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence

import hiredis

from engine.clock import monotonic_ms
from engine.config import RedisSettings
from engine.delivery.reading.connection import ReadConnection
from engine.delivery.reading.gone import FoundGone
from engine.delivery.reading.job import Job, Key
from engine.delivery.reading.questions import EXPIRES_AT, Fetched
from engine.delivery.reading.versions import Versions
from engine.errors import RedisClosed, RedisUnreachable
from engine.observe.logs import get_logger
from engine.redis.address import parse_url
from engine.redis.connecting import Connecting
from engine.redis.connection import pack
from engine.redis.node import role_of, settings_for
from engine.routing.nodes import Node

log = get_logger(__name__)

KEYS_MAX = 500
REPLY_BYTES_MAX = 64 * 1024 * 1024
"""Replies of one pipeline. No invocation holds more than 6 MB of JSON, and RESP is at most twice as long."""

ROLE, HELLO = pack("ROLE"), pack("HELLO")
"""What reports a server's role: the second needs no special right, but takes 6 µs more."""

CLOSES_MAX = 3
"""If connections end this often in a row while one key is read alone, the key is the cause, not the connection."""
PIPELINES_A_DOUBLING = 100
"""How many pipelines keep a size that had to be found by closed connections, each of which is costly."""
LIMITS = "client-output-buffer-limit normal, maxmemory-clients, or the limit of a proxy"


class NodeReader:
    """A connection to one node, which it makes, and renews, by itself; one job at a time.

    It is connected in a thread, which calls ``on_end`` then: `look` takes the connection over. `connect` does it at
    once, for a caller that waits.
    """

    is_called_for = True
    """Whether to connect before it is asked: not for a database that no key was in yet."""

    def __init__(
        self,
        redis: RedisSettings,
        database: int,
        name: str,
        node: Node,
        *,
        keys_max: int = KEYS_MAX,
        reply_bytes_max: int = REPLY_BYTES_MAX,
        is_cluster: bool = False,
        counts_on_role: bool = False,
        versions: Versions | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.node = node
        self.is_cluster = is_cluster
        self.counts_on_role = counts_on_role and not is_cluster
        """Whether it has to be a primary, or the replica that is captured: in a cluster other nodes redirect."""
        self.versions = versions or Versions()
        self.connection: ReadConnection | None = None
        self.job: Job | None = None
        """What it is being asked."""
        self.epoch: int | None = None
        """The node's configuration epoch in a cluster, None if it is not known yet."""
        self.time_us = 0
        """The node's clock as last reported."""
        self.keys_now = self._keys_max = keys_max
        self.reply_bytes_max = reply_bytes_max
        self.expiry_question = EXPIRES_AT
        self.found_gone = FoundGone()
        self.failures = self.refusals = 0
        """How often in a row it could not be asked, and how often it did not answer for some of the keys."""
        self.due_ms = self.used_ms = 0
        """When (monotonic) to connect to it again, and when it last answered."""
        self._role_question = HELLO
        self._name = name
        self._database = database
        self.read_timeout_ms = redis.read_timeout_ms
        self._redis = settings_for(redis, node)
        self.address = parse_url(self._redis.url)
        self._on_end = on_end
        self._attempt: Connecting[ReadConnection] | None = None
        self._poller: select.poll | None = None
        self._doubles_after = 0
        """How many pipelines until a larger one is retried."""
        self._closes = (b"", 0)
        """Which key alone was last read when a connection ended, and how often in a row."""

    @property
    def last_question(self) -> bytes:
        """Return what each pipeline ends with, b"" for nothing: the role of a server that has to be a primary.

        One that has stepped down may have answered everything before with old values.
        """
        return self._role_question if self.counts_on_role and not self.node.reads_at else b""

    @property
    def host(self) -> str:
        """Return the host that it is reached at."""
        return self.address.host

    def next_due_ms(self) -> int | None:
        """Return when (monotonic) something is to be done for it without an event; None if nothing is."""
        if self.job is not None:
            return self.job.heard_ms + self.read_timeout_ms
        if self.connection is not None:
            return self.connection.renewal_ms or None
        return None if self._attempt is not None or not self.is_called_for else self.due_ms

    def is_used_up(self, moment_ms: int) -> bool:
        """Tell whether its connection has to be renewed: authentication by IAM expires."""
        return self.is_ready() and 0 < self.connection.renewal_ms <= moment_ms  # type: ignore[union-attr]

    # Its connection

    def is_ready(self) -> bool:
        """Tell whether it may be asked now."""
        return self.connection is not None and self.job is None

    def is_steady(self, keys: int) -> bool:
        """Tell whether it may be asked for this many keys in one go: a lone server that has refused nothing lately."""
        is_cut = keys > self.keys_now or self.keys_now < self._keys_max or self._doubles_after or self._closes[1]
        return self.connection is not None and self.job is None and not (self.is_cluster or is_cut)

    def is_connecting(self) -> bool:
        """Tell whether a connection is being made."""
        return self._attempt is not None

    def connect(self) -> None:
        """Connect, and wait for that; raise `RedisError`."""
        if self.connection is None:
            self._take_over(self._open())

    def _take_over(self, connection: ReadConnection | None) -> None:
        if connection is not None:
            self.connection, self.address = connection, connection.address

    def look(self, moment_ms: int) -> bool:
        """Connect if that is due; return True if that has just ended.

        Raises `RedisError`.
        """
        if self.is_used_up(moment_ms):
            self.close()
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            self._take_over(attempt.poll())
            if self.connection is None:
                self._attempt = attempt
            self.used_ms = moment_ms
            return self.connection is not None
        if self.connection is None and self.is_called_for and moment_ms >= self.due_ms:
            self._attempt = Connecting(self._open, self._on_end)
        return False

    def _open(self) -> ReadConnection:
        connection = ReadConnection.open(
            self._redis,
            name=self._name,
            protocol=3,
            encoding="utf-8",
            database=self._database,
            readonly=self.is_cluster and bool(self.node.reads_at),
            role=role_of(self.node) if self.counts_on_role else "",
        )
        assert isinstance(connection, ReadConnection)
        if self.last_question:
            self._role_question = HELLO if isinstance(connection.call("ROLE"), hiredis.ReplyError) else ROLE
        return connection

    def drop_if_closed(self, idle_ms: int) -> None:
        """Forget a connection that the server closed while it was idle (its ``timeout``): not a failure, just age.

        One that has answered within ``idle_ms`` is assumed to be open.
        """
        if self.connection is None or self.job is not None or monotonic_ms() - self.used_ms < idle_ms:
            return
        try:
            self.connection.receive_available()
        except RedisUnreachable:
            self.close()

    def answered(self, *, is_refused: bool = False) -> None:
        """Note that it has answered; ``is_refused`` if not for all of the keys."""
        self.failures = 0
        self.refusals = self.refusals + 1 if is_refused else 0
        self.used_ms = monotonic_ms()

    def failed(self, moment_ms: int, wait_ms: int) -> None:
        """Note that it can't be asked; connect again after a while."""
        self.close()
        self.failures += 1
        self.due_ms = moment_ms + wait_ms

    def poller(self) -> select.poll:
        """Return what waits for this connection only."""
        if self._poller is None:
            assert self.connection is not None
            self._poller = select.poll()
            self._poller.register(self.connection.fileno(), select.POLLIN)
        return self._poller

    def close(self) -> None:
        """Close the connection."""
        self._poller = None
        self.epoch, self.job = None, None
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # What it is asked

    def take_time(self, told: Sequence[str]) -> int:
        """Note the node's clock (its reply to ``TIME``); return it (µs)."""
        seconds, microseconds = told
        self.time_us = int(seconds) * 1_000_000 + int(microseconds)
        return self.time_us

    def version_at(self, time_us: int, floor: int) -> int:
        """Return the version of what is read after this moment of the node's clock."""
        epoch = self.epoch
        if epoch is None:
            # Sentinels number their configurations too.
            epoch = self.node.epoch or (self.connection.epoch if self.connection is not None else 0)
        lag_us = self.versions.lag_us
        version = self.versions.next(time_us, epoch, floor)
        if self.versions.lag_us and not lag_us:
            log.warning(
                "clocks_differ", node=str(self.address), behind_ms=self.versions.lag_us // 1_000,
                hint="keep the clocks of a cluster's nodes within seconds of each other: versions rely on it",
            )  # fmt: skip
        return version

    def grow(self, keys: Sequence[Key]) -> None:
        """Note that a pipeline of these succeeded."""
        assert self.connection is not None
        if self._closes[1] and any(key == self._closes[0] for key, _ in keys):
            self._closes = (b"", 0)
        if self._doubles_after:
            self._doubles_after -= 1
        elif self.keys_now < self._keys_max and self.connection.received_bytes < self.reply_bytes_max // 4:
            self.keys_now = min(self._keys_max, self.keys_now * 2)

    def too_large(self, keys: Sequence[Key]) -> list[Fetched]:
        """Note that the replies to these grew past their bound; return the one key that can't be read at all."""
        self._halve(keys)
        if len(keys) > 1:
            return []
        error = f"its value is larger than {self.reply_bytes_max} bytes"
        return [Fetched(keys[0][0], "none", None, "", self.versions.newest, error=error)]

    def closed(self, keys: Sequence[Key], error: RedisClosed) -> list[Fetched]:
        """Note that the connection ended while these were read; return one key that ends each connection.

        Raises `RedisClosed` while that may be a coincidence.
        """
        self._halve(keys)
        self._doubles_after = PIPELINES_A_DOUBLING
        if len(keys) > 1:
            log.warning(
                "pipeline_closed", keys=len(keys), error=str(error), hint=f"smaller pipelines from now on: {LIMITS}"
            )
            return []
        key = keys[0][0]
        closes = self._closes[1] + 1 if self._closes[0] == key else 1
        self._closes = (key, closes)
        if closes < CLOSES_MAX:
            raise RedisClosed(error.message, hint=f"while one value was read; see the server's {LIMITS}") from error
        self._closes = (b"", 0)
        told = f"{error.message}, {CLOSES_MAX} times while its value was read: see the server's {LIMITS}"
        return [Fetched(key, "none", None, "", self.versions.newest, error=told, passes=True)]

    def _halve(self, keys: Sequence[Key]) -> None:
        self.close()
        if len(keys) > 1:
            self.keys_now = len(keys) // 2
