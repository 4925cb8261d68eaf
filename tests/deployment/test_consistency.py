"""The files of ``config/`` against the code: flags, names, variables, rights, times."""

from __future__ import annotations

import ast
import importlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest

from benchmarks.capacity.prices import FILE, read_prices
from engine.capture.notifications import needed_flags
from engine.cli import cli
from engine.config import Settings
from engine.observe import metrics
from engine.routing.routes import RouteTable
from engine.settings.file import load_settings
from engine.settings.paths import default_folder
from engine.supervision.doctor.functions import RIGHTS
from lambdas.package import functions, handler_of
from tests.deployment import documents
from tests.deployment.documents import (
    ROOT,
    RUNBOOKS,
    TASK_ROLE,
    commands,
    dockerfile,
    manifest,
    resolved,
    resource,
    resources_of,
    settings_of_template,
    task,
    template,
    user_data,
)

FUNCTIONS = resources_of("AWS::Serverless::Function")
FOLDERS = {"DynamoDbFunction": "dynamodb", "ArchiveFunction": "s3_archive", "AuroraFunction": "aurora_mysql"}

ACTIONS = {
    "invoke": "lambda:InvokeFunction",
    "send_message_batch": "sqs:SendMessage",
    "receive_message": "sqs:ReceiveMessage",
    "delete_message_batch": "sqs:DeleteMessage",
    "change_message_visibility_batch": "sqs:ChangeMessageVisibility",
    "get_queue_attributes": "sqs:GetQueueAttributes",
    "batch_get_item": "dynamodb:BatchGetItem",
    "scan": "dynamodb:Scan",
    "put_metric_data": "cloudwatch:PutMetricData",
    **RIGHTS,
}
"""What the engine calls → the right to it, where our files use it."""
ELSEWHERE = {"get_object", "put_object", "delete_object", "list_objects_v2", "put_records", "describe_stream_summary"}
"""Calls for buckets of dead letters, streams and the like: routes that our files have none of."""


def load(text: str, tmp_path: Path, environ: dict[str, str] | None = None) -> Settings:
    path = tmp_path / "engine.toml"
    path.write_text(text)
    return load_settings(str(path), environ or {}, {})


@pytest.mark.parametrize(("place", "arguments"), list(commands()), ids=[place for place, _ in commands()])
def test_every_command_is_one_of_the_engine(place: str, arguments: list[str]) -> None:
    """Commands, flags and their values in units, manifests and images are what the command line takes."""
    name, *rest = (one.replace("${METRICS_NAME}", "name") for one in arguments)
    cli.commands[name].make_context(name, rest, parent=click.Context(cli))


def test_the_template_s_settings_are_settings(tmp_path: Path) -> None:
    """What a new host is given loads, with every optional route, and waits for nothing that is not there."""
    settings = load(settings_of_template(), tmp_path, {"ENGINE_REDIS_PASSWORD": "secret"})
    assert {route.name for route in settings.routes} == {"table", "archive", "aurora"}
    assert settings.redis.url.startswith("rediss://")
    assert settings.redis.username == resource("EngineUser")["UserName"]
    assert all(route.on_failure for route in settings.routes)


def test_a_cache_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an existing network and cache the host's settings name that cache, and neither is made."""
    given = {
        "ExistingCacheUrl": "rediss://clustercfg.example:6379",
        "ExistingCacheUser": "ingest",
        "ExistingCacheSecretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ours-AbCdEf",
    }
    monkeypatch.setattr(documents, "_STANDS_FOR", documents._STANDS_FOR | given)
    monkeypatch.setattr(documents, "FALSE", {"NewVpc", "NewCache"})
    settings = load(settings_of_template(), tmp_path, {"ENGINE_REDIS_PASSWORD": "secret"})
    assert (settings.redis.url, settings.redis.username) == (given["ExistingCacheUrl"], "ingest")
    assert f"PASSWORD_SECRET='{given['ExistingCacheSecretArn']}'" in user_data()
    made = {one["Type"] for one in template()["Resources"].values() if one.get("Condition") in documents.FALSE}
    kept = {one["Type"] for one in template()["Resources"].values() if one.get("Condition") not in documents.FALSE}
    assert not {kind for kind in kept if "ElastiCache" in kind or kind in {"AWS::EC2::VPC", "AWS::EC2::Subnet"}}
    assert "AWS::EC2::VPCEndpoint" in made - kept


