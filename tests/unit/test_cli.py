"""The command line: exit codes, one clear line a mistake, and JSON for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.cli import run_command
from engine.ring.counters import Counter

ROOT = Path(__file__).parents[2]
NOBODY = "redis://127.0.0.1:1/0"
ROUTE = """
[[routes]]
name = "carts"
function = "dynamodb"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and an environment that says nothing to the engine."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ENGINE_", "REDIS_", "AWS_", "META_MAP", "SUPPORTED_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_and_version() -> None:
    """Help and version come on standard output with exit code 0."""
    result = engine("--help")
    assert result.returncode == 0
    for command in ("start", "check", "status", "sandbox", "demo"):
        assert command in result.stdout
    assert engine("--version").stdout.startswith("engine ")


def test_help_loads_little() -> None:
    """Help needs none of the engine's heavy parts, so it comes at once."""
    code = (
        "import sys; sys.argv = ['engine', '--help']\n"
        "from engine.cli import run_command\n"
        "run_command(['--help'])\n"
        "heavy = {'boto3', 'structlog', 'rich', 'redis', 'hiredis', 'msgspec', 'psutil'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["start", "--invokers", "many"], ["start", "--nonsense"], ["sandbox", "--redis-port", "x"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the command line does not know ends with exit code 2 and a line on standard error."""
    assert run_command(arguments) == 2
    assert "Error: " in capsys.readouterr().err


@pytest.mark.parametrize("shards", ["0", "-1", "100000"])
def test_shards_out_of_range(home: Path, shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard count of 0 or beyond what makes sense is told with its limits, and exit code 2."""
    (home / "engine.toml").write_text(ROUTE)
    assert run_command(["start", "--shards", shards]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("engine: error: --shards: ") for line in lines)
    assert "1 to 64" in lines[0]


def test_all_problems_of_a_file_at_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each problem of the settings has its own line."""
    (home / "engine.toml").write_text("[capture]\nshards = 0\n[delivery]\ninvokers = 0\n" + ROUTE)
    assert run_command(["start"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("engine: error: ") for line in lines)


def test_a_config_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A settings file that was named must be there."""
    assert run_command(["start", "--config", "nowhere.toml"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err


def test_an_unreachable_server(home: Path) -> None:
    """A start without a server is one clear line, exit code 1, and nothing left in the folder."""
    (home / "engine.toml").write_text(ROUTE)
    result = engine("start", "--redis-url", NOBODY, "--log-level", "error")
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "redis" in line]
    assert lines and all(line.startswith("engine: error: ") for line in lines)
    assert "127.0.0.1:1" in lines[0]
    assert "Traceback" not in result.stderr
    assert not list((home / "ingest-engine").glob("status.json*"))


def test_check_finds_everything_at_once(home: Path) -> None:
    """A check tells each finding with its remedy; as JSON too, with the exit code."""
    (home / "engine.toml").write_text(
        f'[redis]\nurl = "{NOBODY}"\n[aws]\nlambda_endpoint_url = "http://127.0.0.1:1"\n' + ROUTE
    )
    os.environ.update(AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none")
    result = engine("check", "--json")
    assert result.returncode == 1, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["exit_code"] == 1
    verdicts = {(one["place"], one["verdict"]) for one in found["findings"]}
    assert {("routes", "ok"), ("redis", "error"), ("route 'carts'", "note")} <= verdicts
    assert all(one["hint"] for one in found["findings"] if one["verdict"] == "error")
    assert "127.0.0.1:1" in engine("check").stdout


def test_check_of_wrong_settings(home: Path) -> None:
    """Settings that can't be used are findings of a check, with exit code 2."""
    (home / "engine.toml").write_text("[capture]\nshards = 0\n" + ROUTE)
    result = engine("check", "--json")
    assert result.returncode == 2
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["verdict"] == "error"


TOTALS = [counter.name.lower() for counter in Counter]


def write_status(home: Path, folder: str = "ingest-engine", **changes: Any) -> None:
    now_ms = int(time.time() * 1_000)
    child = {
        "name": "invoker 1/1", "role": "invoker", "index": 0, "pid": 7, "state": "ready", "restarts": 0,
        "heartbeat_age_ms": 12, "ring_bytes_waiting": 0, "counters": {}, "batch_sizes": [],
    }  # fmt: skip
    status = {
        "pid": 1, "version": "0", "started_at_ms": now_ms - 5_000, "updated_at_ms": now_ms, "state": "ready",
        "routes": [{"slot": 0, "name": "[carts]", "function": "f", "keys": ["*"], "events": ["hset"]}],
        "children": [child], "totals": dict.fromkeys(TOTALS, 0) | {"events_read": 1_234_567}, "settled_until_ms": 0,
        "slice": "0/1", **changes,
    }  # fmt: skip
    (home / folder).mkdir()
    (home / folder / "status.json").write_text(json.dumps(status))


def test_status(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status shows state, processes, routes and totals, for people and for scripts."""
    (home / "engine.toml").write_text(ROUTE)
    write_status(home)
    assert run_command(["status"]) == 0
    shown = capsys.readouterr().out
    for text in ("ready", "invoker 1/1", "[carts]", "1,234,567"):
        assert text in shown
    assert run_command(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "ready"


def test_no_status(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an engine, status says so in a line, and exits with 1."""
    (home / "engine.toml").write_text(ROUTE)
    assert run_command(["status"]) == 1
    assert "no engine runs here" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"updated_at_ms": "x"}'])
def test_a_broken_status_file(home: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no status file is told so."""
    (home / "engine.toml").write_text(ROUTE)
    (home / "ingest-engine").mkdir()
    (home / "ingest-engine" / "status.json").write_text(content)
    assert run_command(["status"]) == 1
    assert "is not a status file" in capsys.readouterr().err


def test_a_stale_status(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A status that a killed engine left behind is not shown as a running engine's."""
    (home / "engine.toml").write_text(ROUTE)
    write_status(home, updated_at_ms=int(time.time() * 1_000) - 60_000)
    assert run_command(["status"]) == 1
    assert "last written 60 s ago by process 1" in capsys.readouterr().err


def test_a_killed_engines_status(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A status whose process is gone is not shown as a running engine's, however fresh it is."""
    (home / "engine.toml").write_text(ROUTE)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_status(home, pid=gone.pid)
    assert run_command(["status"]) == 1
    assert f"by process {gone.pid}" in capsys.readouterr().err


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command as the shell expects, without a traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.commands.watching.load_state", interrupted)
    assert run_command(["status"]) == 130


def test_output_that_nobody_reads(home: Path) -> None:
    """A pipe that closes early ends the command quietly."""
    (home / "engine.toml").write_text(ROUTE)
    write_status(home, filler=["x" * 100] * 20_000)
    command = f"{sys.executable} -m engine status --json | head -c 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout == "{"
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["check", "check --json", "status --json"])
def test_output_that_cannot_be_written(home: Path, command: str) -> None:
    """A full disk under the output is one line, and exit code 1; an output that is closed is as good as none."""
    (home / "engine.toml").write_text(f'[redis]\nurl = "{NOBODY}"\n{ROUTE}')
    write_status(home, filler=["x" * 100] * 20_000)
    full, closed = (
        subprocess.run(["sh", "-c", f"{sys.executable} -m engine {command} {to}"], stderr=subprocess.PIPE, text=True)
        for to in (">/dev/full", ">&-")
    )
    assert full.returncode == 1
    assert full.stderr.startswith("engine: error: the output can't be written: No space left on device (")
    assert full.stderr.count("\n") == 1
    assert (closed.returncode, closed.stderr) == (int(command.startswith("check")), "")


def test_metrics_without_an_engine() -> None:
    """One reading of an engine that does not run is an error of one line, and nothing is printed as a metric."""
    Path("engine.toml").write_text(ROUTE)
    result = engine("metrics")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "no engine runs here" in result.stderr


UNFIT_TO_START = [
    pytest.param("", id="no routes"),
    pytest.param('[redis]\npassword_file = "nowhere"\n[capture]\nshards = 0\n', id="wrong elsewhere"),
    pytest.param('[[routes]]\nname = "c"\nevents = ["hest"]\n', id="a wrong route"),
]


@pytest.mark.parametrize(
    "command", [["status", "--json"], ["metrics"], ["deletions", "--json"]], ids=lambda one: one[0]
)
@pytest.mark.parametrize("settings", UNFIT_TO_START)
def test_what_reads_the_state_needs_the_state_alone(
    home: Path, command: list[str], settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks at an engine needs no routes, no region and no secret: a sidecar or a probe has none of them."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENGINE_CAPTURE_SHARDS", "none at all")
    monkeypatch.setenv("REDIS_MASTER_HOST", "somewhere")
    monkeypatch.setenv("REDIS_MASTER_PORT", "tcp://10.0.0.1:6379")
    (home / "engine.toml").write_text(f'[supervision]\nstate_folder = "here"\n{settings}')
    write_status(home, "here")
    result = engine(*command)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.startswith("{")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[supervision]\nstatus_file = 7\n", "engine.toml: supervision.status_file: must be a text"),
        ("[supervision]\nstatus_fiel = 'x'\n", "did you mean"),
        ("[supervision\n", "is not valid TOML"),
    ],
)
def test_what_reads_the_state_says_what_is_wrong_with_where_it_is(home: Path, settings: str, words: str) -> None:
    """A settings file that does not say where the state is ends with what is wrong, and exit code 2."""
    (home / "engine.toml").write_text(settings)
    result = engine("status")
    assert result.returncode == 2
    assert words in result.stderr


@pytest.mark.parametrize("command", [("redrive",), ("audit", "--repair"), ("audit", "--accept-deletions")])
@pytest.mark.parametrize("source", ["scan", "stream"])
def test_marks_are_refused_where_nobody_hears_them(
    home: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], source: str
) -> None:
    """A command that publishes keys says at once that an engine of another source hears none, and what helps."""
    more = {"scan": 'starting_position = "TRIM_HORIZON"\nskip_unchanged = true\n', "stream": ""}[source]
    streams = 'streams = ["changes"]\nkey_field = "key"\n' if source == "stream" else ""
    (home / "engine.toml").write_text(f'[capture]\nsource = "{source}"\n{streams}{ROUTE}{more}')
    assert run_command([*command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f'does not reach an engine with capture.source = "{source}"' in line
