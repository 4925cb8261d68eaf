"""The files of ``config/`` against the schemas of those who take them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import kubernetes_validate
import pytest
from botocore.validate import ParamValidator

from tests.deployment import documents
from tests.deployment.documents import (
    CONFIG,
    DOCKERFILE,
    ROOT,
    SERVICE,
    TEMPLATE,
    dockerfile,
    manifests,
    task,
    user_data,
)


def test_cloudformation_finds_nothing_wrong() -> None:
    """cfn-lint, with SAM's transform and the resource schemas of CloudFormation, has no error and no warning."""
    done = subprocess.run([Path(sys.executable).with_name("cfn-lint"), TEMPLATE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_identifiers_are_short_and_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """ElastiCache takes its users' and groups' identifiers, of 40 characters at most, whatever the stack is called."""
    name, number = "Carts-" + "x" * 120, "51af3dc0-da77-11e4-872e-1234567db123"
    stack = {
        "AWS::StackName": name,
        "AWS::StackId": f"arn:aws:cloudformation:eu-west-1:123456789012:stack/{name}/{number}",
    }
    monkeypatch.setattr(documents, "_STANDS_FOR", documents._STANDS_FOR | stack)
    users = documents.resources_of("AWS::ElastiCache::User") | documents.resources_of("AWS::ElastiCache::UserGroup")
    ids = [documents.resolved(one.get("UserId") or one["UserGroupId"]) for one in users.values()]
    assert len(set(ids)) == 3
    for one in ids:
        assert re.fullmatch(r"[a-z]([a-z0-9]|-(?=[a-z0-9])){0,39}", one)
        assert number.partition("-")[0] in one


def test_concurrency_need_not_be_reserved() -> None:
    """A new account has nothing to reserve: by default no function is given any of its own."""
    document = documents.template()
    assert document["Parameters"]["FunctionConcurrency"]["Default"] == 0
    reserved = document["Globals"]["Function"]["ReservedConcurrentExecutions"]
    assert reserved == {"Fn::If": ["HasConcurrency", {"Ref": "FunctionConcurrency"}, {"Ref": "AWS::NoValue"}]}


@pytest.mark.parametrize("document", manifests(), ids=lambda one: one["kind"])
def test_kubernetes_takes_the_manifests(document: dict[str, Any]) -> None:
    """Each resource is one of its schema, without a field that the schema lacks."""
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("operation", "content"),
    [("RegisterTaskDefinition", task()), ("CreateService", json.loads(SERVICE.read_text()))],
    ids=["task", "service"],
)
def test_ecs_takes_the_task_and_the_service(operation: str, content: dict[str, Any]) -> None:
    """Each is what the API's own model asks for; a field that it lacks is refused."""
    model = botocore.session.get_session().get_service_model("ecs")
    shape = model.operation_model(operation).input_shape
    report = ParamValidator().validate(content, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("script", sorted((CONFIG / "sam").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_scripts(script: Path) -> None:
    """The shell can read each of them."""
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_host_runs_a_script() -> None:
    """What a new host runs is a script, short enough for user data, and leaves no name unresolved."""
    text = user_data()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert len(text.encode()) < 16_384 * 3 // 4
    assert "${" not in text


def test_the_image_holds_what_the_engine_needs(tmp_path: Path) -> None:
    """From what the Dockerfile copies, and its ignore file lets through, the engine runs."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [rest.split() for name, rest in dockerfile() if name == "COPY" and not rest.startswith("--from")]
    for *sources, target in copied:
        for source in sources:
            assert f"!{source}" in ignored
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    # Before what is installed here comes what was copied, and nothing else of this checkout.
    code = "import sys; sys.path = ['.', *(path for path in sys.path if 'packages' in path or 'lib' in path)]; "
    code += "".join(f"import {name}; " for name in _modules(tmp_path / "engine", tmp_path))
    code += "print(engine.__file__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path, done.stdout.strip()).is_relative_to(tmp_path)


def _modules(folder: Path, root: Path) -> list[str]:
    wanted = ("capture", "delivery", "supervision", "observe", "audit", "redrive", "ring")
    paths = [path for name in wanted for path in (folder / name).rglob("*.py") if path.name != "__init__.py"]
    return sorted(".".join(path.relative_to(root).with_suffix("").parts) for path in paths)


def test_the_image_is_nobody_in_particular() -> None:
    """The image runs as a user with a number that is not root's, in the exec form, so that signals reach the engine."""
    (user,) = [rest for name, rest in dockerfile() if name == "USER"]
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", user)
    (entry,) = [rest for name, rest in dockerfile() if name == "ENTRYPOINT"]
    assert json.loads(entry) == ["engine"]
    assert 'engine = "engine.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert len(re.findall("^FROM ", DOCKERFILE.read_text(), re.MULTILINE)) == 2


def test_deploy_says_what_is_missing(tmp_path: Path) -> None:
    """Without the SAM CLI, or without a bucket, a deployment ends before anything is made, and says what to do."""
    script = str(CONFIG / "sam" / "deploy.sh")
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    bare = subprocess.run(["bash", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert bare.returncode == 2
    assert "install AWS's SAM CLI" in bare.stderr
    for tool in ("sam", "aws"):
        (tmp_path / tool).symlink_to("/bin/false")
    without = subprocess.run(["bash", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert without.returncode == 2
    assert "make deploy BUCKET=" in without.stderr
    named = {"PATH": str(tmp_path), "BUCKET": "artifacts"}
    refused = subprocess.run(["bash", script], env=named, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "takes no credentials" in refused.stderr
