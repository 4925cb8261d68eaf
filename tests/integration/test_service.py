"""The engine as a service: what it tells the service manager, and the unit that starts it."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engine.cli import cli
from engine.config import SupervisionSettings
from engine.supervision.notify import ServiceManager
from tests.support import ROUTE, wait_for, whole_path

UNIT = Path(__file__).parents[2] / "config" / "systemd" / "ingest-engine.service"
UNITS = sorted(UNIT.parent.glob("*.service"))


def heard(sock: socket.socket) -> list[str]:
    """Return all messages that have come."""
    found: list[str] = []
    while True:
        try:
            found += sock.recv(4_096).decode().splitlines()
        except BlockingIOError:
            return found


def listening(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(address)
    return sock


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_manager_is_told_where_it_listens(tmp_path: Path, is_abstract: bool) -> None:
    """A socket in a folder and one in none; signs of life come three times in the limit, for our process alone."""
    name = f"engine-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    told = {"NOTIFY_SOCKET": f"@{name}" if is_abstract else name, "WATCHDOG_USEC": "3000000"}
    environ = {**told, "OTHER": "stays"}
    with listening("\0" + name if is_abstract else name) as sock:
        manager = ServiceManager(environ)
        assert environ == {"OTHER": "stays"}
        manager.ready("2 shards")
        for moment_ms in (0, 500, 999, 1_000, 2_500):
            manager.beat(moment_ms)
        manager.stopping()
        assert heard(sock) == ["READY=1", "STATUS=2 shards", *["WATCHDOG=1"] * 3, "STOPPING=1", "STATUS=draining"]
        ServiceManager({**told, "WATCHDOG_PID": "1"}).beat(0)
        assert heard(sock) == []


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    """Without a manager, or with one that is gone, nothing happens."""
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "nonsense"}):
        manager = ServiceManager(environ)
        manager.ready("")
        manager.beat(0)
        manager.stopping()


def test_an_engine_tells_when_it_is_ready_that_it_lives_and_when_it_ends(tmp_path: Path) -> None:
    """The manager hears of it once it captures, then again and again, and of the drain before the exit."""
    address = str(tmp_path / "notify")
    with (
        listening(address) as sock,
        whole_path(tmp_path, environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "900000"}) as path,
    ):
        path.write_config(ROUTE)
        path.start()
        said: list[str] = []
        wait_for(lambda: said.extend(heard(sock)) or said.count("WATCHDOG=1") >= 3, "signs of life")
        assert said.count("READY=1") == 1
        assert path.stop() == 0
        said += heard(sock)
        assert said.index("STOPPING=1") > said.index("READY=1")


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_unit_starts_what_there_is() -> None:
    """Its command and its flags are the engine's own; it waits for a drain, and outlives the watchdog's limit."""
    service = unit()["Service"]
    program, command, *flags = shlex.split(service["ExecStart"])
    assert Path(program).name == "engine"
    known = {option for parameter in cli.commands[command].params for option in parameter.opts}
    assert {flag for flag in flags if flag.startswith("-")} <= known
    assert int(service["TimeoutStopSec"]) > SupervisionSettings().drain_timeout_s
    assert int(service["TimeoutStartSec"]) > SupervisionSettings().ready_timeout_s
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path, unit: Path) -> None:
    """systemd finds nothing wrong with it, and little that it leaves exposed."""
    text = re.sub(r"^(Exec\w+=|Documentation=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
    copy = tmp_path / unit.name
    copy.write_text(text.replace("Documentation=/bin/true", "Documentation=file:/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, for a namespace of processes"
)
def test_as_process_1_it_reaps_orphans(tmp_path: Path) -> None:
    """In a container the engine is process 1: a child of nobody that ends there leaves nothing behind."""
    with whole_path(tmp_path) as path:
        path.write_config(ROUTE)
        start = f"{sys.executable} -m engine start --config {path.config}"
        # Its own child ends at once, and leaves a grandchild to process 1.
        orphan = "(sh -c 'sleep 1 & :') ; exec"
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", f"{orphan} {start}"]
        log = (tmp_path / "engine.log").open("w")
        outer = subprocess.Popen(command, env=path.environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_for(lambda: path.status().get("state") == "ready", "ready")
            assert path.status()["pid"] == 1
            (supervisor,) = psutil.Process(outer.pid).children()
            wait_for(lambda: "sleep" not in names_below(supervisor), "the orphan to be gone")
            path.client.hset("cart:1", "n", 1)
            wait_for(lambda: b"cart:1" in path.last(), "the cart")
            supervisor.terminate()
            assert outer.wait(60) == 0
        finally:
            outer.kill()
            outer.wait()


def names_below(process: psutil.Process) -> set[str]:
    """Return what runs below a process, the dead that nobody has reaped among it."""
    return {child.name() for child in process.children(recursive=True)}
