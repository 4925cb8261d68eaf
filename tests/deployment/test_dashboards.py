"""Alerts and dashboard for Prometheus and Grafana: what they ask for is what the console shows."""

from __future__ import annotations

import json
import os
import re

from prometheus_client.parser import text_string_to_metric_families

from engine.console.prometheus import exposition
from engine.console.source import Usage
from tests.console_rig import status_of
from tests.deployment.documents import CONFIG, RUNBOOKS
from tests.prometheus import alerts

DASHBOARD = CONFIG / "grafana" / "ingest-engine.json"


def shown() -> dict[str, set[str]]:
    """Return the labels of each sample that the console shows, by the sample's name."""
    route = {"failing_since_ms": 1, "oldest_ms": 1, "keys_waiting": 1, "keys_in_flight": 1, "keys_backlog": 1}
    status = status_of(os.getpid())
    status["routes"] = [{**one, **route} for one in status["routes"]]
    body, _ = exposition(status, [Usage("supervisor", 1.0, 1)], 1_048_576, "")
    families = text_string_to_metric_families(body.decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def check(expression: str) -> None:
    """See that each metric is shown, and has the labels that are asked of it; what grows is rated, nothing else is."""
    known = shown()
    rated = re.sub(r"present_over_time\([^)]*\)", "", expression)
    for name, selector, window in re.findall(r"\b(ingest_engine_\w+)(\{[^}]*\})?(\[)?", rated):
        assert name in known, name
        wanted = set(re.findall(r"(\w+)(?:=~|!=|=)", selector)) - {"instance"}
        assert wanted <= known[name], (name, wanted)
        assert bool(window) == name.endswith(("_total", "_bucket")), name
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        names = {one.strip() for one in labels.split(",")} - {"instance"}
        assert names <= set.union(*known.values())


def test_alerts_ask_for_what_is_shown() -> None:
    """Each alert asks for metrics that there are, and has a severity, a summary and a runbook."""
    assert len(alerts()) > 10
    for alert in alerts():
        check(alert["expr"])
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["summary"]
        document, _, topic = alert["annotations"]["runbook_url"].partition("#")
        assert document == "docs/runbooks.md"
        assert topic in RUNBOOKS
    assert len({alert["alert"] for alert in alerts()}) == len(alerts())


def test_the_dashboard_asks_for_what_is_shown() -> None:
    """Each panel's queries are over metrics that there are; panels do not lie upon each other."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) > 25
    for query in queries:
        check(query)
        assert "$instance" in query
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert len({panel["id"] for panel in panels}) == len(panels)
