"""Prometheus itself over running engines, with the rules of ``config/prometheus`` on a quicker clock."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.sandbox.ports import free_port
from tests.support import wait_for

RULES = Path(__file__).parents[1] / "config" / "prometheus" / "rules.yaml"
SCRAPE_S = 1


def program(name: str) -> str:
    """Return where Prometheus's program of this name is, "" where it is not."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or ""


needs_prometheus = pytest.mark.skipif(
    not (program("prometheus") and program("promtool")), reason="no prometheus: `make prometheus` fetches it"
)


def alerts() -> list[dict[str, Any]]:
    """Return the rules."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def scaled(text: str, minute_s: int) -> str:
    """Return a text in which each span of minutes or days takes so many seconds a minute; thresholds stay."""
    minutes = {"m": 1, "d": 24 * 60}
    return re.sub(r"(\d+)([md])\b", lambda found: f"{int(found[1]) * minutes[found[2]] * minute_s}s", text)


class Prometheus:
    """Asks it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _get(self, path: str, **arguments: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(arguments)}", timeout=20) as answer:
            return json.loads(answer.read())["data"]

    def is_there(self) -> bool:
        """Tell whether it answers."""
        try:
            return bool(self._get("/api/v1/query", query="vector(1)"))
        except OSError:
            return False

    def value(self, query: str) -> float | None:
        """Return the value of a query's first sample, None where it finds nothing."""
        found = self._get("/api/v1/query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self, instance: str) -> set[str]:
        """Return the alerts that fire for this engine now."""
        found = self._get("/api/v1/alerts")["alerts"]
        return {
            one["labels"]["alertname"]
            for one in found
            if one["state"] == "firing" and one["labels"].get("instance") == instance
        }


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, str], minute_s: int) -> Iterator[Prometheus]:
    """Run it over these consoles: what each is called, and its address. Rules are those of ``config``, scaled."""
    (folder / "rules.yaml").write_text(scaled(RULES.read_text(), minute_s))
    every = {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s", "evaluation_interval": "1s"}
    jobs = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
    config = {
        "global": every,
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "caches", "static_configs": jobs}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port("prometheus")
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        one = Prometheus(f"http://127.0.0.1:{port}")
        wait_for(lambda: process.poll() is not None or one.is_there(), "Prometheus")
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield one
    finally:
        process.kill()
        process.wait()
