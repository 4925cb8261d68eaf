"""The status file as others read it: what the engine that runs here reports about itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import EngineError

STALE_MS = 10_000
"""A status older than this was left behind by an engine that was killed, or is stopped."""


def read_status(path: str, now_ms: int) -> dict[str, Any]:
    """Return the status of the engine that runs here; raise EngineError if none does."""
    hint = "start one with 'engine start', or name its --config"
    try:
        status: dict[str, Any] = msgspec.json.decode(Path(path).read_bytes())
        age_ms, pid = now_ms - int(status["updated_at_ms"]), int(status["pid"])
    except FileNotFoundError:
        raise EngineError(f"no engine runs here: there is no {path}", hint=hint) from None
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        raise EngineError(f"{path} is not a status file", hint=hint) from None
    if age_ms > STALE_MS or not _is_alive(pid):
        raise EngineError(
            f"no engine runs here: {path} was last written {age_ms // 1_000} s ago by process {pid}",
            hint="that engine was killed or is stopped; a new start replaces the file",
        )
    return status


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
