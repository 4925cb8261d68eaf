"""What a mutant is, and how the list is read."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).parent / "lists"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A promise, the line of code that keeps it, the broken line, and the tests of which one must fail.

    ``line`` and ``broken`` may be several lines; ``line`` stands exactly once in ``file``. ``tests`` are arguments of
    pytest.
    """

    name: str
    promise: str
    file: str
    line: str
    broken: str
    tests: tuple[str, ...]

    def problem(self, root: Path = ROOT) -> str:
        """Return what is wrong with this entry as the code stands, or nothing."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file} is not there"
        count = path.read_text().count(self.line)
        if count != 1:
            return f"the line stands {count} times in {self.file}, not once: {self.line.strip()[:80]}"
        if self.line == self.broken:
            return "the broken line is the line"
        missing = [test for test in self.tests if not (root / test.partition("::")[0]).exists()]
        if missing or not self.tests:
            return f"no such tests: {', '.join(missing) or 'none are named'}"
        return ""

    def broken_text(self, text: str) -> str:
        """Return a file's text with this mutant in it."""
        return text.replace(self.line, self.broken, 1)


def load(folder: Path = LISTS) -> list[Mutant]:
    """Read all lists, sorted by file name: ``[[mutants]]`` tables with the fields of `Mutant`."""
    found: list[Mutant] = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["mutants"]:
            tests = tuple(entry.pop("tests"))
            found.append(Mutant(**entry, tests=tests))
    return found
