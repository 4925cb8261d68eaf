"""The order of the house: imports point down, pure modules stay pure, the supervisor stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BOTTOM = 0
FLOORS = {
    "engine.cli": 5,
    "engine.__main__": 5,
    "engine.audit": 4,
    "engine.supervision": 4,
    "engine.observe": 4,
    "engine.redrive": 4,
    "engine.sandbox": 4,
    "engine.capture": 3,
    "engine.delivery": 3,
    "engine.destination": 3,
    "engine.lifecycle": 2,
    "engine.settings.file": 2,
    "engine.settings.checks": 2,
    "engine.ring": 1,
    # Everybody logs.
    "engine.observe.logs": BOTTOM,
    # The settings' checks read what a route's destination says.
    "engine.destination.base": BOTTOM,
}
"""Package or module → its floor; the longest name that fits counts, all others stand at the bottom."""

APART = [
    ("engine.capture", "engine.delivery"),
    ("engine.delivery", "engine.capture"),
    ("engine.sandbox", "engine.supervision"),
    ("engine.supervision", "engine.sandbox"),
    ("lambdas", "engine"),
]
"""The first never imports the second, though their floors would allow it."""

LOADS_SETTINGS = {"engine.cli"}

PURE = {
    "engine.audit.pace",
    "engine.audit.verdict",
    "engine.destination.base",
    "engine.model",
    "engine.errors",
    "engine.routing.events",
    "engine.routing.glob",
    "engine.routing.routes",
    "engine.capture.dirty",
    "engine.capture.shards",
    "engine.delivery.lanes.batch",
    "engine.delivery.lanes.lane",
    "engine.delivery.lanes.retry",
    "engine.delivery.lanes.settle",
    "engine.aws.failure_arns",
    "engine.redrive.letters",
    "engine.ring.codec",
    "engine.ring.layout",
    "engine.routing.slices",
    "engine.observe.metrics",
    "engine.supervision.children",
    "engine.supervision.messages",
    "engine.supervision.reload",
}
IMPURE = {
    "asyncio", "boto3", "botocore", "datetime", "engine.clock", "mmap", "multiprocessing", "os", "pathlib",
    "random", "redis", "select", "selectors", "socket", "subprocess", "threading", "time", "urllib3",
}  # fmt: skip

CLIENTS = {"aiohttp", "boto3", "botocore", "hiredis", "redis", "urllib3"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for top in ("engine", "lambdas") for path in (ROOT / top).rglob("*.py")}


def imports_of(name: str, path: Path) -> Iterator[str]:
    """Yield every module that is imported anywhere in the file, inside functions too."""
    known = modules()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in known]
            yield from inner or [base]


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def floor_of(name: str) -> int:
    fitting = [package for package in FLOORS if is_in(name, package)]
    return FLOORS[max(fitting, key=len)] if fitting else BOTTOM


ALL = sorted(modules().items())


@pytest.mark.parametrize(("name", "path"), ALL, ids=[name for name, _ in ALL])
def test_imports_point_down(name: str, path: Path) -> None:
    """A module imports from its own floor or from below, and never from what must stay apart from it."""
    for imported in imports_of(name, path):
        if is_in(imported, "engine"):
            assert floor_of(imported) <= floor_of(name), f"{name} imports {imported}, which stands above it"
        for package, apart in APART:
            assert not (is_in(name, package) and is_in(imported, apart)), f"{name} imports {imported}"


def test_only_the_audit_knows_what_functions_write() -> None:
    """The engine invokes functions without knowing them; what compares their results has to."""
    knowing = {name for name, path in ALL if any(is_in(imported, "lambdas") for imported in imports_of(name, path))}
    knowing = {name for name in knowing if not is_in(name, "lambdas")}
    assert all(is_in(name, "engine.destination") or is_in(name, "engine.audit") for name in knowing)


def test_only_the_command_line_loads_settings() -> None:
    """Everybody but the command line is handed what it needs."""
    loaders = {name for name, path in ALL if "engine.settings.file" in imports_of(name, path)}
    assert loaders <= LOADS_SETTINGS


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_do_no_io_and_read_no_clock(name: str) -> None:
    """Time, randomness and the outer world are arguments of pure modules."""
    for imported in imports_of(name, modules()[name]):
        assert not any(is_in(imported, impure) for impure in IMPURE), f"{name} imports {imported}"


def test_the_supervisor_is_light() -> None:
    """The supervisor's process loads no client of Redis or AWS, and starts no thread."""
    code = (
        "import engine.cli, engine.supervision.supervisor, engine.supervision.mains, engine.supervision.errands.plan\n"
        "import sys, threading\n"
        "assert threading.active_count() == 1\n"
        f"print(*sorted({CLIENTS!r} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
