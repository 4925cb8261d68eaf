"""A sender: one process, one connection, commands on their schedule and answers as they come.

What is due is sent, whether or not what was sent before is answered, up to what the kernel's buffers and
`UNANSWERED_MAX` hold; a command that has to wait for them is late, and its lag counts from when it was due.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import ssl
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import hiredis
import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.drive import commands, keys, schedule
from benchmarks.drive.commands import Mix
from benchmarks.drive.keys import KeyNumbers, Keyspace
from benchmarks.drive.schedule import Arrivals, Offsets
from benchmarks.load import Where, connect
from engine.errors import RedisError

AT_ONCE = 512
"""Commands made and sent in one go at most."""
UNANSWERED_MAX = 100_000
LATE_NS = 10_000_000
"""A command that is sent later than this was not on its schedule."""
KEPT_SHARE = 0.999
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_fork = multiprocessing.get_context("fork")


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one run sends; the same for the same seed."""

    arrivals: Arrivals = msgspec.field(default_factory=Arrivals)
    keyspace: Keyspace = msgspec.field(default_factory=Keyspace)
    mix: Mix = msgspec.field(default_factory=Mix)
    seconds: float = 10.0
    seed: int = 1


@dataclass(frozen=True)
class Plan:
    """A load, laid out: of each change when it is due (ns from the beginning), its key's number, and its kind."""

    offsets: Offsets
    key_numbers: KeyNumbers
    kinds: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True)
class Sent:
    """What became of a plan.

    ``started_ns`` (monotonic) is the beginning. ``late_ns`` is of each change how late it was sent, ``answered_ns`` how
    long after it was due it was answered. ``cpu_s`` is the sender's own CPU time.
    """

    plan: Plan
    started_ns: int
    late_ns: npt.NDArray[np.int64]
    answered_ns: npt.NDArray[np.int64]
    cpu_s: float

    @property
    def took_s(self) -> float:
        """Return the seconds from the beginning to the last answer."""
        return float((self.plan.offsets + self.answered_ns).max() / schedule.NS) if len(self.plan) else 0.0

    @property
    def rate_per_s(self) -> float:
        """Return how many changes a second were answered."""
        return len(self.plan) / self.took_s if len(self.plan) else 0.0

    @property
    def kept_schedule(self) -> bool:
        """Tell whether the sender did what it was told: if not, the figures are of another load."""
        return bool(np.mean(self.late_ns <= LATE_NS) >= KEPT_SHARE) if len(self.plan) else True


def lay_out(load: Load) -> Plan:
    """Return the plan; raise `BadArrivals`, `BadKeyspace` or `BadMix`."""
    commands.check(load.mix)
    # Streams of their own: more changes do not make other keys of the first ones.
    streams = np.random.default_rng(load.seed).spawn(3)
    offsets = schedule.offsets_of(load.arrivals, load.seconds, streams[0])
    names, weights = commands.weights(load.mix)
    shares = np.cumsum(weights) / sum(weights)
    kinds = np.searchsorted(shares, streams[2].random(len(offsets)), side="right").astype(np.uint8)
    numbers = keys.pick(load.keyspace, len(offsets), streams[1])
    numbers[kinds == names.index("string")] += commands.STRINGS_FROM
    return Plan(offsets, numbers, kinds)


