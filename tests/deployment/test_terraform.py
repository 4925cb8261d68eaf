"""The Terraform module: every name in it is declared, and its rights, commands and metrics are the engine's.

``terraform validate`` needs the provider, which is downloaded; what can be seen without it is seen here, its arguments
among that.
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
PROVIDER = Path(__file__).with_name("aws_provider.json")
META = {"count", "for_each", "depends_on", "lifecycle", "provider"}
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


def misfits(place: str, given: dict[str, Any], takes: dict[str, Any]) -> list[str]:
    """Return what a block has that the provider does not take, and what it lacks; Terraform's own words are skipped."""
    known = {name.rstrip("!"): inner for name, inner in takes.items()}
    ours = {name.strip('"'): value for name, value in given.items() if not name.startswith("__")}
    for one in ours.pop("dynamic", []):
        ours |= {name.strip('"'): [body["content"][0]] for name, body in one.items() if not name.startswith("__")}
    ours = {name: value for name, value in ours.items() if name not in META}
    wrong = [f"{place}: no argument {name}" for name in ours if name not in known]
    wrong += [f"{place}: lacks {name[:-1]}" for name in takes if name.endswith("!") and name[:-1] not in ours]
    for name, value in ours.items():
        inner = known.get(name)
        if inner and isinstance(value, list):
            wrong += [
                one for part in value if isinstance(part, dict) for one in misfits(f"{place}.{name}", part, inner)
            ]
    return wrong


def test_the_provider_takes_every_argument() -> None:
    """Each argument of a resource and its blocks is one of the AWS provider's, and none that it requires is missing."""
    takes = json.loads(PROVIDER.read_text())["takes"]
    used = [
        (f"{kind}." + name.strip('"'), named)
        for kind in ("resource", "data")
        for one in blocks(kind)
        for name, named in one.items()
    ]
    assert {place for place, _ in used} == set(takes), "another resource: run tests/parts/aws_provider.py"
    wrong = [one for place, named in used for body in named.values() for one in misfits(place, body, takes[place])]
    assert wrong == []


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"name": "x", "shards": 1}, ["x: no argument shards"]),
        ({}, ["x: lacks name"]),
        ({"name": "x", "net": [{"zone": 1}]}, ["x.net: no argument zone", "x.net: lacks subnets"]),
        ({"name": "x", "dynamic": [{"net": {"for_each": [], "content": [{}]}}]}, ["x.net: lacks subnets"]),
        ({"name": "x", "net": [{"subnets": []}], "for_each": [], "lifecycle": [{}]}, []),
    ],
)
def test_a_misfit_is_found(body: dict[str, Any], wrong: list[str]) -> None:
    """What the provider does not take, or misses, is named with its place."""
    assert misfits("x", body, {"name!": {}, "net": {"subnets!": {}}}) == wrong


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
