"""The load: changes at a steady pace, each noted in a ledger before it is sent and when it is answered."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from tests.chaos.ledger import Command, Ledger, word
from tests.chaos.links import Link

TICK_S = 0.02
BEHIND_S_MAX = 0.5
"""What a stall has made late beyond this is not made up for: no burst follows an outage."""
PAUSE_AFTER_ERROR_S = 0.03
AGAIN_MAX = 20
SKEW = 2.5
"""1 would choose all keys alike; at 2.5 a fifth of the keys gets half of the changes."""


class Writer:
    """A thread with one link, which faults share for their own writes, so that one order holds for all.

    ``link`` is asked for another after each loss: the primary may move.
    """

    def __init__(
        self,
        link: Callable[[], Link],
        rng: random.Random,
        *,
        keys: int = 200,
        rate: float = 300.0,
        deletes: float = 0.03,
        key_bytes: int = 0,
        databases: Sequence[int] = (),
        tags: int = 0,
    ) -> None:
        self.ledger = Ledger()
        names = key_names(keys, key_bytes, tags)
        # Of each name there is a key in each database.
        self.keys = [b"%d:%b" % (number, name) for name in names for number in databases] or names
        self.rate = rate
        self.errors = 0
        self._connect = link
        self._rng = rng
        self._deletes = deletes
        self._link: Link | None = None
        self._lock = threading.RLock()
        self._numbers = 0
        self._first_lap: list[bytes] = []
        self._again: list[bytes] = []
        """Of the first lap, what has not come through yet."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def acknowledged(self) -> int:
        """Return how many changes the server has acknowledged."""
        with self._lock:
            return self.ledger.acknowledged

    def preload(self) -> None:
        """Give every key a first value, before the engine starts; the writer then begins by changing each again."""
        self.write_now([self.change(key) for key in self.keys])
        self._first_lap = self._rng.sample(self.keys, len(self.keys))

    def start(self) -> None:
        """Begin, or go on after `pause`."""
        assert self._thread is None
        self._stopping.clear()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Stop changing keys; return when nothing of it is under way. `execute` goes on working."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def stop(self) -> None:
        """Stop for good, when every key has been changed since the engine was started."""
        self.pause()
        with self._lock:
            self._write_again()
            self._disconnect()

    def reconnect(self) -> None:
        """Use a new connection from now on."""
        with self._lock:
            self._disconnect()

    def pick(self) -> bytes:
        """Return a key of its own, chosen as its changes choose them (the low numbers are hot)."""
        with self._lock:
            return self.keys[int(len(self.keys) * self._rng.random() ** SKEW)]

    def change(self, key: bytes) -> Command:
        """Return an ``HSET`` of this key with new, unique values; it is not sent.

        Two to four fields: a number and, told apart by it, some others; a field that is left out keeps its last value.
        """
        with self._lock:
            self._numbers += 1
            fields: list[bytes | str | int] = ["n", self._numbers]
            for name in self._rng.sample(("name", "größe", "items"), self._rng.randint(1, 3)):
                fields += [name, f"{name[0]}{self._numbers}-{self._rng.randrange(16**6):06x}"]
            return ("HSET", key, *fields)

    def execute(self, *command: bytes | str | int | float) -> Any:
        """Send a command that changes keys, and return its reply; note it in the ledger as the writer's own.

        Raises redis.ConnectionError or redis.TimeoutError where the reply was lost: then the oracle takes both outcomes
        for possible. Raises redis.ResponseError where the server refused it. Its keys and its strings become known
        (a destination that holds them invented nothing); for a command that makes new strings (INCR, APPEND …) call
        ``ledger.computed(key)``.
        """
        reply = self.write_now([command])[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def write_now(self, commands: Sequence[Command]) -> list[Any]:
        """Send many in one pipeline, as `execute`; errors of the server are among the replies, not raised."""
        with self._lock:
            entries = [self.ledger.send(tuple(word(argument) for argument in command)) for command in commands]
            try:
                if self._link is None:
                    self._link = self._connect()
                replies = self._link.exchange(entries)
            except (redis.ConnectionError, redis.TimeoutError):
                self._disconnect()
                raise
            if any(isinstance(reply, redis.ReadOnlyError) for reply in replies):
                self._disconnect()  # no primary any more
            return replies

    def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _write(self) -> None:
        due = time.monotonic()
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            now = time.monotonic()
            late_s = min(now - due, BEHIND_S_MAX)
            due = now - late_s + TICK_S
            try:
                self._write_some()
            except (redis.RedisError, OSError):
                self.errors += 1
                self._stopping.wait(PAUSE_AFTER_ERROR_S)

    def _write_some(self) -> None:
        """Make the changes of one tick: first each key once, as one that is never changed is nobody's to deliver."""
        count = self._count()
        lap = [self._first_lap.pop() for _ in range(min(count, len(self._first_lap)))]
        self._again += lap
        replies = self.write_now([*map(self.change, lap), *(self._choose() for _ in range(count - len(lap)))])
        came = {key for key, reply in zip(lap, replies, strict=False) if not isinstance(reply, Exception)}
        self._again = [key for key in self._again if key not in came]

    def _write_again(self) -> None:
        # A fault that held up the writer may have left it no time.
        self._again, self._first_lap = [*self._again, *self._first_lap], []
        for _ in range(AGAIN_MAX):
            with contextlib.suppress(redis.RedisError, OSError):
                replies = self.write_now([self.change(key) for key in self._again])
                self._again = [
                    key for key, reply in zip(self._again, replies, strict=True) if isinstance(reply, Exception)
                ]
            if not self._again:
                return
            time.sleep(PAUSE_AFTER_ERROR_S)

    def _count(self) -> int:
        """Return how many changes one tick makes; the fraction decides by chance."""
        exact = self.rate * TICK_S
        return int(exact) + (self._rng.random() < exact % 1)

    def _choose(self) -> Command:
        if self._rng.random() < self._deletes:
            return ("DEL", self._rng.choice(self.keys))
        return self.change(self.pick())


def key_names(count: int, bytes_min: int = 0, tags: int = 0) -> list[bytes]:
    """Return the names of the writer's keys; every 20th is not ASCII. Shorter ones are filled up, or have hash tags."""
    heads = [f"{{{n % tags}}}:" if tags else "" for n in range(count)]
    names = [
        (f"{heads[n]}ключ:ü:{n:04d}" if n % 20 == 19 else f"{heads[n]}cart:{n:04d}").encode() for n in range(count)
    ]
    return [name[:-4].ljust(bytes_min - 4, b"-") + name[-4:] for name in names]
