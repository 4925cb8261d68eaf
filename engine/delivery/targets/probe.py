"""An empty batch asks a function whether it could write: before the start, not after the first change.

A function that was set up wrongly raises ``SetupError`` (see ``lambdas/contract.py``), which no retry can fix. Any
other failure passes, and lets the engine start: a throttle, an outage, a database in failover. A user's own function
may not know what to do with an empty batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.answers import SETUP_ERROR, refuses_older_versions
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.errors import Problem
from engine.model import Failure

EMPTY_BATCH = b'{"records":[]}'
TIMEOUT_MS = 5_000
"""A function that takes longer for an empty batch does not hold up the start."""


@dataclass(slots=True)
class Probe:
    """What functions said about themselves: what keeps one from working, and which keep older values out by themselves.

    One that did not answer has promised nothing.
    """

    problems: list[Problem] = field(default_factory=list)
    refusing: set[str] = field(default_factory=set)


def probe_functions(functions: Iterable[tuple[str, str]], aws: AwsSettings, delivery: DeliverySettings) -> Probe:
    """Ask each (place, function) that takes batches whether it can work as it is set up, and what it promises."""
    probe = Probe()
    brief = msgspec.structs.replace(delivery, invoke_timeout_ms=min(TIMEOUT_MS, delivery.invoke_timeout_ms))
    for place, function in functions:
        target = LambdaTarget(function, aws, brief, report_item_failures=False, connections_max=1)
        outcome, answer = target.ask(EMPTY_BATCH)
        target.close()
        kind, _, reason = outcome.reason.partition(": ")
        if outcome.failure is Failure.REFUSED and kind == SETUP_ERROR:
            hint = "check the function's environment and permissions"
            probe.problems.append(Problem(place, f"{function} cannot work: {reason}", hint))
        elif outcome.failure is not Failure.NONE:
            message = f"{function} failed with an empty batch: {outcome.reason}"
            probe.problems.append(Problem(place, message, "changes are sent to it anyway, and retried", passes=True))
        if refuses_older_versions(answer):
            probe.refusing.add(function)
    return probe
