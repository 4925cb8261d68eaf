"""An empty batch asks a function whether it could write: before the start, not after the first change.

A function that was set up wrongly raises ``SetupError`` (see ``lambdas/contract.py``), which no retry can mend. Any
other answer lets the engine start: a throttle or an outage passes, and a function of the user's own may not know
what to do with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.config import AwsSettings, DeliverySettings
from engine.delivery.targets.lambda_ import LambdaTarget
from engine.errors import Problem
from engine.model import Failure

EMPTY_BATCH = b'{"records":[]}'
SETUP_ERROR = "SetupError: "
TIMEOUT_MS = 5_000
"""A function that thinks about nothing for longer does not hold up the start."""


def probe_functions(
    functions: Iterable[tuple[str, str]], aws: AwsSettings, delivery: DeliverySettings
) -> list[Problem]:
    """Ask for each (place, function) that takes batches whether it can work as it is set up."""
    problems: list[Problem] = []
    brief = msgspec.structs.replace(delivery, invoke_timeout_ms=min(TIMEOUT_MS, delivery.invoke_timeout_ms))
    for place, function in functions:
        target = LambdaTarget(function, aws, brief, report_item_failures=False, connections_max=1)
        outcome = target.invoke(EMPTY_BATCH)
        target.close()
        if outcome.failure is Failure.FUNCTION_ERROR and outcome.reason.startswith(SETUP_ERROR):
            hint = "see the function's environment and rights"
            problems.append(Problem(place, f"{function} cannot work: {outcome.reason.removeprefix(SETUP_ERROR)}", hint))
    return problems
