"""Whether a running engine is well, and if not, what is wrong: one line, and findings with their runbooks.  (pure)

The source is the status file's content, so all who can read it agree: `engine status`, the console's page, alerts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from engine.model import THE_BEGINNING_MS
from engine.text import counted, shown

LATE_MS = 10_000
"""Changes that wait for longer are late: at rest, about a second is usual."""
SILENT_MS = 5_000
"""If a process's loop has not turned for this long, it hangs, or its host is overloaded."""
RECENT_MS = 10_000
"""A failure longer ago, after which deliveries went well, is over."""
ERROR_CHARS_MAX = 160
"""Of an error's text in a line."""


class Condition(StrEnum):
    """The state of an engine. What it *recovers* from ends without anybody's help; *trouble* may not."""

    WELL = "well"
    RECOVERING = "recovering"
    TROUBLE = "not well"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be; ``topic`` names its section in the runbooks."""

    condition: Condition
    topic: str
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """The findings, the worst first, and all of it in one line."""

    condition: Condition
    line: str
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        found = [
            {"condition": one.condition.value, "topic": one.topic, "what": one.what, "hint": one.hint}
            for one in self.findings
        ]
        return {"condition": self.condition.value, "line": self.line, "findings": found}


def health_of(status: Mapping[str, Any], now_ms: int) -> Health:
    """Return the health of the engine with this status; ``now_ms`` is Unix time by the clock of its host."""
    found = [*_of_state(status), *_of_children(status), *_of_routes(status, now_ms)]
    found += _of_failures(status, now_ms)
    found += [*_of_keys(status), *_of_gaps(status), *_of_lag(status, now_ms, is_explained=bool(found))]
    found.sort(key=lambda one: one.condition is not Condition.TROUBLE)
    condition = found[0].condition if found else Condition.WELL
    if not found:
        lag_ms = lag_ms_of(status, now_ms)
        if snapshots := snapshots_under_way(status.get("routes", ())):
            what = f": {', '.join(map(shown, snapshots))} receives the whole keyspace, and what changes meanwhile"
        else:
            what = "" if lag_ms is None else f": everything that changed until {seconds(lag_ms)} ago is delivered"
        return Health(condition, f"{condition.value}{what}", ())
    more = len(found) - 1
    line = f"{condition.value}: {found[0].what}" + (f"; {counted(more, 'more finding')}" if more else "")
    return Health(condition, line, tuple(found))


def nobody(reason: str) -> Health:
    """Return what to say if no engine runs, for this reason."""
    finding = Finding(Condition.TROUBLE, "not-running", reason)
    return Health(finding.condition, f"{finding.condition.value}: {reason}", (finding,))


def lag_ms_of(status: Mapping[str, Any], now_ms: int) -> int | None:
    """Return how long the oldest undelivered change has waited, None if that is not known yet.

    Keys that wait on disk for a failing route count, though the watermark has passed them. Keys that were set aside,
    because they keep failing by themselves, do not.
    """
    settled_ms = int(status.get("settled_until_ms", 0))
    return None if settled_ms <= THE_BEGINNING_MS else max(0, now_ms - min([settled_ms, *_oldest(status)]))


def _oldest(status: Mapping[str, Any]) -> list[int]:
    """Return since when (Unix ms) the oldest key of each route has waited, for routes that have one."""
    return [int(route["oldest_ms"]) for route in status.get("routes", ()) if route.get("oldest_ms")]


def seconds(ms: float) -> str:
    """Return a span for people: 0.8 s, 34 s, 12 min, 3 h."""
    if ms < 9_950:
        return f"{ms / 1_000:.1f} s"
    if ms < 120_000:
        return f"{ms / 1_000:.0f} s"
    minutes = ms / 60_000
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:,.0f} h"


def _of_state(status: Mapping[str, Any]) -> Iterator[Finding]:
    state = status.get("state", "ready")
    if state != "ready":
        yield Finding(Condition.RECOVERING, state, f"the engine is {state}")


def _of_children(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status.get("state", "ready") != "ready":
        return
    for child in status.get("children", ()):
        age_ms = child.get("heartbeat_age_ms")
        again = f" (restarted {counted(child['restarts'], 'time')})" if child.get("restarts") else ""
        if not child["pid"]:
            yield Finding(Condition.TROUBLE, "process-down", f"{child['name']} is down, and is being restarted{again}")
        elif child["state"] not in {"ready", "draining", "drained"}:
            yield Finding(Condition.RECOVERING, "process-down", f"{child['name']} is {child['state']}{again}")
        elif age_ms is not None and age_ms > SILENT_MS:
            yield Finding(Condition.TROUBLE, "process-silent", f"{child['name']} has been silent for {seconds(age_ms)}")


def _of_routes(status: Mapping[str, Any], now_ms: int) -> Iterator[Finding]:
    for route in status.get("routes", ()):
        name, waiting = shown(route["name"]), _undelivered(route)
        if since_ms := route.get("failing_since_ms", 0):
            error = _short(route.get("error", "") or "no reason given")
            keys = f", {counted(waiting, 'key')} wait{'s' if waiting == 1 else ''}" if waiting else ""
            what = f"route {name} has failed for {seconds(max(0, now_ms - since_ms))}{keys}: {error}"
            yield Finding(Condition.TROUBLE, "route-failing", what, f"check the function {shown(route['function'])}")
        elif backlog := route.get("keys_backlog", 0) - route.get("keys_set_aside", 0):
            what = f"route {name} is working off {counted(backlog, 'key')} that waited on disk"
            yield Finding(Condition.RECOVERING, "backlog", what)


def _of_failures(status: Mapping[str, Any], now_ms: int) -> Iterator[Finding]:
    """Yield recent failures of routes that still deliver."""
    failed, all_of_them = (_in_the_last_minute(status, name) for name in ("invocations_failed", "invocations"))
    routes = status.get("routes", ())
    last: Mapping[str, Any] = max(routes, key=lambda route: int(route.get("error_ms", 0)), default={})
    is_over = now_ms - int(last.get("error_ms", 0)) > RECENT_MS
    if not failed or is_over or any(route.get("failing_since_ms") for route in routes):
        return
    why = f" (route {shown(last['name'])}: {_short(last['error'])})" if last.get("error") else ""
    what = f"{failed:,} of {counted(all_of_them, 'invocation')} failed in the last minute{why}"
    yield Finding(Condition.RECOVERING, "invocations-failing", what)


def _short(error: str) -> str:
    text = shown(error)
    return text if len(text) <= ERROR_CHARS_MAX else f"{text[: ERROR_CHARS_MAX - 1]}…"


def _undelivered(route: Mapping[str, Any]) -> int:
    """Return how many keys wait; one on disk may be in memory too, so the larger count stands."""
    in_memory = int(route.get("keys_waiting", 0)) + int(route.get("keys_in_flight", 0))
    return max(in_memory, int(route.get("keys_backlog", 0)))


def _of_keys(status: Mapping[str, Any]) -> Iterator[Finding]:
    # A route that fails as a whole is reported elsewhere: its keys do not fail alone.
    failing = sum(route.get("keys_set_aside", 0) for route in status.get("routes", ()) if route.get("failing_since_ms"))
    if (aside := status.get("totals", {}).get("keys_set_aside", 0) - failing) > 0:
        verb = "keeps" if aside == 1 else "keep"
        what = f"{counted(aside, 'key')} {verb} failing alone, set aside on disk"
        yield Finding(Condition.TROUBLE, "keys-set-aside", what, "the log names the reason (keys_set_aside)")
    if held := status.get("deletions_held", 0):
        what = f"{counted(held, 'deletion')} {'is' if held == 1 else 'are'} held"
        yield Finding(Condition.TROUBLE, "deletions-held", what, "decide: 'engine deletions'")
    if letters := _in_the_last_minute(status, "dead_letters"):
        what = f"{counted(letters, 'dead letter')} in the last minute"
        yield Finding(Condition.TROUBLE, "dead-letters", what, "check the reasons, then run 'engine redrive'")


def _of_gaps(status: Mapping[str, Any]) -> Iterator[Finding]:
    if dropped := _in_the_last_minute(status, "events_dropped"):
        what = f"{counted(dropped, 'change')} dropped in the last minute: rings and memory were full"
        yield Finding(Condition.RECOVERING, "overflow", what, "a scan finds them; add invokers or concurrency")
    scan = status.get("scan") or {}
    snapshots = snapshots_under_way(status.get("routes", ()))
    if scan.get("keys") and not snapshots:
        yield Finding(Condition.RECOVERING, "gap-repair", f"a gap is being repaired: {in_words(scan)}")
    if owed := sum(node.get("slots_owed", 0) for node in status.get("nodes", ())):
        yield Finding(Condition.RECOVERING, "gap-repair", f"{counted(owed, 'slot')} that moved are yet to be scanned")


def _of_lag(status: Mapping[str, Any], now_ms: int, *, is_explained: bool) -> Iterator[Finding]:
    lag_ms = lag_ms_of(status, now_ms)
    if snapshots_under_way(status.get("routes", ())):
        # The watermark stands until the whole keyspace is found; what is found, or changes, is delivered meanwhile.
        lag_ms = max((now_ms - oldest_ms for oldest_ms in _oldest(status)), default=0)
    if lag_ms is None:
        if status.get("state", "ready") == "ready":
            yield Finding(Condition.RECOVERING, "starting", "the delivery lag is not known yet")
        return
    if lag_ms <= LATE_MS or is_explained:
        return
    what = f"changes are delivered late: the oldest has waited for {seconds(lag_ms)}"
    if late := _late_parts(status.get("nodes", ())):
        what += f" (of {', '.join(map(shown, late))})"
    yield Finding(Condition.TROUBLE, "late", what, "more invokers, more concurrency, or a faster function")


def _late_parts(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the nodes that are late, or of a node the keys of the feeds that are; nothing where all are late."""
    found, parts = [], 0
    for node in nodes:
        feeds = node.get("feeds") or [node]
        late = [feed for feed in feeds if (feed.get("settled_age_ms") or 0) > LATE_MS]
        parts += len(feeds)
        found += [(node, feed if len(late) < len(feeds) else node) for feed in late]
    if len(found) == parts:
        return []
    names = [f"{node['address']}, keys that end in {one['keys']}" if one is not node else str(node["address"])
             for node, one in found]  # fmt: skip
    return list(dict.fromkeys(names))


def snapshots_under_way(routes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the routes that are receiving the whole keyspace now."""
    return [str(route["name"]) for route in routes if route.get("snapshot") == "under way"]


def in_words(scan: Mapping[str, Any]) -> str:
    """Return how far a scan is: 40 %, about 3 minutes left. Each shard counts all keys of its nodes."""
    share = min(100, 100 * scan["scanned"] // max(1, scan["keys"]))
    left_s = scan.get("left_s")
    left = ""
    if left_s is not None:
        minutes = round(left_s / 60)
        left = f", about {counted(minutes, 'minute')} left" if minutes else ", less than a minute left"
    return f"{share} %{left}"


def _in_the_last_minute(status: Mapping[str, Any], counter: str) -> int:
    return int((status.get("last_minute") or {}).get("counts", {}).get(counter, 0))
