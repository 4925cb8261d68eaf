"""The order of the house: imports point down, pure modules stay pure, the supervisor stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GROUND = 0
FLOORS = {
    "engine.cli": 6,
    "engine.__main__": 6,
    "engine.commands": 6,
    "engine.supervision": 5,
    "engine.audit": 5,
    "engine.settings": 5,
    "engine.sandbox": 5,
    "engine.redrive": 4,
    "engine.marks": 4,
    "engine.destination": 4,
    "engine.capture": 3,
    "engine.delivery": 3,
    "engine.console": 2,
    "engine.lifecycle": 2,
    "engine.digests": 1,
    "engine.redis": 1,
    "engine.ring": 1,
    "engine.routing": 1,
    "engine.tracing": 1,
    "engine.observe": 1,
    "engine.aws": 1,
    "engine": GROUND,
}
"""Package or module → its floor; the longest name that fits counts."""

APART = [
    ("engine.capture", "engine.delivery"),
    ("engine.delivery", "engine.capture"),
    ("engine.sandbox", "engine.supervision"),
    ("engine.supervision", "engine.sandbox"),
    ("lambdas", "engine"),
]
"""The first never imports the second, though their floors would allow it."""

USES_SETTINGS = "engine.commands"

MODULES_MAX = 14
"""Of a folder of the engine; past it, some of them ask for a room of their own."""
MODULE_LINES_MAX = 400
CLASS_LINES_MAX = 250
FUNCTION_LINES_MAX = 50
STILL_LARGE = {
    "benchmarks.capacity.plan.deploy",
    "engine.capture.dirty.DirtyKeys._take_in",
    "tests.simulation.simulation.Simulation",
}
"""Modules, classes and functions that wait to be cut; nothing is added here."""

DECIDE = {
    "engine.audit.verdict",
    "engine.capture.feed.comparison",
    "engine.capture.dirty",
    "engine.delivery.lanes.batch",
    "engine.delivery.lanes.fences",
    "engine.delivery.lanes.health",
    "engine.delivery.lanes.lane",
    "engine.delivery.lanes.retry",
    "engine.delivery.lanes.settle",
    "engine.delivery.lanes.verdict",
    "engine.delivery.lanes.work",
    "engine.ring.codec",
    "engine.ring.layout",
    "engine.routing.assignment",
    "engine.routing.byte_classes",
    "engine.routing.routes",
    "engine.supervision.children",
    "engine.supervision.progress.progress",
    "engine.supervision.reload",
}
IMPURE = {
    "asyncio", "boto3", "botocore", "engine.clock", "mmap", "multiprocessing", "os", "pathlib",
    "random", "redis", "secrets", "select", "selectors", "socket", "subprocess", "threading", "time", "urllib3",
}  # fmt: skip

NOW = re.compile(r"\b(?:now|utcnow|today)\(\)|\bnow\(UTC\)")
"""How `datetime` reads the clock."""

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
    return FLOORS[max(fitting, key=len)]


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


def test_only_the_command_line_uses_settings() -> None:
    """Everybody but the commands is handed what it needs: the room that reads settings is theirs."""
    users = {
        name for name, path in ALL if any(is_in(imported, "engine.settings") for imported in imports_of(name, path))
    }
    assert all(is_in(name, "engine.settings") or is_in(name, USES_SETTINGS) for name in users)


def test_rooms_are_small() -> None:
    """No folder of the engine holds more modules than one look takes in."""
    rooms = Counter(path.parent for path in (ROOT / "engine").rglob("*.py") if path.name != "__init__.py")
    assert {str(room): count for room, count in rooms.items() if count > MODULES_MAX} == {}


def large(path: Path) -> Iterator[tuple[str, int]]:
    """Yield a file's parts that are too long, itself among them: dotted name, lines."""
    text, module = path.read_text(), module_name(path)
    if len(text.splitlines()) > MODULE_LINES_MAX:
        yield module, len(text.splitlines())

    def within(node: ast.AST, name: str) -> Iterator[tuple[str, int]]:
        for part in ast.iter_child_nodes(node):
            if not isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from within(part, name)
                continue
            lines_max = CLASS_LINES_MAX if isinstance(part, ast.ClassDef) else FUNCTION_LINES_MAX
            lines = (part.end_lineno or 0) - part.lineno + 1
            if lines > lines_max:
                yield f"{name}.{part.name}", lines
            yield from within(part, f"{name}.{part.name}")

    yield from within(ast.parse(text), module)


@pytest.mark.parametrize("top", ["engine", "lambdas", "benchmarks", "tests"])
def test_modules_classes_and_functions_are_short(top: str) -> None:
    """A module has at most 400 lines, a class 250, a function 50: each can be read as one thing."""
    found = {name: lines for path in (ROOT / top).rglob("*.py") for name, lines in large(path)}
    assert {name: lines for name, lines in found.items() if name not in STILL_LARGE} == {}


def says_it_is_pure(path: Path) -> bool:
    summary = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
    return bool(re.search(r"\(pure\)|\bPure\.", summary))


@pytest.mark.parametrize("name", [name for name, path in ALL if says_it_is_pure(path)])
def test_what_says_it_is_pure_is(name: str) -> None:
    """A module whose docstring says so does no I/O and reads no clock: time and randomness are its arguments."""
    path = modules()[name]
    for imported in imports_of(name, path):
        assert not any(is_in(imported, impure) for impure in IMPURE), f"{name} imports {imported}"
    assert not NOW.search(path.read_text()), f"{name} reads the clock"


@pytest.mark.parametrize("name", sorted(DECIDE))
def test_what_decides_is_pure(name: str) -> None:
    """Where the guarantee is decided, no I/O gets in."""
    assert says_it_is_pure(modules()[name])


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
