"""Whether an engine is well, in one line: never *well* while something is late, failing or held."""

from __future__ import annotations

from typing import Any

import pytest

from engine.observe.health import LATE_MS, Condition, health_of, lag_ms_of, nobody, seconds
from engine.observe.scans import ScanProgress

NOW_MS = 1_800_000_000_000


def route(**changes: Any) -> dict[str, Any]:
    return {"name": "carts", "function": "f", "keys": ["*"], "events": ["hset"], "snapshot": "none", **changes}


def child(**changes: Any) -> dict[str, Any]:
    return {"name": "invoker 1/1", "pid": 7, "state": "ready", "restarts": 0, "heartbeat_age_ms": 12, **changes}


def status(**changes: Any) -> dict[str, Any]:
    return {
        "state": "ready", "settled_until_ms": NOW_MS - 800, "updated_at_ms": NOW_MS, "routes": [route()],
        "children": [child()], "totals": {}, "deletions_held": 0, **changes,
    }  # fmt: skip


def counts(**of: int) -> dict[str, Any]:
    return {"seconds": 60.0, "counts": of}


def test_well() -> None:
    """An engine that is well says until when everything is delivered, and nothing more."""
    health = health_of(status(), NOW_MS)
    assert (health.condition, health.findings) == (Condition.WELL, ())
    assert health.line == "well: everything that changed until 0.8 s ago is delivered"


FAILING = route(
    failing_since_ms=NOW_MS - 20_000, error="function_error: boom", error_ms=NOW_MS - 100, keys_backlog=1_234,
    oldest_ms=NOW_MS - 21_000,
)  # fmt: skip

TROUBLE = [
    ("route-failing", {"routes": [FAILING]}, "route carts has failed for 20 s, 1,234 keys wait: function_error: boom"),
    ("deletions-held", {"deletions_held": 1}, "1 deletion is held"),
    ("keys-set-aside", {"totals": {"keys_set_aside": 2}}, "2 keys keep failing alone"),
    ("dead-letters", {"last_minute": counts(dead_letters=1)}, "1 dead letter in the last minute"),
    ("process-down", {"children": [child(pid=0, state="empty", restarts=1)]}, "restarted 1 time)"),
    ("process-silent", {"children": [child(heartbeat_age_ms=7_000)]}, "invoker 1/1 has been silent for 7.0 s"),
    ("late", {"settled_until_ms": NOW_MS - 34_000}, "the oldest has waited for 34 s"),
    ("late", {"routes": [route(oldest_ms=NOW_MS - 34_000)]}, "the oldest has waited for 34 s"),
]


@pytest.mark.parametrize(("topic", "changes", "words"), TROUBLE, ids=[one[0] for one in TROUBLE])
def test_trouble(topic: str, changes: dict[str, Any], words: str) -> None:
    """Each thing that somebody must see to makes it not well, by a topic and a line that says what."""
    health = health_of(status(**changes), NOW_MS)
    assert health.condition is Condition.TROUBLE
    assert [one.topic for one in health.findings] == [topic]
    assert health.line.startswith("not well: ") and words in health.line


FAILED_AT = {"last_minute": counts(invocations=9, invocations_failed=1)}
RECOVERING = [
    ("starting", {"state": "starting"}),
    ("draining", {"state": "draining"}),
    ("starting", {"settled_until_ms": 1}),
    ("backlog", {"routes": [route(keys_backlog=7)]}),
    ("gap-repair", {"scan": {"keys": 100, "scanned": 40, "left_s": 200}}),
    ("gap-repair", {"nodes": [{"slots_owed": 3}]}),
    ("overflow", {"last_minute": counts(events_dropped=5)}),
    ("process-down", {"children": [child(state="starting")]}),
    ("invocations-failing", {**FAILED_AT, "routes": [route(error="timeout: x", error_ms=NOW_MS - 5_000)]}),
]


@pytest.mark.parametrize(("topic", "changes"), RECOVERING)
def test_recovering(topic: str, changes: dict[str, Any]) -> None:
    """What ends by itself is told apart from what does not, and is not *well* either."""
    health = health_of(status(**changes), NOW_MS)
    assert health.condition is Condition.RECOVERING
    assert [one.topic for one in health.findings] == [topic]


def test_a_failure_is_over_after_a_while() -> None:
    """What failed some time ago, and went well since, is no finding any more."""
    over = status(**FAILED_AT, routes=[route(error="timeout: x", error_ms=NOW_MS - 15_000)])
    assert health_of(over, NOW_MS).condition is Condition.WELL


