"""The Helm chart, rendered: it makes what the plain manifests make, and refuses what is no value.

Helm is a program of its own: where it is not on PATH these are skipped, but for what can be seen without it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import engine
from engine.cli import cli
from engine.settings.file import load_settings
from tests.deployment.documents import CONFIG, manifest

CHART = CONFIG / "helm" / "ingest-engine"
BESIDE = Path(sys.executable).with_name("helm")
HELM = str(BESIDE) if BESIDE.exists() else shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="no helm: `make helm` builds it")
GIB = 1 << 30


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def rendered(*arguments: str) -> dict[str, dict[str, Any]]:
    """Return the chart's resources with these arguments, by kind."""
    done = helm("template", "ingest-engine", str(CHART), "--kube-version", "1.30.0", *arguments)
    assert done.returncode == 0, done.stderr
    return {one["kind"]: one for one in yaml.safe_load_all(done.stdout) if one}


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


@needs_helm
def test_helm_finds_nothing_wrong() -> None:
    """``helm lint`` has no error and no warning."""
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
@pytest.mark.parametrize("arguments", [(), ("--set", "passwordSecret="), ("--set", "metrics.embedded=false,slices=5")])
def test_kubernetes_takes_what_the_chart_makes(arguments: tuple[str, ...]) -> None:
    """Each resource is one of its schema, with options or without."""
    for document in rendered(*arguments).values():
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@needs_helm
def test_the_chart_makes_what_the_manifests_make() -> None:
    """Containers, rights, volumes and probes are those of ``config/kubernetes``, but for names and labels."""
    made = rendered("--set", "roleArn=arn:aws:iam::123456789012:role/ingest-engine")
    pods = [one["spec"]["template"]["spec"] for one in (made["StatefulSet"], manifest("StatefulSet"))]
    for pod in pods:
        for container in pod["containers"]:
            container.pop("imagePullPolicy", None)
        pod.pop("topologySpreadConstraints")
    assert pods[0] == pods[1]
    claims = [one["spec"]["volumeClaimTemplates"] for one in (made["StatefulSet"], manifest("StatefulSet"))]
    assert claims[0] == claims[1]
    assert made["ServiceAccount"]["metadata"]["annotations"] == manifest("ServiceAccount")["metadata"]["annotations"]


@needs_helm
def test_a_digest_wins_over_the_tag() -> None:
    """Every container has the image that its digest names, whatever the tag; without one, the tag or the version."""
    digest = "sha256:" + 64 * "7"
    for arguments, image in (
        (("image.tag=1.2", f"image.digest={digest}"), f"r.example/x@{digest}"),
        (("image.tag=1.2",), "r.example/x:1.2"),
        ((), f"r.example/x:{engine.__version__}"),
    ):
        made = rendered("--set", ",".join(("image.repository=r.example/x", *arguments)))
        containers = made["StatefulSet"]["spec"]["template"]["spec"]["containers"]
        assert {one["image"] for one in containers} == {image}


@needs_helm
def test_new_settings_restart_the_pods(tmp_path: Path) -> None:
    """The pods carry a checksum of their settings."""
    found = set()
    for text in ("a = 1", "a = 2"):
        file = tmp_path / "settings"
        file.write_text(text)
        pod = rendered("--set-file", f"settings={file}")["StatefulSet"]["spec"]["template"]
        found.add(pod["metadata"]["annotations"]["checksum/settings"])
    assert len(found) == 2


@needs_helm
@pytest.mark.parametrize("wrong", ["slices=0", "slice=2", "image.digest=latest", "terminationGracePeriodSeconds=10"])
def test_what_is_no_value_is_refused(wrong: str) -> None:
    """A name that the chart lacks, or a value that cannot work, is an error before anything is deployed."""
    assert helm("template", "x", str(CHART), "--set", wrong).returncode != 0


def test_the_default_settings_are_settings(tmp_path: Path) -> None:
    """What the chart's default values give the engine loads."""
    password = tmp_path / "password"
    password.write_text("secret")
    file = tmp_path / "engine.toml"
    file.write_text(values()["settings"].replace("/run/secrets/ingest-engine/password", str(password)))
    settings = load_settings(str(file), {}, {})
    assert values()["terminationGracePeriodSeconds"] > settings.supervision.drain_timeout_s
    backlogs = values()["invokers"] * settings.delivery.backlog_bytes_max + settings.delivery.dead_letter_bytes_max
    assert int(values()["state"]["size"].removesuffix("Gi")) * GIB > backlogs


def test_the_chart_is_of_this_version() -> None:
    """Chart and image have the engine's version; every value has a place in the schema; flags are the engine's."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == engine.__version__
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert set(values()) == set(schema) - {"global"}
    options = {option for one in cli.commands["start"].params for option in one.opts}
    assert {"--config", "--shards", "--invokers"} <= options
