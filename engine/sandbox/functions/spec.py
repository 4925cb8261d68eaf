"""What a function of the sandbox is: its name, its handler, its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.sandbox.aws import ACCOUNT_ID, REGION
from engine.sandbox.errors import SandboxError

ACCEPT = "accept"
MEMORY_MB = 512

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HANDLER = re.compile(r"[A-Za-z_][\w.]*[:.][A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One function. The handler ``accept`` is a stand-in: the server accepts whatever comes, and runs nothing.

    One that ``reloads`` is imported again when a file changes that it was imported from.
    """

    name: str
    handler: str
    concurrency_max: int = 10
    timeout_s: float = 30.0
    environment: Mapping[str, str] = field(default_factory=dict)
    reloads: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SandboxError(
                f"{self.name!r} is not a valid function name", hint="letters, digits, - and _, at most 64"
            )
        if self.handler != ACCEPT and not _HANDLER.fullmatch(self.handler):
            raise SandboxError(
                f"function {self.name}: {self.handler!r} is not a handler", hint="module:function, or accept"
            )
        if self.concurrency_max < 1 or not 0 < self.timeout_s <= 900:
            raise SandboxError(
                f"function {self.name}: concurrency_max {self.concurrency_max}, timeout_s {self.timeout_s}",
                hint="at least 1; more than 0 and at most 900 s",
            )

    @property
    def arn(self) -> str:
        """Return the function's name in full."""
        return f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{self.name}"

    @property
    def module_and_function(self) -> tuple[str, str]:
        """Return the handler in its two parts."""
        module, _, function = self.handler.replace(":", ".").rpartition(".")
        return module, function

    def to_json(self) -> dict[str, Any]:
        """Return the spec in JSON's types."""
        return asdict(self) | {"environment": dict(self.environment)}
