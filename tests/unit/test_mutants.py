"""The list of mutants stays true to the code, and whoever plays them can tell killed from survived."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.mutant import LISTS, Mutant, load
from tests.mutants.run import Copy, Fate
from tests.shares import share_of

MUTANTS = load()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_breaks_a_line_that_is_there(mutant: Mutant) -> None:
    """Each line stands once in its file and each test is there; else the list has fallen behind the code."""
    assert not mutant.problem()


def test_mutants_have_names_of_their_own() -> None:
    """No two mutants share a name."""
    assert not [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1]
    assert list(LISTS.glob("*.toml"))


def test_shares_cover_every_mutant_once() -> None:
    """A rotating share plays each mutant once a round."""
    played = [mutant for index in range(5) for mutant in share_of(MUTANTS, index, 5)]
    assert sorted(mutant.name for mutant in played) == sorted(mutant.name for mutant in MUTANTS)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("mutants") / "project")


def test_fates(copy: Copy) -> None:
    """A broken line that a test notices is killed; one that none notices survives; one without tests proves nothing."""
    path = copy.folder / "engine" / "example.py"
    path.write_text("def two() -> int:\n    return 2\n")
    test = copy.folder / "tests" / "test_example.py"
    test.write_text("from engine.example import two\n\ndef test_two():\n    assert two() == 2\n")
    killed = Mutant("killed", "", "engine/example.py", "return 2", "return 3", ("tests/test_example.py",))
    alike = Mutant("alike", "", "engine/example.py", "return 2", "return 1 + 1", ("tests/test_example.py",))
    nothing = Mutant("none", "", "engine/example.py", "return 2", "return 3", ("tests/test_example.py::test_three",))
    no_python = Mutant("no python", "", "engine/example.py", "return 2", "return )", ("tests/test_example.py",))
    fates = [copy.play(mutant).fate for mutant in (killed, alike, nothing, no_python)]
    assert fates == [Fate.KILLED, Fate.SURVIVED, Fate.INVALID, Fate.INVALID]
    assert "return 2" in Path(path).read_text()
