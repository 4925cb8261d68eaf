"""Rounds side by side: each in a process of its own, all with one DynamoDB."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from engine.sandbox.dynamodb import DynamoDbServer
from tests.chaos.model import Round, seed_of
from tests.chaos.play import play, stderr_to
from tests.chaos.registry import Fault

END_S_MAX = 20.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Task:
    """One round that is to be played."""

    fault: Fault
    turn: int
    seed: int

    @property
    def name(self) -> str:
        """Return a name for its table and its folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.fault.name.lower()).strip("-")[:100] + f"-{self.turn + 1}"


def own_folder(parent: Path, seed: int) -> Path:
    """Return a new folder of a run's own: others with the same seed may be under way."""
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{seed}-", dir=parent))


def play_all(
    faults: Sequence[Fault], seed: int, rounds: int, jobs: int, wait_s_max: float, logs: Path | None
) -> Iterator[tuple[str, list[Round]]]:
    """Play every fault, ``jobs`` rounds at once; yield each by name, with its rounds, when its last one is over.

    Where the caller is interrupted, the rounds under way are ended with all that they have started.
    """
    waiting = deque(Task(fault, turn, seed_of(seed, fault.name, turn)) for fault in faults for turn in range(rounds))
    played: dict[str, list[Round]] = {fault.name: [] for fault in faults}
    under_way: dict[Connection, tuple[Task, BaseProcess]] = {}
    dynamodb = _dynamodb()
    try:
        while waiting or under_way:
            while waiting and len(under_way) < jobs:
                task = waiting.popleft()
                ends, process = _begin(task, dynamodb, wait_s_max, logs)
                under_way[ends] = (task, process)
            for ended in wait(list(under_way)):
                assert isinstance(ended, Connection)
                task, process = under_way.pop(ended)
                rounds_of = played[task.fault.name]
                rounds_of.append(_result(ended, task))
                process.join()
                if len(rounds_of) == rounds:
                    yield task.fault.name, sorted(rounds_of, key=lambda one: one.turn)
    finally:
        for _, process in under_way.values():
            process.terminate()
        for _, process in under_way.values():
            process.join(END_S_MAX)
        dynamodb.stop()


def _begin(
    task: Task, dynamodb: DynamoDbServer, wait_s_max: float, logs: Path | None
) -> tuple[Connection, BaseProcess]:
    """Start a round; return where its result comes from, and its process."""
    keep = None if logs is None else logs / task.name
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        ours.close()
        _settle_in()
        try:
            result = play(
                task.fault, task.seed, dynamodb, f"chaos-{task.name}", turn=task.turn, wait_s_max=wait_s_max, keep=keep
            )
        except KeyboardInterrupt:
            os._exit(130)
        theirs.send(result)

    process = multiprocessing.get_context("fork").Process(target=work, name=task.name)
    process.start()
    theirs.close()
    return ours, process


def _result(ended: Connection, task: Task) -> Round:
    with ended:
        try:
            result: Round = ended.recv()
        except EOFError:
            return Round(task.seed, task.turn, error="the round's own process ended")
        return result


def _settle_in() -> None:
    """In a new process: Ctrl-C is the parent's to hear; end with it, and clean up when told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _dynamodb() -> DynamoDbServer:
    with stderr_to(Path(os.devnull)):
        return DynamoDbServer().start()
