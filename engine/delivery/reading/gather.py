"""Several nodes are asked at once: their jobs continue as answers arrive, until all are over, or time is up.

Late jobs continue beside the loop.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence

from engine.clock import monotonic_ms
from engine.delivery.reading.job import Job
from engine.delivery.reading.node_reader import NodeReader
from engine.delivery.sockets import Sockets


def gather(jobs: Sequence[Job], patience_ms: int | None) -> list[Job]:
    """Step the jobs until they are over; return those that are not when none has ended for ``patience_ms``.

    With None, each is waited for until its node is silent for too long.
    """
    if len(jobs) == 1:
        return [] if _is_over_in_time(jobs[0], patience_ms) else list(jobs)
    running = [job for job in jobs if not job.step()]
    poller = select.poll()
    by_descriptor = {_descriptor(job): job for job in running}
    for descriptor, job in by_descriptor.items():
        poller.register(descriptor, _wants(job))
    ended_ms = monotonic_ms()
    while by_descriptor:
        if patience_ms is not None:
            wait_ms = ended_ms + patience_ms - monotonic_ms()
        else:
            wait_ms = min(job.heard_ms + job.reader.read_timeout_ms for job in by_descriptor.values()) - monotonic_ms()
        ready = poller.poll(max(0, wait_ms))
        for descriptor, _ in ready:
            job = by_descriptor[descriptor]
            if not job.step():
                poller.modify(descriptor, _wants(job))
                continue
            del by_descriptor[descriptor]
            poller.unregister(descriptor)
            ended_ms = monotonic_ms()
        if not ready and patience_ms is not None:
            break
        if not ready:
            _give_up_silent(by_descriptor, poller)
    return list(by_descriptor.values())


def _is_over_in_time(job: Job, patience_ms: int | None) -> bool:
    """Step one job until it is over; return False if time is up before. For a lone server that is nearly all."""
    if job.step():
        return True
    reader, is_sending = job.reader, False
    poller = reader.poller()
    while True:
        wants = _wants(job)
        if is_sending or wants != select.POLLIN:
            is_sending = wants != select.POLLIN
            poller.modify(_descriptor(job), wants)
        wait_ms = (reader.read_timeout_ms if patience_ms is None else patience_ms) + job.heard_ms - monotonic_ms()
        # What keeps arriving is not waited for: it is here.
        if poller.poll(max(0, wait_ms)):
            if job.step():
                return True
        elif patience_ms is None:
            job.give_up()
            return True
        else:
            if is_sending:
                poller.modify(_descriptor(job), select.POLLIN)
            return False


def _give_up_silent(by_descriptor: dict[int, Job], poller: select.poll) -> None:
    moment_ms = monotonic_ms()
    for descriptor, job in list(by_descriptor.items()):
        if moment_ms - job.heard_ms >= job.reader.read_timeout_ms:
            job.give_up()
            del by_descriptor[descriptor]
            poller.unregister(descriptor)


def _descriptor(job: Job) -> int:
    assert job.reader.connection is not None
    return job.reader.connection.fileno()


def _wants(job: Job) -> int:
    assert job.reader.connection is not None
    return job.reader.connection.wants()


class Late:
    """Jobs that continue beside a loop; ``over`` receives those that end."""

    def __init__(self, sockets: Sockets, over: Callable[[Job], None]) -> None:
        self._sockets = sockets
        self._over = over

    def watch(self, job: Job) -> None:
        """Let this job continue whenever its node answers."""
        descriptor = _descriptor(job)
        self._sockets.watch(descriptor, _wants(job), lambda: self._go_on(job, descriptor))

    def _go_on(self, job: Job, descriptor: int) -> None:
        if job.step():
            self._sockets.forget(descriptor)
            self._over(job)
        else:
            self._sockets.change(descriptor, _wants(job))

    def abandon(self, reader: NodeReader) -> None:
        """Stop waiting for a node's answers."""
        if reader.job is not None:
            self._sockets.forget(_descriptor(reader.job))
            reader.job.give_up()
