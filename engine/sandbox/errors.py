"""What can go wrong in the sandbox; each failure is one line and one remedy."""

from __future__ import annotations

from importlib.util import find_spec

from engine.errors import EngineError


class SandboxError(EngineError):
    """A part of the sandbox can't be started, or ended by itself."""


class PortInUse(SandboxError):
    """Somebody else listens on the port that a part of the sandbox was told to use."""


def require_module(module: str, part: str) -> None:
    """Raise SandboxError with the remedy if a package of the extra ``sandbox`` is missing."""
    if find_spec(module) is None:
        raise SandboxError(f"{part} needs the package {module}", hint="pip install 'ingest-engine[sandbox]'")
