"""A Lambda on this machine: the real Invoke API before handlers in worker processes."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.sandbox import aws
from engine.sandbox.errors import SandboxError, require_module
from engine.sandbox.functions.spec import ACCEPT, FunctionSpec
from engine.sandbox.service import Service

__all__ = ["ACCEPT", "FunctionSpec", "LambdaRuntime"]


class LambdaRuntime(Service):
    """Functions that boto3 can invoke; a context manager.

    ``journal`` gets one JSON line for each invocation that has ended: ``function``, ``started_ns`` (the request was
    there in full), ``ended_ns``, ``status``, ``error`` (the function's, or the service's; empty if it went well),
    ``payload_bytes``, ``records``, and with ``journal_payloads`` the ``event`` itself. ``environment`` is for all
    functions; they see none of the caller's own AWS variables.
    """

    def __init__(
        self,
        functions: Sequence[FunctionSpec],
        port: int = 0,
        journal: str | Path | None = None,
        journal_payloads: bool = False,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("engine.sandbox.functions.server", "the sandbox's Lambda runtime", port)
        names = [spec.name for spec in functions]
        if len(set(names)) < len(names):
            raise SandboxError(f"two functions have one name: {', '.join(sorted(names))}")
        self.functions = tuple(functions)
        self.environment = dict(environment or {})
        self._journal = str(Path(journal).absolute()) if journal is not None else ""
        self._journal_payloads = journal_payloads

    def instructions(self) -> dict[str, Any]:
        """Return what the server is told."""
        return {
            "functions": [spec.to_json() for spec in self.functions],
            "environment": self.environment,
            "journal": self._journal,
            "journal_payloads": self._journal_payloads,
        }

    def launch(self, listener: socket.socket, environment: Mapping[str, str] | None = None) -> None:
        """Start the process; raise SandboxError if aiohttp is not installed."""
        with listener:
            require_module("aiohttp", self._part)
            super().launch(listener, environment)

    def client(self) -> Any:
        """Return a boto3 client of this runtime."""
        return aws.client("lambda", self.endpoint)