def test_a_new_cache_is_one_server_or_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one shard the host is told of its primary endpoint and a database, with more of the other endpoint."""
    told = {
        frozenset({"HasShards"}): "rediss://cache.example:6379/0",
        frozenset(): "rediss://clustercfg.cache.example:6379",
    }
    for conditions, url in told.items():
        monkeypatch.setattr(documents, "FALSE", set(conditions))
        settings = load(settings_of_template(), tmp_path, {"ENGINE_REDIS_PASSWORD": "secret"})
        assert settings.redis.url == url
        assert resolved(resource("Cache")["ClusterMode"]) == ("disabled" if conditions else "enabled")
        assert resolved(resource("CacheParameters")["Properties"]["cluster-enabled"]) == ("no" if conditions else "yes")


def test_the_parameter_group_notifies_of_what_the_routes_need(tmp_path: Path) -> None:
    """The flags of the parameter group are those that the engine asks for, and no others."""
    settings = load(settings_of_template(), tmp_path)
    flags = needed_flags(RouteTable.build(settings.routes, None), settings.original.mapping_prefix)
    assert set(resource("CacheParameters")["Properties"]["notify-keyspace-events"]) == set(flags)


def test_the_pods_settings_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pod's settings load, and the pods' slices are all of them."""
    pod = manifest("StatefulSet")
    spec = pod["spec"]["template"]["spec"]
    text: str = manifest("ConfigMap")["data"]["engine.toml"]
    password = tmp_path / "password"
    password.write_text("secret")
    text = text.replace("/run/secrets/ingest-engine/password", str(password))
    parts = set()
    for container in spec["containers"]:
        environ = {one["name"]: one["value"] for one in container["env"]}
        for number in range(pod["spec"]["replicas"]):
            name = f"{pod['metadata']['name']}-{number}"
            monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
            parts.add(load(text, tmp_path, environ).capture.slice)
    assert parts == {f"{number}/{pod['spec']['replicas']}" for number in range(pod["spec"]["replicas"])}
    settings = load(text, tmp_path, environ)
    assert spec["terminationGracePeriodSeconds"] > settings.supervision.drain_timeout_s


def test_a_pod_may_write_where_the_engine_writes() -> None:
    """The root of a container is read-only: the image's working directory, where state lies, is a volume in each."""
    (folder,) = [rest for name, rest in dockerfile() if name == "WORKDIR" and rest != "/source"]
    for container in manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert folder in {mount["mountPath"] for mount in container["volumeMounts"]}
    for container in task()["containerDefinitions"]:
        if container["name"] != "settings":
            assert container["readonlyRootFilesystem"]
            assert folder in {mount["containerPath"] for mount in container["mountPoints"]}
    (variables,) = [rest for name, rest in dockerfile() if name == "ENV"]
    given = dict(variable.split("=", 1) for variable in variables.split())
    assert default_folder(given) == default_folder({"STATE_DIRECTORY": folder}) == folder
    assert f"WorkingDirectory={folder}" in (ROOT / "config/systemd/ingest-engine.service").read_text()
    assert Path(folder).name in (ROOT / "config/sam/install.sh").read_text()


def test_the_task_s_variables_are_settings(tmp_path: Path) -> None:
    """What the engine's containers on ECS are told by variables is known to it, and they end after a drain."""
    for container in task()["containerDefinitions"]:
        if container["name"] == "settings":
            continue
        environ = {one["name"]: one["value"] for one in container.get("environment", [])}
        environ |= {one["name"]: "secret" for one in container.get("secrets", [])}
        settings = load(settings_of_template(), tmp_path, environ)
        assert task()["family"].endswith(settings.capture.slice.replace("/", "-of-"))
        assert container.get("stopTimeout", 999) > settings.supervision.drain_timeout_s


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_one_of_ours(name: str) -> None:
    """Its handler can be called, and its zip is what make package makes."""
    module, _, function = FUNCTIONS[name]["Handler"].rpartition(".")
    assert FUNCTIONS[name]["Handler"] == handler_of(FOLDERS[name])
    assert callable(getattr(importlib.import_module(module), function))
    assert FOLDERS[name] in functions()
    assert FUNCTIONS[name]["CodeUri"] == f"../../dist/{FOLDERS[name]}.zip"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_variable_of_a_function_is_a_setting(name: str) -> None:
    """What the template tells a function is read by it, and is enough for it to start."""
    variables = resolved(FUNCTIONS[name]["Environment"]["Variables"])
    sources = "".join(path.read_text() for path in (ROOT / "lambdas" / FOLDERS[name]).glob("*.py"))
    assert all(f'"{variable}"' in sources for variable in variables)
    mapping = '[{"keys": ["cart:*"], "table": "carts", "key": {"column": "id"}, "columns": {"owner": "text"}}]'
    stands_for = {"AURORA_MAPPING": mapping, "DYNAMO_WRITE_MODE": "batch", "ARCHIVE_BUCKET": "archive"}
    stands_for |= {"ARCHIVE_ENCRYPTION": template()["Parameters"]["ArchiveEncryption"]["Default"]}
    settings = importlib.import_module(f"lambdas.{FOLDERS[name]}.settings")
    settings.read_settings({**variables, **{key: text for key, text in stands_for.items() if key in variables}})


