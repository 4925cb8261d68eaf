from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import orjson
import pytest

import engine
from benchmarks.report import words
from engine.cli import cli
from engine.model import Record
from engine.settings.file import load_settings
from lambdas import contract
from tests.chaos import registry
from tests.support_docs import reference

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "lambdas").rglob("*.md"),
    ROOT / "benchmarks" / "README.md",
    ROOT / "config" / "README.md",
]


def test_every_make_target_that_is_named_exists() -> None:
    """What the documents tell users to type is there, and has its line in `make help`."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|\t)make ([a-z-]+)", "".join(path.read_text() for path in DOCUMENTS), re.MULTILINE))
    assert {"demo", "test", "bench", "lint", "help"} <= named & targets
    assert named <= targets


def test_the_reference_has_every_command_and_setting() -> None:
    """The pages that the site generates name each command, each section and each setting with its default."""
    commands, settings = reference.commands_page(), reference.settings_page()
    for name in cli.commands:
        assert f"## `engine {name}`" in commands
    documented = tomllib.loads((ROOT / "config" / "engine.toml").read_text())
    for section, values in documented.items():
        assert f"## `[{section}]`" in settings
        for name in values[0] if isinstance(values, list) else values:
            assert f"### `{name}`" in settings or f"## `[{section}.{name}]`" in settings, name


def test_every_command_in_the_documents_exists() -> None:
    """What users are told to type is a command, with options that it has."""
    texts = "".join(path.read_text() for path in DOCUMENTS)
    blocks = "".join(re.findall(r"```sh\n(.*?)```", texts, re.DOTALL))
    lines = re.findall(r"^engine ([^#\n]+)", blocks, re.MULTILINE) + re.findall(r"`engine ([a-z][^`]*)`", texts)
    assert len(lines) > 20
    for line in lines:
        words = line.split()
        command: click.Command | None = cli
        while words and isinstance(command, click.Group) and re.fullmatch("[a-z-]+", words[0]):
            command = command.commands.get(words.pop(0))
        assert command is not None, f"engine {line}"
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= options, f"engine {line}"


def test_figures_have_words() -> None:
    """Each figure of the benchmark has a question that it answers and a title, and no title is of none."""
    code = "".join(path.read_text() for path in (ROOT / "benchmarks" / "judged").glob("*.py"))
    for name in (name for names in words.QUESTIONS.values() for name in names):
        assert f'"{name}"' in code, name
    named = set(re.findall(r'figure\(\s*"([a-z0-9_]+)"|(?:_in_y|_hset|\bof)\(\s*"([a-z0-9_]+_[a-z0-9_]+)"', code))
    for name in {one or other for one, other in named}:
        assert words.question_of(name) != words.OTHERS, name


def test_the_readme_boasts_of_no_fault_that_is_not_there() -> None:
    """It names at most as many faults as the suite has, and as the report has played."""
    match = re.search(r"`make chaos` plays (\d+) faults.*?shows (\d+) of them", README, re.DOTALL)
    assert match is not None
    assert int(match[1]) <= len(registry.load())
    report = (ROOT / "docs" / "faults.md").read_text()
    in_tables = sum(
        int(count) for count in re.findall(r"^\| [^|]+ \| (\d+) \| [\d,]+ \| 0, 0, 0 \|", report, re.MULTILINE)
    )
    of_clusters = re.search(r"\*\*Clusters and Sentinels\.\*\* (\d+) and (\d+) faults", report)
    assert of_clusters is not None
    assert int(match[2]) <= in_tables + int(of_clusters[1]) + int(of_clusters[2])


def test_the_readmes_settings_load(tmp_path: Path) -> None:
    """The example file is one that the engine takes."""
    found = re.findall(r"<<'TOML'\n(.*?)\nTOML", README, re.DOTALL)
    for page in (ROOT / "docs").rglob("*.md"):
        found += re.findall(r"```toml\n(.*?)\n```", page.read_text(), re.DOTALL)
    assert len(found) >= 2
    for text in found:
        file = tmp_path / "engine.toml"
        file.write_text(text)
        settings = load_settings(str(file), {}, {})
        assert settings.routes[0].name == "carts"


def test_the_documented_payload_is_the_contract() -> None:
    """The example has the engine's own fields, and a function can read it."""
    page = (ROOT / "docs" / "write-a-function.md").read_text()
    (text,) = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    event = orjson.loads(text)
    (record,), malformed = contract.records_of(event)
    assert not malformed
    assert record.id == "cart:7"
    assert set(event["records"][0]) <= set(Record.__struct_fields__)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link names a file that is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_the_version_is_told_once() -> None:
    """Package, command and changelog agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == engine.__version__
    assert f"## {engine.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_room_on_the_map_exists() -> None:
    """ARCHITECTURE.md names files and folders that are there."""
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    folder = ROOT
    for cell in rows:
        for name in re.findall(r"`([^`]+)`", cell):
            path = ROOT / name if "/" in name else folder / name
            assert path.exists(), name
            folder = path.parent


def exists(name: str) -> bool:
    """Return whether a dotted name is a package, a module, or a name in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        home = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if home.is_file():
            return count == len(parts) or re.search(rf"\b{parts[count]}\b", home.read_text()) is not None
    return False


def test_modules_that_are_named_exist() -> None:
    """Documents and docstrings name modules where they are now, by dotted names and by paths."""
    tops = ("engine", "lambdas", "benchmarks")
    sources = [path for top in (*tops, "tests") for path in (ROOT / top).rglob("*.py")]
    wrong = []
    for path in [*DOCUMENTS, ROOT / "Makefile", *sources]:
        text = path.read_text()
        dotted = re.findall(rf"(?:`|-m )((?:{'|'.join(tops)})\.[a-z_.]+[a-z_])(?![\w(*])", text)
        files = re.findall(rf"`((?:{'|'.join(tops)})/[\w/]+\.py)`", text)
        lost = [name for name in dotted if not name.endswith((".toml", ".log")) and not exists(name)]
        lost += [name for name in files if not (ROOT / name).exists()]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in lost]
    assert wrong == []


def test_every_topic_of_the_health_line_has_a_runbook() -> None:
    """What `engine status` may name has a section, whose link is the topic itself."""
    source = (ROOT / "engine" / "observe" / "health.py").read_text()
    topics = set(re.findall(r'Finding\((?:Condition\.\w+|condition|finding\.condition), "([a-z-]+)"', source))
    assert {"late", "route-failing", "not-running"} <= topics
    titles = re.findall(r"^## (.+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert topics <= {title.lower().replace(" ", "-") for title in titles}