class Driver:
    """A sender at work in a process of its own."""

    def __init__(self, where: Where, load: Load, folder: Path) -> None:
        self.plan = lay_out(load)
        self._folder = folder
        self._ours, theirs = _fork.Pipe(duplex=False)
        arguments = (where, load, self.plan, folder, theirs)
        self._process = _fork.Process(target=_drive, args=arguments, daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0
        theirs.close()

    def is_over(self) -> bool:
        """Tell whether everything was answered."""
        return self._ours.poll(0)

    def join(self) -> Sent:
        """Return when everything was answered; raise RuntimeError where the sender failed."""
        try:
            told = self._ours.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the sender ended with {self._process.exitcode}") from None
        self._process.join()
        if isinstance(told, str):
            raise RuntimeError(f"the sender failed: {told}")
        started_ns, cpu_s = told
        return Sent(
            self.plan,
            started_ns,
            np.load(self._folder / "late.npy"),
            np.load(self._folder / "answered.npy"),
            cpu_s,
        )


def drive(where: Where, load: Load, folder: Path) -> Sent:
    """Send a load and wait for its end."""
    return Driver(where, load, folder).join()


def _drive(where: Where, load: Load, plan: Plan, folder: Path, out: Connection) -> None:
    try:
        sender = _Sender(where, load, plan)
        sender.run()
        np.save(folder / "late.npy", sender.late_ns)
        np.save(folder / "answered.npy", sender.answered_ns)
        out.send((sender.started_ns, sender.cpu_s))
    except (OSError, hiredis.HiredisError, RedisError) as error:
        out.send(f"{type(error).__name__}: {error}")


class _Sender:
    def __init__(self, where: Where, load: Load, plan: Plan) -> None:
        self._sock = connect(where)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._sock.setblocking(False)
        self._plan = plan
        self._due = plan.offsets
        kinds, _ = commands.weights(load.mix)
        made = commands.templates(load.mix)
        self._templates = [made[kind] for kind in kinds]
        self._is_uniform = bool(np.all(plan.kinds == plan.kinds[0])) if len(plan) else True
        self.late_ns = np.zeros(len(plan), np.int64)
        self.answered_ns = np.zeros(len(plan), np.int64)
        self.started_ns = 0
        self.cpu_s = 0.0
        self._reader = hiredis.Reader()
        self._pending = memoryview(b"")
        self._made = self._answered = 0

    def run(self) -> None:
        total, poller = len(self._plan), select.poll()
        poller.register(self._sock, select.POLLIN)
        self.started_ns = time.monotonic_ns()
        cpu = time.process_time()
        while self._answered < total:
            now = time.monotonic_ns() - self.started_ns
            if not self._pending and self._made < total and self._made - self._answered < UNANSWERED_MAX:
                self._make(now)
            if self._pending:
                self._send()
            self._receive()
            self._wait(poller, total)
        self.cpu_s = time.process_time() - cpu
        self._sock.close()

    def _make(self, now: int) -> None:
        first = self._made
        last = first + int(np.searchsorted(self._due[first : first + AT_ONCE], now, side="right"))
        if last == first:
            return
        numbers = self._plan.key_numbers[first:last].tolist()
        due = (self._due[first:last] + self.started_ns).tolist()
        triples = zip(numbers, range(first + 1, last + 1), due, strict=True)
        if self._is_uniform:
            text, arity = self._templates[self._plan.kinds[first]]
            data = b"".join([text % one for one in triples] if arity == 3 else [text % one[:arity] for one in triples])
        else:
            made = [self._templates[kind] for kind in self._plan.kinds[first:last].tolist()]
            data = b"".join([text % one[:arity] for (text, arity), one in zip(made, triples, strict=True)])
        self._pending = memoryview(data)
        self.late_ns[first:last] = now - self._due[first:last]
        self._made = last

    def _send(self) -> None:
        try:
            self._pending = self._pending[self._sock.send(self._pending) :]
        except _WOULD_BLOCK:
            return

    def _receive(self) -> None:
        try:
            data = self._sock.recv(1 << 18)
        except _WOULD_BLOCK:
            return
        if not data:
            raise ConnectionError("the server closed the connection")
        first, reader = self._answered, self._reader
        reader.feed(data)
        count = 0
        while (reply := reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
            count += 1
        self._answered = first + count
        now = time.monotonic_ns() - self.started_ns
        self.answered_ns[first : self._answered] = now - self._due[first : self._answered]

    def _wait(self, poller: select.poll, total: int) -> None:
        """Sleep until something may be sent or read; a poll's resolution is 1 ms, so the last of it is slept."""
        if self._pending:
            poller.modify(self._sock, select.POLLIN | select.POLLOUT)
            poller.poll(100)
            poller.modify(self._sock, select.POLLIN)
            return
        wait_ns = int(self._due[self._made]) - (time.monotonic_ns() - self.started_ns) if self._made < total else 10**8
        if wait_ns > 2_000_000:
            poller.poll(wait_ns // 1_000_000 - 1)
        elif wait_ns > 0 and not poller.poll(0):
            time.sleep(min(wait_ns, 200_000) / 1e9)