@pytest.mark.parametrize(
    ("ages", "named"),
    [
        (([30_000, 900], [900]), " (of a:1, keys that end in n-z)"),
        (([30_000, 40_000], [900]), " (of a:1)"),
        (([900, 900], [30_000]), " (of b:1)"),
        (([30_000, 30_000], [30_000]), ""),
        (([900, None], [900]), ""),
    ],
)
def test_what_is_late_alone_is_named(ages: tuple[list[int | None], ...], named: str) -> None:
    """A feed that is late alone is named by its keys, a node by its address; where all are late nobody is."""
    nodes = [
        {
            "address": address,
            "settled_age_ms": None if None in of_node else max(map(int, filter(None, of_node))),
            "feeds": [
                {"keys": keys, "settled_age_ms": age} for keys, age in zip(("n-z", "a-m"), of_node, strict=False)
            ],
        }
        for address, of_node in zip(("a:1", "b:1"), ages, strict=True)
    ]
    line = health_of(status(nodes=nodes, settled_until_ms=NOW_MS - 30_000), NOW_MS).line
    assert line == f"not well: changes are delivered late: the oldest has waited for 30 s{named}"


def test_the_worst_comes_first() -> None:
    """Of several findings the line names one that somebody must see to, and how many more there are."""
    both = status(routes=[route(keys_backlog=5)], deletions_held=2)
    health = health_of(both, NOW_MS)
    assert [one.topic for one in health.findings] == ["deletions-held", "backlog"]
    assert health.line == "not well: 2 deletions are held; 1 more finding"


def test_keys_of_a_failing_route_do_not_fail_alone() -> None:
    """What is set aside of a route that fails as a whole is not counted a second time."""
    failing = {**FAILING, "keys_set_aside": 3}
    topics = [one.topic for one in health_of(status(routes=[failing], totals={"keys_set_aside": 4}), NOW_MS).findings]
    assert topics == ["route-failing", "keys-set-aside"]
    assert len(health_of(status(routes=[failing], totals={"keys_set_aside": 3}), NOW_MS).findings) == 1


def test_a_snapshot_is_no_gap() -> None:
    """A route's first snapshot makes nothing late and repairs nothing: it is what was asked for."""
    whole = status(routes=[route(snapshot="under way")], settled_until_ms=1, scan={"keys": 9, "scanned": 1})
    health = health_of(whole, NOW_MS)
    assert health.condition is Condition.WELL
    assert health.line == "well: carts receives the whole keyspace, and what changes meanwhile"
    standing = {**whole, "settled_until_ms": NOW_MS - 90_000}
    assert health_of(standing, NOW_MS).condition is Condition.WELL
    late = {**standing, "routes": [route(snapshot="under way", oldest_ms=NOW_MS - 34_000)]}
    assert health_of(late, NOW_MS).findings[0].topic == "late"


def test_lag_counts_keys_on_disk() -> None:
    """Keys that wait on disk count for the lag, though the watermark has passed them."""
    assert lag_ms_of(status(), NOW_MS) == 800
    assert lag_ms_of(status(routes=[FAILING]), NOW_MS) == 21_000
    assert lag_ms_of(status(settled_until_ms=1), NOW_MS) is None


def test_an_old_status_is_read() -> None:
    """A status of an engine that says less is judged by what it says."""
    old = {"state": "ready", "children": [], "routes": [{"name": "r", "function": "f"}], "settled_until_ms": NOW_MS}
    assert health_of(old, NOW_MS).condition is Condition.WELL


def test_hostile_texts_are_shown() -> None:
    """An error's text is one line, short, and commands no terminal."""
    evil = route(failing_since_ms=NOW_MS - 1, error="\x1b[2J\n" + "x" * 10_000, error_ms=NOW_MS)
    line = health_of(status(routes=[evil]), NOW_MS).line
    assert line.isprintable() and len(line) < 300


def test_nobody_runs() -> None:
    """Where no engine runs, that is what is wrong."""
    assert nobody("no engine runs here").line == "not well: no engine runs here"


@pytest.mark.parametrize(
    ("ms", "words"), [(0, "0.0 s"), (9_949, "9.9 s"), (34_000, "34 s"), (720_000, "12 min"), (LATE_MS * 2_000, "6 h")]
)
def test_spans(ms: int, words: str) -> None:
    assert seconds(ms) == words


def test_how_long_a_scan_takes() -> None:
    """A scan says what is left by its own pace; one that begins anew forgets the pace of the one before."""
    progress = ScanProgress()
    assert progress.take_in(0, 0, 0) == {"keys": 0, "scanned": 0, "left_s": None}
    assert progress.take_in(0, 1_000, 1_000) == {"keys": 1_000, "scanned": 0, "left_s": None}
    assert progress.take_in(400, 1_000, 11_000) == {"keys": 1_000, "scanned": 400, "left_s": 15}
    assert progress.take_in(10, 1_000, 12_000)["left_s"] is None
