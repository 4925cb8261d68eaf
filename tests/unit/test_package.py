from __future__ import annotations

import functools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lambdas import package

FUNCTIONS = package.functions()
ENVIRONMENT = {"AWS_DEFAULT_REGION": "eu-west-1", "TABLE": "t", "POWERTOOLS_METRICS_DISABLED": "true"}
ANSWERS = """
import importlib, os, sys
module, _, name = sys.argv[1].rpartition(".")
module = importlib.import_module(module)
assert module.__file__.startswith(os.getcwd()), module.__file__
handler = getattr(module, name)
class Context:
    def get_remaining_time_in_millis(self): return 10_000
try:
    print("answers", handler({"records": []}, Context()))
except Exception as error:
    print(type(error).__name__, error)
"""


Zips = Callable[[str], Path]


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Zips:
    """Return what makes a function's zip, once."""
    return functools.cache(lambda name: made(name, tmp_path_factory.mktemp("dist")))


def made(name: str, out: Path) -> Path:
    """Make a zip; where that needs what no index can be asked for, skip what asks for it."""
    try:
        return package.package(name, out)
    except subprocess.CalledProcessError:
        assert package.requirements_of(name)
        pytest.skip(f"pip finds no {', '.join(package.requirements_of(name))} here")


def test_there_is_a_zip_for_each_function() -> None:
    """All functions are found by their handlers."""
    assert {"aurora_mysql", "dynamodb", "s3_archive", "examples/original", "examples/powertools"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_works_from_its_zip_alone(zips: Zips, tmp_path: Path, name: str) -> None:
    """Unpacked into an empty folder, its handler is found, and answers or says what it is not told."""
    with zipfile.ZipFile(zips(name)) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{ANSWERS}"]
    done = subprocess.run(
        [*command, package.handler_of(name)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert done.stderr == ""
    expected = {"examples/original": "KeyError 'id'", "examples/powertools": "answers {'batchItemFailures': []}"}
    assert done.stdout.startswith(expected.get(name, "SetupError ")), done.stdout


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_zip_holds_what_its_function_needs_and_no_more(zips: Zips, name: str) -> None:
    """No other function is in it, nothing of the engine, and nothing that the runtime brings."""
    with zipfile.ZipFile(zips(name)) as archive:
        places = archive.namelist()
    tops = {place.split("/")[0] for place in places}
    assert not tops & {"engine", "boto3", "botocore", "tests"}
    handlers = [place for place in places if place.endswith("/handler.py")]
    assert [place for place in handlers if place.startswith("lambdas/")] == [f"lambdas/{name}/handler.py"]
    assert "lambdas/package.py" not in places


def test_the_same_sources_make_the_same_bytes(zips: Zips, tmp_path: Path) -> None:
    """A deployment can tell by the zip whether anything changed."""
    for name in ("dynamodb", "aurora_mysql"):
        assert made(name, tmp_path).read_bytes() == zips(name).read_bytes()


def test_files_can_be_added(tmp_path: Path) -> None:
    """A mapping or a certificate lies in the root of the zip."""
    mapping = tmp_path / "mapping.json"
    mapping.write_text("{}")
    with zipfile.ZipFile(package.package("dynamodb", tmp_path / "dist", [mapping])) as archive:
        assert archive.read("mapping.json") == b"{}"


def test_a_wrong_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What there is not is named, with what there is."""
    with pytest.raises(SystemExit):
        package.main(["dynamo"])
    assert "there is no function dynamo; the functions are aurora_mysql, dynamodb" in capsys.readouterr().err
