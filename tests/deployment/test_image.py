"""What is deployed is named by its digest: the base of the image, and the image itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deployment.documents import CONFIG, ROOT, dockerfile

BASE_DIGEST, OWN_DIGEST = "sha256:" + 64 * "b", "sha256:" + 64 * "0"
DOCKER = f"""#!/bin/bash
echo "$*" >>docker.log
case "$2" in
  imagetools) printf 'Name:      x\\nDigest:    {BASE_DIGEST}\\n\\nManifests:\\n  Name: x@sha256:1\\n' ;;
  build)
    while [ "$1" != --metadata-file ]; do shift; done
    printf '{{\\n  "buildx.build.ref": "b/b0",\\n  "containerimage.digest": "{OWN_DIGEST}"\\n}}\\n' >"$2" ;;
esac
"""
"""Stands for docker, which our tests have none of."""
IMAGE = "registry.example:5000/ours/ingest-engine:0.1.0"
PINNED = f"registry.example:5000/ours/ingest-engine@{OWN_DIGEST}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the script, the Dockerfile and a docker that builds nothing."""
    for name in ("Dockerfile", "config/image.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    return tmp_path


def make_image(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{checkout}/bin:/usr/bin:/bin", **variables}
    return subprocess.run(
        ["bash", str(checkout / "config/image.sh")], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("given", ["", "python:3.12-slim", f"python:3.13-slim@sha256:{64 * 'a'}"])
def test_the_image_is_built_on_a_digest_and_named_by_its_own(checkout: Path, given: str) -> None:
    """The base's tag is looked up, unless a digest is given; what was pushed is in dist/image.txt, by its digest."""
    done = make_image(checkout, IMAGE=IMAGE, BASE=given)
    assert done.returncode == 0, done.stderr
    assert (checkout / "dist/image.txt").read_text() == PINNED + "\n"
    (build,) = [line for line in (checkout / "docker.log").read_text().splitlines() if line.startswith("buildx build")]
    base = given if "@" in given else f"{given or 'python:3.13-slim'}@{BASE_DIGEST}"
    assert f"--build-arg BASE={base} " in build
    assert f"--tag {IMAGE} --push" in build


@pytest.mark.parametrize("image", ["", "ingest-engine", "registry.example:5000/ingest-engine", "x:", "a b:1"])
def test_an_image_without_a_tag_is_refused(checkout: Path, image: str) -> None:
    """Nothing is built for a name that lacks its tag."""
    done = make_image(checkout, IMAGE=image)
    assert (done.returncode, "with a tag" in done.stderr) == (2, True)
    assert "build " not in (checkout / "docker.log").read_text()


def test_no_digest_is_made_up(checkout: Path) -> None:
    """Where the registry names none, or docker is missing, nothing is built, and the reason is said."""
    docker = checkout / "bin" / "docker"
    docker.write_text("#!/bin/sh\n")
    done = make_image(checkout, IMAGE=IMAGE)
    assert (done.returncode, "no digest of the base" in done.stderr) == (1, True)
    docker.write_text("#!/bin/sh\nexit 1\n")
    done = make_image(checkout, IMAGE=IMAGE)
    assert (done.returncode, "no docker buildx" in done.stderr) == (2, True)
    assert not (checkout / "dist").exists()


def test_every_stage_is_built_on_the_base() -> None:
    """What BASE names is all that the image is built on."""
    froms = [rest.split()[0] for name, rest in dockerfile() if name == "FROM"]
    assert froms == ["${BASE}", "${BASE}"]
    assert [rest for name, rest in dockerfile() if name == "ARG"] == ["BASE=python:3.13-slim"]


def test_the_documents_deploy_the_digest(checkout: Path) -> None:
    """The commands of config/README.md put the digest into every container of the manifests and of the task."""
    make_image(checkout, IMAGE=IMAGE)
    for name in ("kubernetes", "ecs"):
        shutil.copytree(CONFIG / name, checkout / "config" / name)
    commands = re.findall(r"^sed .*$", (CONFIG / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["bash", "-euc", command], cwd=checkout, check=True)
    documents = list(yaml.safe_load_all((checkout / "dist/kubernetes.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    (pods,) = [one for one in documents if one["kind"] == "StatefulSet"]
    task: dict[str, Any] = json.loads((checkout / "dist/task.json").read_text())
    containers = pods["spec"]["template"]["spec"]["containers"] + task["containerDefinitions"]
    assert {one["image"] for one in containers} == {PINNED}
    assert len(containers) == 5
