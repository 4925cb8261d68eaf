"""What the page is made of, apart from a browser; and what has happened, as it shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from engine.console.view import live_view
from engine.observe import health
from engine.observe.timeline import KEPT, Timeline
from tests.runbooks import PAGE, anchor, on_the_page, runbooks

MARKUP = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\("


def test_the_page_has_the_runbooks_of_the_documents() -> None:
    """Its runbooks are those of docs/runbooks.md: 'python -m tests.runbooks' writes them into the page."""
    assert on_the_page() == runbooks()


def test_every_finding_has_its_runbook() -> None:
    """Each topic that a finding may have leads to a section that is there."""
    topics = set(re.findall(r'Finding\([\w.]+, "([a-z-]+)"', Path(health.__file__).read_text()))
    assert len(topics) > 8
    titles = {anchor(title) for title in re.findall(r"<h3>(.*?)</h3>", PAGE.read_text())}
    assert {f"runbook-{topic}" for topic in topics} <= titles
    assert set(re.findall(r'href="#(runbook-[a-z-]+)"', PAGE.read_text())) <= titles


def test_nothing_of_others_becomes_markup() -> None:
    """No script of the page writes markup, and the page loads nothing from elsewhere."""
    for path in PAGE.parent.glob("*.*"):
        text = path.read_text()
        assert not re.search(MARKUP, text), path
        assert not re.search(r"(?:src|href|url|import|from)\W{1,3}https?:", text), path
        assert not re.search(r"<script>|\son[a-z]+=|\sstyle=", text), path


def test_where_no_engine_runs_that_is_what_is_shown() -> None:
    """There is a sentence and a runbook for it, and no figure of an engine that was."""
    view = live_view(None, (), 5)
    assert (view["running"], view["health"]["findings"][0]["topic"]) == (False, "not-running")
    assert "totals" not in view


def child(**changes: Any) -> dict[str, Any]:
    counters = {"keys_to_scan": 0, "repairs": 0, "keys_looked_at": 0, "keys_repaired": 0}
    counters |= {name: changes.pop(name) for name in counters if name in changes}
    gaps = {"disconnected": 0, "dataset": 0} | changes.pop("gaps", {})
    return {"name": "subscriber 1/1", "restarts": 0, "gaps": gaps, "counters": counters, **changes}


def happened(*children: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what has happened to a process that was so, a second after the other."""
    timeline, said = Timeline(), b"[]"
    for second, one in enumerate(children):
        said = bytes(timeline.take_in([one], second * 1_000))
    found: list[dict[str, Any]] = json.loads(said)
    return found


def test_a_gap_and_its_repair_are_on_the_time_line() -> None:
    """A gap has its reason, and a repair when it began and ended, what it looked at and what it found."""
    gap = {"gaps": {"disconnected": 2}}
    ended = {"repairs": 1, "keys_looked_at": 90, "keys_repaired": 4}
    found = happened(child(), child(**gap), child(**gap, keys_to_scan=90), child(**gap, **ended), child(**gap, **ended))
    assert found == [
        {"at_ms": 1_000, "what": "gap", "process": "subscriber 1/1", "reason": "disconnected", "count": 2},
        {"at_ms": 2_000, "what": "repair", "process": "subscriber 1/1", "until_ms": 3_000, "keys_looked_at": 90,
         "keys_repaired": 4},
    ]  # fmt: skip


def test_a_quick_repair_is_not_missed() -> None:
    """One that begins and ends between two looks is there as well, and one that goes on has no end yet."""
    (quick,) = happened(child(), child(repairs=1, keys_looked_at=7))
    assert (quick["at_ms"], quick["until_ms"], quick["keys_looked_at"]) == (1_000, 1_000, 7)
    (going_on,) = happened(child(), child(keys_to_scan=10), child(keys_to_scan=10, keys_looked_at=5))
    assert (going_on["at_ms"], going_on["until_ms"], going_on["keys_looked_at"]) == (1_000, 0, 5)


def test_restarts_are_on_the_time_line_and_old_things_fall_off() -> None:
    """Only the newest happenings are kept, whatever goes on."""
    found = happened(*(child(restarts=number) for number in range(KEPT + 20)))
    assert len(found) == KEPT
    assert {one["what"] for one in found} == {"restart"}
    assert found[-1]["count"] == KEPT + 19
