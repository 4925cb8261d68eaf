"""Lanes without threads and without AWS: what they would send is written down."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.backlog.backlog import Backlog
from engine.delivery.dispatch import Burial
from engine.delivery.lanes import hands, route_lane
from engine.delivery.lanes.hands import LaneKit
from engine.delivery.lanes.work import Batch
from engine.delivery.sockets import Sockets
from engine.ring.counters import Board
from engine.ring.wake import Wake

UNIX_MS = 1_000_000
DELIVERY = DeliverySettings(
    invoke_timeout_ms=9_000,
    deadline_ms=1_000,
    deadline_margin_ms=400,
    retry_backoff_ms_max=2_000,
    retrying_keys_max=2,
)
ROUTE = RouteSettings(name="carts", function="f", events=("hset",), batch_size=4, parallelization_factor=2)


class Hands:
    """Stands for a lane's threads: what it was given, in order."""

    def __init__(self, *_: object, **__: object) -> None:
        self.jobs: list[Batch | Burial] = []

    def submit(self, job: Batch | Burial) -> None:
        self.jobs.append(job)

    def close(self) -> None:
        pass

    def now_ms(self) -> int:
        return UNIX_MS


@contextmanager
def lane_kit(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LaneKit]:
    """Yield what lanes of one invoker share; time stands still at 0, and all hands are `Hands`."""
    for name in ("Dispatcher", "make_target", "failure_sink"):
        patch.setattr(hands, name, Hands)
    patch.setattr(route_lane, "monotonic_ms", lambda: 0)
    patch.setattr(route_lane, "now_ms", lambda: UNIX_MS)
    backlog, wake = Backlog(str(folder), 0, 1, 1 << 26), Wake()
    delivery = msgspec.structs.replace(DELIVERY, backlog_folder=str(folder))
    yield LaneKit(0, delivery, AwsSettings(), backlog, Board(1).row(0), deque(), wake, Sockets())
    backlog.close()
    wake.close()
