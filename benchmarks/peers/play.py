"""One of them through everything: light load, `CLIENT KILL`, ten seconds of HTTP 500, `kill -9`."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import redis

from benchmarks.drive.driver import Driver, Sent
from benchmarks.drive.keys import Keyspace
from benchmarks.drive.plan import Load
from benchmarks.drive.schedule import Arrivals
from benchmarks.lag import check
from benchmarks.lag.histogram import Percentiles, percentiles_of
from benchmarks.lag.stages import NEVER, Clocks, Received, lags_of
from benchmarks.peers.peers import Peer, Place, cpu_s, kill, stop
from benchmarks.peers.receiver import Receiver
from benchmarks.stand.errors import BenchmarkError
from benchmarks.stand.harness import wait_until
from engine.sandbox.valkey import ValkeyServer

FLAGS = "KEA"
LOOK_S = 0.1


class NotHeard(BenchmarkError):
    """Somebody who does not deliver what it is told; the message says who."""


class Effort(msgspec.Struct, frozen=True):
    """How long each part takes. The refusal begins a second after its load, which goes on for two more."""

    rate_per_s: float = 1_000.0
    seconds: float = 10.0
    refusal_s: float = 10.0
    kills: int = 3
    pause_s: float = 2.0
    """From ``kill -9`` to the start."""
    quiet_s: float = 30.0
    """What has not come for so long does not come any more: the engine's own fences are half of it."""


class Fault(msgspec.Struct, frozen=True):
    """How many keys do not hold what Redis holds, and how long after the load's end (s) the last of the others came."""

    lost: int
    recovered_s: float


class Outcome(msgspec.Struct, frozen=True):
    """What one showed: the CPU of a change in µs, the lag without a fault, and what each fault did."""

    name: str
    changes: int
    cpu_us: float
    yardsticks: float
    lag: Percentiles
    requests_per_million: float
    faults: dict[str, Fault]
    ended: list[str]
    """The faults that it ended of by itself, and was started again after."""


class _Seen(NamedTuple):
    lags_ns: npt.NDArray[np.int64]
    fault: Fault


