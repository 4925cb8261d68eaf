"""What can come of a call instead of its answer."""

from __future__ import annotations


class CallRefused(Exception):
    """DynamoDB answered with an error: ``code`` is what it calls it, ``status`` that of HTTP."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.status = status


class NoAnswer(Exception):
    """There is no answer, or only a part of one.

    ``is_lost`` where the call may have reached DynamoDB, and take its effect even now; ``sent_ms`` is when its first
    byte was sent (Unix time), 0 if nobody knows.
    """

    def __init__(self, reason: str, *, is_lost: bool, sent_ms: int = 0) -> None:
        super().__init__(reason)
        self.is_lost = is_lost
        self.sent_ms = sent_ms
