"""A sender: one process, one connection, commands on their schedule and answers as they come.

What is due is sent, whether or not what was sent before is answered, up to what the kernel's buffers and
`UNANSWERED_MAX` hold; a command that has to wait for them is late, and its lag counts from when it was due.
"""

from __future__ import annotations

import resource
import select
import socket
import ssl
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import hiredis
import numpy as np

from benchmarks.drive import commands
from benchmarks.drive.commands import Mix
from benchmarks.drive.plan import Plan
from benchmarks.drive.schedule import Offsets
from benchmarks.stand.load import Where, connect
from benchmarks.stand.processes import die_with_parent
from engine.errors import RedisError

AT_ONCE = 512
"""Commands made and sent in one go at most."""
UNANSWERED_MAX = 100_000
TOGETHER_NS = 250_000
"""Commands that are due within this time are sent together, and so late by less than that; answers are read then."""
IDLE_NS = 100_000_000
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Told(NamedTuple):
    """What a sender says when it is ready, and again when all is answered: its CPU time, its context switches."""

    cpu_s: float = 0.0
    switches: int = 0


def run_sender(
    where: Where, mix: Mix, plan: Plan, places: Offsets, file: Path, out: Connection, theirs: Connection
) -> None:
    """Send the plan's changes at these places from the moment that is told; write (late, answered) to ``file``."""
    # A copy of the other end in this process would keep the pipe open forever.
    theirs.close()
    die_with_parent()
    try:
        sender = Sender(where, mix, plan, places)
        out.send(Told())
        started_ns = out.recv()
        before = resource.getrusage(resource.RUSAGE_SELF)
        sender.run(started_ns)
        after = resource.getrusage(resource.RUSAGE_SELF)
        np.save(file, np.stack([sender.late_ns, sender.answered_ns]))
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        out.send(Told(cpu_s, after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw))
    except EOFError:
        return
    except (OSError, hiredis.HiredisError, RedisError) as error:
        out.send(f"{type(error).__name__}: {error}")


class Sender:
    """One connection, and the changes of a plan that it sends; times are ns from when each was due."""

    def __init__(self, where: Where, mix: Mix, plan: Plan, places: Offsets) -> None:
        self._sock = connect(where)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._sock.setblocking(False)
        self._due, self._keys, self._kinds = plan.offsets[places], plan.key_numbers[places], plan.kinds[places]
        self._numbers = places + 1
        kinds, _ = commands.weights(mix)
        made = commands.templates(mix)
        self._templates = [made[kind] for kind in kinds]
        self._is_uniform = len(np.unique(self._kinds)) <= 1
        self.late_ns, self.answered_ns = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
        self._started_ns = 0
        self._reader = hiredis.Reader()
        self._pending = memoryview(b"")
        self._made = self._answered = 0

    def run(self, started_ns: int) -> None:
        """Send everything, from this moment (monotonic) on; return when all is answered."""
        total, poller = len(self._due), select.poll()
        poller.register(self._sock, select.POLLIN)
        self._started_ns = started_ns
        while self._answered < total:
            now = time.monotonic_ns() - started_ns
            if not self._pending and self._made < total and self._made - self._answered < UNANSWERED_MAX:
                self._make(now)
            if self._pending:
                self._send()
            self._receive()
            self._wait(poller, total)
        self._sock.close()

    def _make(self, now: int) -> None:
        first = self._made
        last = first + int(np.searchsorted(self._due[first : first + AT_ONCE], now, side="right"))
        if last == first:
            return
        keys, numbers = self._keys[first:last].tolist(), self._numbers[first:last].tolist()
        due = (self._due[first:last] + self._started_ns).tolist()
        triples = zip(keys, numbers, due, strict=True)
        if self._is_uniform:
            text, arity = self._templates[self._kinds[first]]
            data = b"".join([text % one for one in triples] if arity == 3 else [text % one[:arity] for one in triples])
        else:
            made = [self._templates[kind] for kind in self._kinds[first:last].tolist()]
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
        now = time.monotonic_ns() - self._started_ns
        self.answered_ns[first : self._answered] = now - self._due[first : self._answered]

    def _wait(self, poller: select.poll, total: int) -> None:
        """Sleep until something may be sent or read."""
        if self._pending:
            poller.modify(self._sock, select.POLLIN | select.POLLOUT)
            poller.poll(100)
            poller.modify(self._sock, select.POLLIN)
            return
        now = time.monotonic_ns() - self._started_ns
        wait_ns = int(self._due[self._made]) - now if self._made < total else IDLE_NS
        after_next = min(self._made + 1, total - 1)
        if self._made < total and self._due[after_next] - now < TOGETHER_NS:
            # Several are due in a moment: one wake-up for all of them, or the load itself would take the machine.
            time.sleep(TOGETHER_NS / 1e9)
        elif wait_ns > 0:
            # Unlike poll, select waits for less than a millisecond.
            select.select([self._sock], (), (), min(wait_ns, IDLE_NS) / 1e9)