def test_the_table_is_the_function_s() -> None:
    """Its key and its time to live have the names that the function uses by default, and the audit's too."""
    from engine.destination.base import Target
    from lambdas.dynamodb.settings import Settings as Function

    table = resource("Table")
    assert table["KeySchema"] == [{"AttributeName": Function.key_attribute, "KeyType": "HASH"}]
    assert table["TimeToLiveSpecification"]["AttributeName"] == Function.ttl_attribute == Target("t").ttl_attribute
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"]


def test_a_function_ends_before_the_engine_gives_it_up(tmp_path: Path) -> None:
    """A function has time to answer at its deadline, and is ended by Lambda before the engine stops waiting."""
    delivery = load(settings_of_template(), tmp_path).delivery
    timeout_ms = template()["Globals"]["Function"]["Timeout"] * 1_000
    assert delivery.deadline_ms < timeout_ms < delivery.invoke_timeout_ms


def actions_of(statement: dict[str, Any]) -> set[str]:
    action = resolved(statement["Action"])
    return {action} if isinstance(action, str) else set(action)


def documented_actions(folder: str) -> set[str]:
    """Return the rights that a function's README asks for."""
    text = (ROOT / "lambdas" / folder / "README.md").read_text()
    section = re.search(r"## Permissions\n(.*?)\n## ", text, re.DOTALL)
    assert section is not None
    return set(re.findall(r"`([a-z0-9-]+:[A-Z]\w+)`", section[1]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_may_do_what_it_does(name: str) -> None:
    """Each right of a function is one that its README asks for, on one resource; and no mode lacks one."""
    (policy,) = FUNCTIONS[name]["Policies"]
    (statement,) = policy["Statement"]
    assert statement["Resource"] != "*"
    documented = documented_actions(FOLDERS[name])
    assert actions_of(statement) <= documented
    if FOLDERS[name] == "dynamodb":
        choice = statement["Action"]["Fn::If"]
        assert {one for part in choice[1:] for one in part} == documented - {"dynamodb:PutItem"}
        calls = "".join(path.read_text() for path in (ROOT / "lambdas/dynamodb").glob("*.py"))
        assert {"BatchWriteItem", "BatchExecuteStatement", "PutItem"} >= set(re.findall(r'\.call\("(\w+)"', calls))
        assert resolved(FUNCTIONS[name]["Environment"]["Variables"])["DYNAMO_ITEM_MODE"] != "attributes"


def aws_calls(folder: Path = ROOT / "engine") -> Iterator[str]:
    """Yield the names of all methods that the code in a folder calls and that one of AWS's clients has."""
    session = botocore.session.get_session()
    known = {
        re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operation).lower()
        for service in ("lambda", "sqs", "s3", "kinesis", "dynamodb", "cloudwatch", "sts", "secretsmanager")
        for operation in session.get_service_model(service).operation_names
    }
    for path in folder.rglob("*.py"):
        if "sandbox" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in known:
                yield node.func.attr
            elif isinstance(node, ast.Constant) and node.value in known and "_" in str(node.value):
                yield str(node.value)


def test_the_engine_may_do_what_it_does() -> None:
    """The host's rights are those of the calls in the engine's code: none lacks, and none is too many."""
    called = set(aws_calls())
    assert called - ELSEWHERE <= set(ACTIONS), "a call whose right no file of config/ grants"
    assert "lambda:InvokeFunction" in ACTIONS.values()
    (engine,) = [one for one in resource("HostRole")["Policies"] if one["PolicyName"] == "engine"]
    statements = engine["PolicyDocument"]["Statement"]
    granted = {action for statement in statements for action in actions_of(statement)}
    assert granted == {ACTIONS[name] for name in called & set(ACTIONS)} | {"lambda:InvokeFunction"}
    for statement in statements:
        assert statement["Resource"] != "*" or "Condition" in statement
    role = json.loads(TASK_ROLE.read_text())
    on_ecs = {action for statement in role["Statement"] for action in actions_of(statement)}
    assert {action for action in on_ecs if not action.startswith("elasticfilesystem:")} == granted - {
        "cloudwatch:PutMetricData"
    }


def test_the_doctor_may_look_at_the_routes_functions_alone(tmp_path: Path) -> None:
    """What `engine check` asks of Lambda is granted, like invocations, on the functions of the routes and no others."""
    asked = {name for name in aws_calls(ROOT / "engine/supervision/doctor") if name.startswith("get_function")}
    assert asked == set(RIGHTS)
    (engine,) = [one for one in resource("HostRole")["Policies"] if one["PolicyName"] == "engine"]
    host = {"arn:aws:lambda:eu-west-1:123456789012:function:" + name for name in ("dynamodb", "archive", "aurora")}
    settings = load(settings_of_template(), tmp_path, {"ENGINE_REDIS_PASSWORD": "secret"})
    assert host == {route.function for route in settings.routes}
    pods = manifest("ConfigMap")["data"]["engine.toml"]
    for statements, functions_ in (
        (engine["PolicyDocument"]["Statement"], host),
        (json.loads(TASK_ROLE.read_text())["Statement"], set(re.findall(r'function = "(.*)"', pods))),
    ):
        (ours,) = [one for one in statements if any(action.startswith("lambda:") for action in actions_of(one))]
        assert actions_of(ours) == {"lambda:InvokeFunction", *RIGHTS.values()}
        on = resolved(ours["Resource"])
        assert set([on] if isinstance(on, str) else on) == functions_


def test_what_the_host_s_script_calls_is_granted() -> None:
    """The commands of the AWS CLI on a new host are those that its role allows."""
    script = user_data() + (ROOT / "config/sam/install.sh").read_text()
    called = set(re.findall(r"aws (\w+ [\w-]+)", script))
    actions = {
        "s3 cp": "s3:GetObject",
        "ec2 attach-volume": "ec2:AttachVolume",
        "secretsmanager get-secret-value": "secretsmanager:GetSecretValue",
    }
    (host,) = [one for one in resource("HostRole")["Policies"] if one["PolicyName"] == "host"]
    granted = {action for one in host["PolicyDocument"]["Statement"] for action in actions_of(one)}
    assert {actions[one] for one in called} | {"logs:CreateLogStream", "logs:PutLogEvents"} == granted
    endpoints = resources_of("AWS::EC2::VPCEndpoint").values()
    reached = {one["ServiceName"]["Fn::Sub"].rpartition(".")[2] for one in endpoints}
    services = {"lambda", "sqs", "dynamodb", "monitoring", "s3", "ec2", "secretsmanager", "ssm", "ssmmessages", "logs"}
    assert reached == services


def test_the_plan_counts_the_endpoints_of_the_template() -> None:
    """``make plan`` bills as many interface endpoints, in as many zones, as the template makes."""
    network = read_prices(ROOT / FILE).network
    made = [one for one in resources_of("AWS::EC2::VPCEndpoint").values() if one["VpcEndpointType"] == "Interface"]
    assert network.interface_endpoints == len(made)
    assert {network.zones} == {len(one["SubnetIds"]) for one in made}


def test_alarms_watch_what_the_engine_tells() -> None:
    """Each alarm on the engine is on a metric of its own, under the name that the host's service gives it."""
    alarms = [one for one in resources_of("AWS::CloudWatch::Alarm").values() if one["Namespace"] == "IngestEngine"]
    known = {metrics.LAG_MS, metrics.RUNNING, metrics.DELETIONS_HELD, *metrics.LAGS, *metrics.GAUGES, *metrics.COUNTERS}
    watched = {"LagMs", "Gaps", "DeadLetters", "DeletionsHeld", "KeysBacklog"}
    assert watched == {alarm["MetricName"] for alarm in alarms} <= known
    for alarm in resources_of("AWS::CloudWatch::Alarm").values():
        _, _, topic = alarm["AlarmDescription"].partition("docs/runbooks.md#")
        assert topic in RUNBOOKS, alarm["AlarmDescription"]
    for alarm in alarms:
        assert alarm["Dimensions"] == [{"Name": "Engine", "Value": {"Ref": "AWS::StackName"}}]
    assert "METRICS_NAME='carts'" in user_data()
    assert "--name ${METRICS_NAME}" in (ROOT / "config/systemd/ingest-engine-metrics.service").read_text()
    default = next(one for one in cli.commands["metrics"].params if one.name == "namespace").default
    assert default == "IngestEngine"


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    """The dashboard is JSON, and what it shows of the engine is what the engine reports."""
    (dashboard,) = resources_of("AWS::CloudWatch::Dashboard").values()
    text = resolved(dashboard["DashboardBody"]).replace("LagAlarmMs", "60000")
    widgets = json.loads(text)["widgets"]
    shown = {one[1] for widget in widgets for one in widget["properties"]["metrics"] if one[0] == "IngestEngine"}
    assert len(shown) > 8
    assert shown <= {metrics.LAG_MS, metrics.RUNNING, *metrics.GAUGES, *metrics.COUNTERS}


def test_nobody_logs_in_over_the_network() -> None:
    """The host takes no connections at all, and its metadata wants a token."""
    assert "SecurityGroupIngress" not in resource("EngineSecurityGroup")
    groups = resources_of("AWS::EC2::SecurityGroup").values()
    rules = [rule for group in groups for rule in group.get("SecurityGroupIngress", [])]
    assert sorted(rule["ToPort"] for rule in rules) == [443, 6379]
    data = resource("HostTemplate")["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert "KeyName" not in data
