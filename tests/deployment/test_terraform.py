"""The Terraform module: every name in it is declared, and its rights, commands and metrics are the engine's.

``terraform validate`` needs the provider, which is downloaded; what can be seen without it is seen here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import hcl2
import pytest

from engine.cli import cli
from engine.observe import metrics
from tests.deployment.documents import CONFIG, RUNBOOKS, TASK_ROLE, resources_of, task

MODULE = CONFIG / "terraform"
FILES = sorted(MODULE.glob("*.tf"))
TEXT = "\n".join(re.sub(r"(?m)^\s*#.*$", "", path.read_text()) for path in FILES)


def blocks(kind: str) -> list[dict[str, Any]]:
    """Return all blocks of a kind, over the files."""
    found: list[dict[str, Any]] = []
    for path in FILES:
        with path.open() as file:
            found += hcl2.load(file).get(kind, [])
    return found


def names(kind: str) -> set[str]:
    return {name.strip('"') for block in blocks(kind) for name in block}


def resources(kind: str = "resource") -> set[str]:
    """Return the addresses of what is made (or, as ``data``, read)."""
    found = {(first.strip('"'), second.strip('"')) for one in blocks(kind) for first in one for second in one[first]}
    return {".".join(pair) for pair in found}


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_it_is_in_terraform_s_format(tmp_path: Path) -> None:
    """``terraform fmt`` has nothing to change, so it can read every file."""
    (tmp_path / "rc").touch()
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", str(MODULE)],
        capture_output=True,
        text=True,
        env={"TF_CLI_CONFIG_FILE": str(tmp_path / "rc"), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_is_declared_described_and_used() -> None:
    """A name after ``var.`` is a variable; each has a description and a type, and is used outside of its own block."""
    declared = {name.strip('"'): body for one in blocks("variable") for name, body in one.items()}
    elsewhere = "\n".join(path.read_text() for path in FILES if path.name != "variables.tf")
    assert set(re.findall(r"\bvar\.(\w+)", TEXT)) == set(declared)
    assert set(re.findall(r"\bvar\.(\w+)", elsewhere)) == set(declared)
    assert all(body.get("description") and body.get("type") for body in declared.values())


def test_every_reference_leads_somewhere() -> None:
    """Resources, data and locals that are named are there."""
    locals_ = {name for one in blocks("locals") for name in one if not name.startswith("__")}
    assert set(re.findall(r"\blocal\.(\w+)", TEXT)) <= locals_
    read = set(re.findall(r"\bdata\.(aws_\w+\.\w+)", TEXT))
    assert read == resources("data")
    made = set(re.findall(r"(?<!data\.)\b(aws_\w+\.[a-z]\w*)", TEXT))
    assert made <= resources()


def test_the_engine_may_do_what_it_does_on_ecs() -> None:
    """The role grants exactly what ``config/ecs/task-role.json`` grants, and nothing on all resources."""
    text = (MODULE / "rights.tf").read_text()
    start = text.index('"aws_iam_policy_document" "engine"')
    engine = text[start : text.index('resource "aws_iam_role_policy" "engine"')]
    granted = set(re.findall(r'"([a-z]+:[A-Z]\w+)"', engine))
    role = json.loads(TASK_ROLE.read_text())
    wanted = {
        one for s in role["Statement"] for one in (s["Action"] if isinstance(s["Action"], list) else [s["Action"]])
    }
    assert granted == wanted
    assert '"*"' not in engine


def test_its_containers_are_those_of_the_task() -> None:
    """Commands, users, limits and probes are those of ``config/ecs/task-definition.json``."""
    main = (MODULE / "main.tf").read_text()
    for container in task()["containerDefinitions"]:
        assert re.search(rf'name\s+= "{container["name"]}"', main)
    for number in (60, 65536, 120):
        assert str(number) in main
    for command in re.findall(r"(?:command)\s+= \[([^\]]*)\]", main):
        words = re.findall(r'"([^"]*)"|local\.config_file|tostring\((?:var\.\w+)\)|var\.\w+', command)
        if words[0] not in cli.commands:
            continue
        flags = [one for one in words if one.startswith("--")]
        known = {option for parameter in cli.commands[words[0]].params for option in parameter.opts}
        assert flags
        assert set(flags) <= known
    assert isinstance(cli.commands["start"], click.Command)


def alarms() -> dict[str, tuple[Any, ...]]:
    """Return what each alarm is raised by, by the engine's metric."""
    found = {}
    for block in blocks("resource"):
        for name, one in block.get('"aws_cloudwatch_metric_alarm"', {}).items():
            for metric in one.get("for_each", [one["metric_name"]]):
                statistic = one["statistic"]
                if "?" in statistic:
                    statistic = "Maximum" if metric == "DeletionsHeld" else "Sum"
                found[metric.strip('"')] = (statistic.strip('"'), one["period"], one["evaluation_periods"], name)
    return found


def test_alarms_watch_what_the_engine_reports() -> None:
    """Alarms are those of the stack of AWS, by metric, statistic and time, and each leads to the runbooks."""
    ours = {metric: alarm[:3] for metric, alarm in alarms().items()}
    theirs = {
        one["MetricName"]: (one["Statistic"], one["Period"], one["EvaluationPeriods"])
        for one in resources_of("AWS::CloudWatch::Alarm").values()
        if one["Namespace"] == "IngestEngine"
    }
    assert ours == theirs
    assert set(ours) <= {metrics.LAG_MS, metrics.DELETIONS_HELD, *metrics.GAUGES, *metrics.COUNTERS}
    topics = re.findall(r"docs/runbooks\.md#([a-z-]+)\"", (MODULE / "alarms.tf").read_text())
    assert len(topics) == len(ours)
    assert set(topics) <= RUNBOOKS
