"""What can go wrong in a benchmark that is the user's to mend: one message, no traceback.

``BenchmarkError``: `NotReached`, `EngineEnded`, `SenderFailed`, and where they are raised `ServerError`, `SinkError`,
`ScenarioError`.
"""

from __future__ import annotations

import hiredis
from botocore.exceptions import BotoCoreError, ClientError

from engine.errors import EngineError


class BenchmarkError(Exception):
    """A benchmark that can't be run or ended; the message says why."""


class NotReached(BenchmarkError):
    """Something that was waited for did not come."""


class EngineEnded(BenchmarkError):
    """The engine ended before it was ready; it has told why itself."""


class SenderFailed(BenchmarkError):
    """A load could not be sent: the server refused a command, or closed the connection."""


FAILURES = (BenchmarkError, EngineError, hiredis.HiredisError, BotoCoreError, ClientError)
"""What a command tells in a sentence: what is above, and what Redis, the engine's own parts or AWS say."""
