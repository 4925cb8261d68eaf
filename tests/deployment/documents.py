"""The files of ``config/``, read as who deploys them reads them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
TEMPLATE = CONFIG / "sam" / "template.yaml"
MANIFESTS = CONFIG / "kubernetes" / "ingest-engine.yaml"
TASK = CONFIG / "ecs" / "task-definition.json"
SERVICE = CONFIG / "ecs" / "service.json"
TASK_ROLE = CONFIG / "ecs" / "task-role.json"
DOCKERFILE = ROOT / "Dockerfile"
RUNBOOKS = {
    title.lower().replace(" ", "-")
    for title in re.findall(r"^## (.+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
}
"""The topics that have a section there, as links name them."""
UNITS = sorted((CONFIG / "systemd").glob("*.service"))

FALSE: set[str] = set()
"""Conditions of the template that are false; a test may add some."""

_STANDS_FOR = {
    "Cache.PrimaryEndPoint.Address": "cache.example",
    "Cache.ConfigurationEndPoint.Address": "clustercfg.cache.example",
    "AWS::Region": "eu-west-1",
    "AWS::Partition": "aws",
    "AWS::AccountId": "123456789012",
    "AWS::StackName": "carts",
    "AWS::StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/carts/51af3dc0-da77-11e4-872e-1234567db123",
    "DynamoDbFunction.Arn": "arn:aws:lambda:eu-west-1:123456789012:function:dynamodb",
    "ArchiveFunction.Arn": "arn:aws:lambda:eu-west-1:123456789012:function:archive",
    "AuroraFunction.Arn": "arn:aws:lambda:eu-west-1:123456789012:function:aurora",
    "Failures.Arn": "arn:aws:sqs:eu-west-1:123456789012:failures",
    "Table": "carts",
    "LogGroup": "/ingest-engine/carts",
    "LogGroup.Arn": "arn:aws:logs:eu-west-1:123456789012:log-group:/ingest-engine/carts:*",
    "KeyPattern": "cart:*",
}


class _Tagged(yaml.SafeLoader):
    """YAML with CloudFormation's short tags: ``!Ref x`` → ``{"Ref": x}``, ``!Sub`` → ``{"Fn::Sub": …}``."""


def _tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".")
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Tagged.add_multi_constructor("!", _tag)


def template() -> dict[str, Any]:
    """Return the SAM template, functions in their long form."""
    document: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader=_Tagged)
    return document


def resource(name: str) -> dict[str, Any]:
    """Return a resource's properties."""
    properties: dict[str, Any] = template()["Resources"][name]["Properties"]
    return properties


def resources_of(kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all resources of a type, by name."""
    found = template()["Resources"].items()
    return {name: one["Properties"] for name, one in found if one["Type"] == kind}


def resolved(value: Any) -> Any:
    """Return a value with every condition true that is not in ``FALSE``, and with names that stand for what is made."""
    if isinstance(value, list):
        return [resolved(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((function, argument),) = value.items()
        if function == "Ref":
            return _STANDS_FOR.get(argument, argument)
        if function == "Fn::GetAtt":
            return _STANDS_FOR.get(".".join(argument), ".".join(argument))
        if function == "Fn::If":
            return resolved(argument[2 if argument[0] in FALSE else 1])
        if function == "Fn::Select":
            return resolved(argument[1])[int(argument[0])]
        if function == "Fn::Split":
            return resolved(argument[1]).split(argument[0])
        if function == "Fn::Join":
            return argument[0].join(resolved(argument[1]))
        if function in {"Fn::Base64", "Fn::Sub"}:
            return resolved(argument) if function == "Fn::Base64" else _substituted(argument)
    return {key: resolved(one) for key, one in value.items()}


def _substituted(argument: Any) -> str:
    text, names = (argument, {}) if isinstance(argument, str) else (argument[0], resolved(argument[1]))
    known = {**_STANDS_FOR, **names}
    return re.sub(r"\$\{([^}]+)\}", lambda match: str(known.get(match[1], match[1])), text)


def user_data() -> str:
    """Return the script that a new host runs, with every route in its settings."""
    data = template()["Resources"]["HostTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]
    text = resolved(data)
    assert isinstance(text, str)
    return text


def settings_of_template() -> str:
    """Return the settings that the host gets, every optional route among them."""
    match = re.search(r"engine\.toml <<'TOML'\n(.*?)^TOML$", user_data(), re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


def manifests() -> list[dict[str, Any]]:
    """Return the Kubernetes resources."""
    return list(yaml.safe_load_all(MANIFESTS.read_text()))


def manifest(kind: str) -> dict[str, Any]:
    """Return the Kubernetes resource of this kind."""
    (found,) = [one for one in manifests() if one["kind"] == kind]
    return found


def task() -> dict[str, Any]:
    """Return the ECS task definition."""
    document: dict[str, Any] = json.loads(TASK.read_text())
    return document


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions, as (name, arguments)."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command of the engine that a file of ours runs, as (place, arguments after ``engine``)."""
    for unit in UNITS:
        for line in re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE):
            program, *arguments = shlex.split(line)
            assert program == "/opt/ingest-engine/bin/engine"
            yield unit.name, arguments
    for container in manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]:
        yield f"{MANIFESTS.name}: {container['name']}", container["args"]
        for name, probe in container.items():
            if name.endswith("Probe"):
                program, *arguments = probe["exec"]["command"]
                assert program == "engine"
                yield f"{MANIFESTS.name}: {name}", arguments
    for container in task()["containerDefinitions"]:
        if "entryPoint" not in container:
            yield f"{TASK.name}: {container['name']}", container["command"]
        if "healthCheck" in container:
            form, program, *arguments = container["healthCheck"]["command"]
            assert (form, program) == ("CMD", "engine")
            yield f"{TASK.name}: health of {container['name']}", arguments
    for name, rest in dockerfile():
        if name == "CMD":
            yield "Dockerfile: CMD", json.loads(rest)
        elif name == "HEALTHCHECK":
            program, *arguments = json.loads(rest[rest.index("[") :])
            assert program == "engine"
            yield "Dockerfile: HEALTHCHECK", arguments