class Stage:
    """A server, a receiver, and somebody between them."""

    def __init__(self, peer: Peer, effort: Effort, server: ValkeyServer, place: Place) -> None:
        self._peer, self._effort, self._server, self._place = peer, effort, server, place
        self._client: Any = redis.Redis(port=server.port)
        self._client.config_set("notify-keyspace-events", FLAGS)
        self._seed = 0
        self.ended: list[str] = []
        self.process = peer.start(place)

    def warm_up(self) -> None:
        """Return when what is set arrives; raise `NotHeard`."""
        clocks = Clocks.now()

        def is_heard() -> bool:
            self._revive("the start")
            self._client.hset("bench:999999999", mapping={"n": "1".zfill(12), "d": "1".zfill(19)})
            time.sleep(LOOK_S)
            return len(self._place.receiver.received(clocks).rows) > 0

        try:
            wait_until(is_heard, "the first arrival", 60.0)
        except BenchmarkError as error:
            raise NotHeard(f"{self._peer.name} delivers nothing: {error}") from error
        self.send(1.0, lambda _: None)

    def send(self, seconds: float, during: Callable[[float], None]) -> tuple[Sent, _Seen]:
        """Send a load, each key once; return what was sent, and what arrived of it."""
        effort = self._effort
        keys = Keyspace(max(1, round(effort.rate_per_s * seconds)), skew="each")
        self._seed += 1
        load = Load(Arrivals(rate_per_s=effort.rate_per_s), keys, seconds=seconds, seed=self._seed)
        folder, clocks = Path(tempfile.mkdtemp(prefix="drive-", dir=self._place.folder)), Clocks.now()
        with Driver(self._server.port, load, folder) as driver:
            while not driver.is_over():
                during((time.monotonic_ns() - driver.started_ns) / 1e9)
                time.sleep(0.02)
            sent = driver.join()
        return sent, self._settled(sent, clocks)

    def _settled(self, sent: Sent, clocks: Clocks) -> _Seen:
        """Return what has arrived once all has, or nothing more comes."""
        receiver = self._place.receiver
        seen_bytes, since_s = -1, time.monotonic()
        while True:
            size = receiver.size()
            if size != seen_bytes:
                seen_bytes, since_s = size, time.monotonic()
                found = self._look(sent, clocks)
                if not found.fault.lost:
                    return found
            if time.monotonic() - since_s > self._effort.quiet_s:
                return found
            time.sleep(LOOK_S)

    def _look(self, sent: Sent, clocks: Clocks) -> _Seen:
        everything = self._place.receiver.received(clocks)
        received = Received(everything.rows[everything.column("due_ns") >= sent.started_ns])
        truth = check.in_redis(self._server.port, sent.plan, sent.started_ns)
        verdict = check.compare(truth, check.arrived(received), len(sent.plan))
        lags_ns, last_ns = lags_of(sent, received, clocks)["invoked"], received.column("invoked_ns").max(initial=0)
        recovered_s = max(0.0, float(last_ns - sent.started_ns) / 1e9 - sent.took_s)
        return _Seen(lags_ns, Fault(verdict.lost + verdict.stale + verdict.invented, round(recovered_s, 1)))

    def _revive(self, after: str) -> None:
        if self.process.poll() is not None:
            self.ended.append(after)
            self.process = self._peer.start(self._place)

    def light(self) -> tuple[float, Percentiles, float, Fault]:
        """Return the CPU of a change, the lag, requests a million changes, and what was lost without any fault."""
        before_s, before = cpu_s(self.process), self._place.receiver.requests()
        sent, seen = self.send(self._effort.seconds, lambda _: None)
        used_s, requests = cpu_s(self.process) - before_s, self._place.receiver.requests() - before
        changes = len(sent.plan)
        lag = percentiles_of(seen.lags_ns[seen.lags_ns != NEVER])
        return used_s / changes * 1e6, lag, requests / changes * 1e6, seen.fault

    def client_kills(self) -> Fault:
        """Return what is lost where its subscription is killed a few times."""
        effort, done = self._effort, 0

        def during(at_s: float) -> None:
            nonlocal done
            if done < effort.kills and at_s > (done + 1) * effort.seconds / (effort.kills + 1):
                done += 1
                self._client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            self._revive("CLIENT KILL")

        return self.send(effort.seconds, during)[1].fault

    def refusals(self) -> Fault:
        """Return what is lost where the other side answers HTTP 500 for a while."""
        effort, marker = self._effort, self._place.receiver

        def during(at_s: float) -> None:
            marker.refuse(1.0 < at_s < 1.0 + effort.refusal_s)
            self._revive("HTTP 500")

        try:
            return self.send(effort.refusal_s + 3.0, during)[1].fault
        finally:
            marker.refuse(False)

    def killed(self) -> Fault:
        """Return what is lost where it is killed, and started again."""
        effort, at = self._effort, [self._effort.seconds / 3, 0.0]

        def during(at_s: float) -> None:
            if at[0] and at_s > at[0]:
                kill(self.process)
                at[:] = [0.0, at_s + effort.pause_s]
            elif at[1] and at_s > at[1]:
                at[1] = 0.0
                self.process = self._peer.start(self._place)

        return self.send(effort.seconds, during)[1].fault


def play(peer: Peer, effort: Effort, yardstick_us: Callable[[], float]) -> Outcome:
    """Put one through everything, on a server of its own; raise `BenchmarkError`."""
    with tempfile.TemporaryDirectory(prefix="peer-") as name, ValkeyServer() as server:
        folder = Path(name)
        with Receiver(folder) as receiver:
            stage = Stage(peer, effort, server, Place(server.url, receiver, folder))
            try:
                stage.warm_up()
                before_us = yardstick_us()
                cpu_us, lag, requests, calm = stage.light()
                by_us = (before_us + yardstick_us()) / 2
                faults = {
                    "no fault": calm,
                    "CLIENT KILL": stage.client_kills(),
                    "HTTP 500": stage.refusals(),
                    "kill -9": stage.killed(),
                }
            finally:
                _end(stage.process)
    changes = round(effort.rate_per_s * effort.seconds)
    return Outcome(
        peer.name, changes, round(cpu_us, 1), round(cpu_us / by_us, 1), lag, round(requests), faults, stage.ended
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        stop(process)
