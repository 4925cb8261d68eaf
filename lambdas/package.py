"""Makes each function's zip: ``python -m lambdas.package [NAME …] [--out FOLDER] [--with FILE …]``.

A zip holds the function's folder, the modules of `lambdas` that it imports, and its requirements, but for what Lambda's
Python runtimes bring. The same sources make the same bytes, so that a deployment sees whether anything changed.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
IN_THE_RUNTIME = frozenset({"boto3", "botocore"})
_WHEN = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def functions() -> list[str]:
    """Return the names of all functions, their folders within this one: those with a handler."""
    return sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("handler.py"))


def handler_of(name: str) -> str:
    """Return what Lambda is told to call."""
    return f"lambdas.{name.replace('/', '.')}.handler.handler"


def sources_of(name: str) -> list[Path]:
    """Return the Python files that a function needs: its own, and what they import of `lambdas`."""
    found: set[Path] = set()
    parents = [folder / "__init__.py" for folder in (ROOT / name).parents if folder.is_relative_to(ROOT)]
    open_ends = [*parents, *sorted((ROOT / name).rglob("*.py"))]
    while open_ends:
        path = open_ends.pop()
        if path not in found:
            found.add(path)
            open_ends += [one for module in _imports(path) for one in _files_of(module)]
    return sorted(found)


def requirements_of(name: str) -> list[str]:
    """Return a function's requirements that Lambda's runtimes lack."""
    lines = (line.strip() for line in (ROOT / name / "requirements.txt").read_text().splitlines())
    wanted = [line for line in lines if line and not line.startswith("#")]
    return [line for line in wanted if _distribution(line) not in IN_THE_RUNTIME]


def package(name: str, out: Path, extra: Iterable[Path] = ()) -> Path:
    """Write one function's zip and return where; ``extra`` files go into its root.

    Raises OSError, and `subprocess.CalledProcessError` if its requirements can't be installed.
    """
    target = out / f"{name.replace('/', '-')}.zip"
    out.mkdir(parents=True, exist_ok=True)
    contents = {path.relative_to(ROOT.parent).as_posix(): path.read_bytes() for path in sources_of(name)}
    contents |= {path.name: path.read_bytes() for path in extra}
    requirements = requirements_of(name)
    if requirements:
        with tempfile.TemporaryDirectory() as folder:
            _install(requirements, folder)
            contents |= {path.relative_to(folder).as_posix(): path.read_bytes() for path in _installed(Path(folder))}
    with zipfile.ZipFile(target, "w") as archive:
        for place in sorted(contents):
            entry = zipfile.ZipInfo(place, _WHEN)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[place], zipfile.ZIP_DEFLATED)
    return target


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files_of(module: str) -> list[Path]:
    top, *rest = module.split(".")
    if top != "lambdas" or not rest:
        return []
    place = ROOT.joinpath(*rest)
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]


def _distribution(requirement: str) -> str:
    name = _NAME.match(requirement)
    return name[0].lower().replace("_", "-") if name else requirement


def _install(requirements: list[str], folder: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    # Only what runs on every processor: whether Lambda's is the one here is not known.
    command += ["--only-binary=:all:", "--platform=any", "--target", folder, *requirements]
    subprocess.run(command, check=True)


def _installed(folder: Path) -> Iterator[Path]:
    """Yield what was installed, without pip's notes of how."""
    for path in folder.rglob("*"):
        is_note = path.parent.suffix == ".dist-info" and path.name not in {"METADATA", "LICENSE"}
        if path.is_file() and not is_note and path.parent.name != "bin":
            yield path


def main(arguments: list[str] | None = None) -> int:
    """Make the zips that are asked for, by default all."""
    parser = argparse.ArgumentParser(prog="python -m lambdas.package", description="Make the functions' zips.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(functions())}; all by default")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the zips (default: dist)")
    parser.add_argument("--with", dest="extra", type=Path, action="append", default=[], help="a file for their roots")
    asked = parser.parse_args(arguments)
    for name in asked.names:
        if name not in functions():
            parser.error(f"there is no function {name}; the functions are {', '.join(functions())}")
    for file in asked.extra:
        if not file.is_file():
            parser.error(f"--with {file}: the file does not exist")
    for name in asked.names or functions():
        try:
            target = package(name, asked.out, asked.extra)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"package: error: {name}: {error}", file=sys.stderr)
            return 1
        print(f"{target}  {target.stat().st_size:,} bytes  handler {handler_of(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
