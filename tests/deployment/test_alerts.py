"""The alerts for Prometheus, over series that are made up: when each fires, and when not. Prometheus's own tool judges.

That real faults raise them is in ``tests/integration/test_alerts.py``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.prometheus import RULES, alerts, needs_prometheus, program

SUBSCRIBER = 'process="subscriber 1/1"'
OUTCOME = "ingest_engine_invocations_total"


class Case(NamedTuple):
    """Series by name, a sample a minute: the fault is from minute 10 to minute 40.

    The alert does not fire at minute ``quiet``, fires at minute ``fires`` (None: at none), and no more at ``over``.
    """

    alert: str
    series: dict[str, str]
    quiet: int = 0
    fires: int | None = None
    over: int = 41


def gauge(name: str, well: float, ill: float, labels: str = "") -> dict[str, str]:
    return {f"ingest_engine_{name}{{{labels}}}": f"{well}x9 {ill}x29 {well}x40"}


def once(name: str, count: int, labels: str = SUBSCRIBER) -> dict[str, str]:
    """Return a counter that was 7, and grows by so many at minute 10."""
    return {f"ingest_engine_{name}_total{{{labels}}}": f"7x9 {7 + count}x70"}


def invocations(failing: int, well: int) -> dict[str, str]:
    return {
        f'{OUTCOME}{{outcome="accepted"}}': f"0+{well}x80",
        f'{OUTCOME}{{outcome="failed"}}': f"0x9 0+{failing}x29 {29 * failing}x40",
        f'{OUTCOME}{{outcome="lost"}}': "0x80",
    }


CASES = {
    "no engine behind a console": Case("Down", gauge("up", 1, 0), 10, 11),
    "nothing answers where an engine was": Case(
        "Down", {"up{}": "1x9 0x29 1x40", "ingest_engine_up{}": "1x9 stale _x28 1x40"}, 10, 11
    ),
    "nothing answers where none ever was": Case("Down", {"up{}": "1x9 0x29 1x40"}),
    "feeds do not listen": Case("NotReady", gauge("ready", 1, 0), 14, 15),
    "61 s behind": Case("Late", gauge("settled_age_seconds", 1, 61), 12, 13),
    "60 s behind": Case("Late", gauge("settled_age_seconds", 1, 60)),
    "a route fails": Case("RouteFailing", gauge("route_failing", 0, 1, 'route="carts"'), 10, 11),
    "11 of 101 invocations fail": Case("InvocationsFailing", invocations(11, 90), 19, 30, over=46),
    "9 of 99 invocations fail": Case("InvocationsFailing", invocations(9, 90)),
    "no invocations": Case("InvocationsFailing", invocations(0, 0)),
    "a key on disk": Case("Backlog", gauge("backlog_keys", 0, 1), 24, 25),
    "a key set aside": Case("KeysSetAside", gauge("keys_set_aside", 0, 1), 19, 20),
    "a dead letter": Case("DeadLetters", once("dead_letters", 1), 9, 10, over=16),
    "a deletion held": Case("DeletionsHeld", gauge("deletions_held", 0, 1), 9, 10),
    "four gaps": Case("Gaps", once("gaps", 4, f'{SUBSCRIBER},reason="dataset"'), 9, 10, over=26),
    "three gaps": Case("Gaps", once("gaps", 3, f'{SUBSCRIBER},reason="dataset"')),
    "an event dropped": Case("Overflow", once("events_dropped", 1), 9, 10, over=16),
    "three restarts": Case("ProcessRestarts", once("process_restarts", 3), 9, 10, over=26),
    "two restarts": Case("ProcessRestarts", once("process_restarts", 2)),
    "silent for 6 s": Case("ProcessSilent", gauge("process_heartbeat_age_seconds", 0.1, 6), 10, 11),
}


def labelled(series: str) -> str:
    """Return a series with the labels of its scrape."""
    name, _, labels = series.partition("{")
    own = labels.rstrip("}")
    return f'{name}{{job="caches",instance="one"{"," if own else ""}{own}}}'


def test_each_alert_has_a_case_that_fires() -> None:
    """An alert that is added wants a case here."""
    fires = {f"IngestEngine{case.alert}" for case in CASES.values() if case.fires is not None}
    assert fires == {alert["alert"] for alert in alerts()}


@needs_prometheus
def test_prometheus_takes_the_rules() -> None:
    """Prometheus's own check has nothing to say of the file."""
    done = subprocess.run([program("promtool"), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


@needs_prometheus
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should(name: str, tmp_path: Path) -> None:
    """An alert fires as long after its fault as its rule says, and not before; it is over when the fault is."""
    case = CASES[name]
    alert = f'ALERTS{{alertname="IngestEngine{case.alert}",alertstate="firing",instance="one"}}'
    no, yes = [], [{"labels": "{}", "value": 1}]
    if case.fires is None:
        expected = [(f"count(count_over_time({alert}[80m]))", 80, no)]
    else:
        expected = [
            (f"count({alert})", at, said) for at, said in ((case.quiet, no), (case.fires, yes), (case.over, no))
        ]
    test = {
        "interval": "1m",
        "input_series": [{"series": labelled(one), "values": values} for one, values in case.series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{at}m", "exp_samples": said} for query, at, said in expected
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([program("promtool"), "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
