"""The log of the stack's host: a bounded file, shipped to a log group with a retention, with rights on it alone."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.documents import CONFIG, MANIFESTS, ROOT, manifest, resolved, resource, task, template, user_data

SAM = CONFIG / "sam"
INSTALL = (SAM / "install.sh").read_text()
LOG = "/var/log/ingest-engine/engine.log"
LOGROTATE = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
AGENT_KEYS = {
    "": {"agent", "logs"},
    "agent": {"logfile"},
    "logs": {"force_flush_interval", "logs_collected"},
    "logs_collected": {"files"},
    "files": {"collect_list"},
    "collect_list": {"file_path", "log_group_name", "log_stream_name", "timestamp_format", "timezone", "encoding"},
}
"""What we use of the CloudWatch agent's documented settings: section → keys."""


def unit(name: str) -> configparser.ConfigParser:
    """Return a file of systemd's; a key that stands twice has its last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(SAM / name)
    return parser


def agent() -> dict[str, Any]:
    """Return the agent's settings as the host's script writes them."""
    group = re.search(r"LOG_GROUP='([^']+)'", user_data())
    command = re.search(r'sed "(s\|[^"]+)" "\$here/cloudwatch-agent.json"', INSTALL)
    assert group and command
    edit = command[1].replace("$LOG_GROUP", group[1])
    done = subprocess.run(["sed", edit, str(SAM / "cloudwatch-agent.json")], capture_output=True, text=True, check=True)
    settings: dict[str, Any] = json.loads(done.stdout)
    return settings


def keys_of(content: Any, section: str = "") -> None:
    """Assert that each section has keys that the agent knows there."""
    if isinstance(content, list):
        for one in content:
            keys_of(one, section)
    elif isinstance(content, dict):
        assert set(content) <= AGENT_KEYS[section], section
        for name, one in content.items():
            keys_of(one, name)


def test_the_agent_ships_the_file_that_the_engine_writes() -> None:
    """Drop-in, logrotate and agent name one file; it goes to the stack's log group, a stream a host."""
    keys_of(agent())
    (shipped,) = agent()["logs"]["logs_collected"]["files"]["collect_list"]
    assert shipped["file_path"] == LOG
    assert shipped["log_group_name"] == resolved(resource("LogGroup")["LogGroupName"]) == "/ingest-engine/carts"
    assert "{instance_id}" in shipped["log_stream_name"]
    service = unit("log.conf")["Service"]
    assert service["StandardOutput"] == service["StandardError"] == f"append:{LOG}"
    assert f"\n{LOG} {{\n" in (SAM / "logrotate.conf").read_text()
    assert f"install -d -m 0750 {Path(LOG).parent}\n" in INSTALL
    # Lines without a moment are told apart from those with one.
    assert 'format = "json"' in user_data()


def test_the_log_is_bounded_on_disk() -> None:
    """The file's size is looked at every few minutes, and all that is kept of it fits the root volume many times."""
    text = (SAM / "logrotate.conf").read_text()
    size, kept = re.search(r"\bsize (\d+)M\b", text), re.search(r"\brotate (\d+)\b", text)
    assert size and kept
    (volume,) = resource("HostTemplate")["LaunchTemplateData"]["BlockDeviceMappings"]
    journal = re.fullmatch(r"(\d+)M", unit("journald.conf")["Journal"]["SystemMaxUse"])
    assert journal
    total_mib = int(size[1]) * (int(kept[1]) + 1) + int(journal[1])
    assert 10 * total_mib <= volume["Ebs"]["VolumeSize"] * 1024
    # The engine appends to the file it has open: a new one would not be written to.
    assert "copytruncate" in text
    assert re.search(r"^OnCalendar=$\n^OnCalendar=\*:0/5$", (SAM / "logrotate-timer.conf").read_text(), re.MULTILINE)
    assert INSTALL.index("logrotate.conf") < INSTALL.index("enable --now ingest-engine.service")


@pytest.mark.skipif(LOGROTATE is None, reason="no logrotate: `make logrotate` installs it")
def test_logrotate_bounds_the_file(tmp_path: Path) -> None:
    """However often it runs, so many files are kept, and a writer that appends goes on in the one that is read."""
    log, settings = tmp_path / "engine.log", tmp_path / "logrotate.conf"
    settings.write_text((SAM / "logrotate.conf").read_text().replace(LOG, str(log)).replace("size 32M", "size 1k"))
    settings.chmod(0o644)
    with log.open("a") as writer:
        for number in range(8):
            writer.write(f"{number}" * 2_000)
            writer.flush()
            command = [str(LOGROTATE), "--state", str(tmp_path / "state"), str(settings)]
            subprocess.run(command, check=True, capture_output=True)
        writer.write("the last")
    assert log.read_text() == "the last"
    assert len(list(tmp_path.glob("engine.log*"))) == 4


def test_the_host_may_write_to_its_log_group_alone() -> None:
    """Its rights are to make a stream and to write to it, in the stack's group; that has a retention."""
    (host,) = [one for one in resource("HostRole")["Policies"] if one["PolicyName"] == "host"]
    (ours,) = [one for one in host["PolicyDocument"]["Statement"] if one["Sid"] == "ShipLog"]
    assert ours["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert ours["Resource"] == {"Fn::GetAtt": ["LogGroup", "Arn"]}
    assert resource("LogGroup")["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    retention = template()["Parameters"]["LogRetentionDays"]
    assert retention["Default"] in retention["AllowedValues"]


def test_the_bundle_holds_what_the_script_installs() -> None:
    """Each file that a new host's script takes from its bundle is one that is put there."""
    line = re.search(r"^cp (.*) \"\$work\"$", (SAM / "bundle.sh").read_text(), re.MULTILINE)
    assert line is not None
    held = {path.name for pattern in line[1].split() for path in ROOT.glob(pattern)}
    taken = set(re.findall(r'"\$here/([\w.-]+)"', INSTALL)) - {"wheels"}
    assert {path.name for path in SAM.glob("*.conf")} | {"cloudwatch-agent.json"} == taken <= held


def test_an_engine_whose_log_cannot_be_shipped_runs() -> None:
    """The agent is installed after the engine has started, and its failure ends nothing."""
    started, shipped = INSTALL.index("enable --now ingest-engine.service"), INSTALL.index("\nship_log ||")
    assert started < shipped
    assert INSTALL.index("dnf install -y -q amazon-cloudwatch-agent") > started


def test_containers_log_to_where_their_platform_looks() -> None:
    """On ECS every container's output goes to a log group; on Kubernetes nothing is mounted to log to."""
    for container in task()["containerDefinitions"]:
        assert container["logConfiguration"]["logDriver"] == "awslogs"
        assert {"awslogs-group", "awslogs-region", "awslogs-stream-prefix"} <= set(
            container["logConfiguration"]["options"]
        )
    assert "/var/log" not in MANIFESTS.read_text()
    assert 'format = "json"' in manifest("ConfigMap")["data"]["engine.toml"]
    terraform = (CONFIG / "terraform" / "main.tf").read_text()
    assert re.search(r"retention_in_days\s+= var\.log_retention_days", terraform)
