"""What can go wrong, and what the user can do about it.  (pure)

::

    EngineError                 exit 1: one line, one remedy
    ├── ConfigError             exit 2: every problem of the settings at once
    ├── RedisError              the server
    │   ├── RedisUnreachable    no connection, or it broke
    │   │   └── RedisClosed     the other side ended one that was made
    │   ├── RedisRefused        wrong password, missing right
    │   └── NotificationsOff    keyspace notifications are off, and we may not set them
    └── SupervisionError        children that do not come up

Expected outcomes are return values, never exceptions; bugs are asserts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class EngineError(Exception):
    """A failure that a user can understand: what happened, to what, and the remedy."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the settings, or with what they name: where it is, what is wrong, how to fix it.

    ``passes`` if it may resolve itself without anybody's help.
    """

    place: str
    message: str
    hint: str = ""
    passes: bool = False

    def __str__(self) -> str:
        line = f"{self.place}: {self.message}"
        return f"{line} ({self.hint})" if self.hint else line


class ConfigError(EngineError):
    """The settings can't be used; ``problems`` holds all that is wrong with them, at least one."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class RedisError(EngineError):
    """The Redis or Valkey server did not do what the engine needs."""


class RedisUnreachable(RedisError):
    """No connection could be made in time, or the connection broke."""


class RedisClosed(RedisUnreachable):
    """The server, or somebody on the way to it, ended a connection."""


class RedisRefused(RedisError):
    """The server answered with a refusal: authentication, a missing right, a wrong mode."""


class NotificationsOff(RedisError):
    """Keyspace notifications lack flags that the routes need, and the engine may not set them."""

    warnings: tuple[str, ...] = ()
    """What else was found out about the server."""


class SupervisionError(EngineError):
    """A child process does not come up."""
