"""Where files are: every path is absolute once the settings are read, wherever the engine is started from.

A relative path in a settings file starts from that file's folder; one in the environment from the working directory, as
it does for every other program. What was not set is in the state folder.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from engine.settings.draft import Draft

STATE_FOLDER = "supervision.state_folder"
STATE_FILES = {
    "delivery.backlog_folder": "backlog",
    "delivery.dead_letter_file": "dead_letters.jsonl",
    "supervision.status_file": "status.json",
    "supervision.checkpoint_file": "checkpoint",
}
"""Setting → its name in the state folder."""

PATHS = (
    *("redis.username_file", "redis.password_file", "redis.sentinel_password_file"),
    *("redis.tls_ca_file", "redis.tls_cert_file", "redis.tls_key_file"),
    *("console.token_file", "console.tls_cert_file", "console.tls_key_file"),
    "original.function_cfg_file",
    STATE_FOLDER,
    *STATE_FILES,
)
OF_OLD = ".engine"
"""The folder, below the working directory, that held the state before there was a state folder."""

_NAME = "ingest-engine"


def root_paths(draft: Draft, folder: Path) -> None:
    """Make relative paths that were set so far start from this folder."""
    for key in PATHS:
        if draft.is_set(key) and (value := draft.get(key)).strip():
            draft.set(key, os.path.normpath(folder / value), draft.place(key))


def settle_state(draft: Draft, environ: Mapping[str, str]) -> None:
    """Put into the state folder what was not put elsewhere."""
    left = [key for key in STATE_FILES if not draft.get(key)]
    if not left:
        return
    folder = draft.get(STATE_FOLDER).strip() or default_folder(environ)
    if not folder:
        draft.say(STATE_FOLDER, "has no default here: this user has no home directory", "set it, or XDG_STATE_HOME")
        return
    old = Path(folder, OF_OLD)
    if (old / "checkpoint").is_file() and not Path(folder, "checkpoint").is_file():
        folder = str(old)
    draft.set(STATE_FOLDER, folder, draft.place(STATE_FOLDER))
    for key in left:
        draft.set(key, str(Path(folder, STATE_FILES[key])), draft.place(STATE_FOLDER))


def default_folder(environ: Mapping[str, str]) -> str:
    """Return the default place of the state: an absolute path, "" if there is none."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given.startswith("/"):
        return given
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return str(Path(base, _NAME))
    if os.geteuid() == 0:
        return f"/var/lib/{_NAME}"
    home = environ.get("HOME") or _home_of_user()
    return str(Path(home, ".local", "state", _NAME)) if home.startswith("/") else ""


def _home_of_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""
