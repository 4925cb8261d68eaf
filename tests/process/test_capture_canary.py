"""Canaries that a server refuses for a while, where its flags are hidden: nobody knows then whether events come."""

from __future__ import annotations

import pytest

from engine.capture.feed.canary import EVERY_MS, Canary
from engine.capture.preflight import prepare_capture
from engine.config import RedisSettings, Settings
from engine.ring.counters import Counter
from engine.routing.routes import RouteTable
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import capture, route, wait_for

USERS = {"user": ["default on nopass ~* &* +@all", "engine on >guest-key ~* &* +@all -config"]}
PASSING = [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")]


def as_engine(server: ValkeyServer) -> RedisSettings:
    return RedisSettings(url=server.url, username="engine", password="guest-key")


@pytest.mark.parametrize(("setting", "refusing", "usual"), PASSING)
def test_a_refusal_that_passes_hides_no_gap(
    setting: str, refusing: str, usual: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """While canaries are refused no watermark counts, and it is told; what was missed meanwhile is found afterwards."""
    with (
        ValkeyServer(config=USERS) as server,
        capture(server, route("*", "del"), redis_settings=as_engine(server)) as (running, client),
    ):
        wait_for(lambda: running.heard_until().since_ms, "a canary has verified a watermark")
        client.config_set(setting, refusing)
        wait_for(lambda: "canary_refused" in capfd.readouterr().out, "it is told that canaries are refused")
        heard_until_ms = running.heard_until().since_ms
        client.config_set("notify-keyspace-events", "")
        client.config_set(setting, usual)
        client.set("missed", "value")
        wait_for(lambda: running.count(Counter.GAPS) == 1, "the next canary shows that events stopped")
        assert running.heard_until().since_ms == heard_until_ms
        client.config_set("notify-keyspace-events", "KA")
        running.take_until(lambda taken: b"missed" in {change.key for _, _, change in taken})


@pytest.mark.parametrize(("setting", "refusing", "usual"), PASSING)
def test_a_refusal_that_passes_keeps_nobody_from_starting(setting: str, refusing: str, usual: str) -> None:
    """A start with a server that takes no writes just now is warned of it, and does not fail."""
    with ValkeyServer(config={**USERS, "notify-keyspace-events": "KA", setting: refusing}) as server:
        settings = Settings(redis=as_engine(server))
        (warning,) = prepare_capture(settings, RouteTable.build([route("hset")])).warnings
        assert "no watermark counts" in warning


REFUSALS_THAT_PASS = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOREPLICAS Not enough good replicas to write.",
    "MISCONF Redis is configured to save RDB snapshots",
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MASTERDOWN Link with MASTER is down",
]


def told(refusal: str) -> Canary:
    """Return a canary that the server once took, and has now refused."""
    canary = Canary(0, "Kh")
    for moment_ms, answer in ((0, ""), (EVERY_MS, refusal)):
        assert canary.is_due(moment_ms)
        canary.commands(moment_ms)
        canary.taken(answer)
        canary.pinged()
        if not answer:
            canary.heard(b"hset")
            assert canary.ponged() == ""
            canary.is_verified = False
    return canary


@pytest.mark.parametrize("refusal", [*REFUSALS_THAT_PASS, "READONLY You can't write against a read only replica."])
def test_a_passing_refusal_is_tried_again(refusal: str) -> None:
    """It verifies nothing, is no sign that events are missing, and the next canary is due as usual."""
    canary = told(refusal)
    assert canary.ponged() == ""
    assert not (canary.is_verified or canary.is_hopeless)
    assert not canary.is_due(2 * EVERY_MS - 1)
    assert canary.is_due(2 * EVERY_MS)


@pytest.mark.parametrize("refusal", ["NOPERM this user has no permissions", "ERR unknown command 'HSET'"])
def test_a_lasting_refusal_ends_the_trying(refusal: str) -> None:
    """What only the user can mend is not tried again, and nothing can be known."""
    canary = told(refusal)
    assert canary.is_hopeless
    assert not canary.is_due(100 * EVERY_MS)


def test_a_replica_from_the_start_can_tell_nothing() -> None:
    """A replica takes no writes, so canaries tell nothing there until it is promoted; then they do."""
    canary = Canary(0, "Kh")
    canary.commands(0)
    canary.taken("READONLY You can't write against a read only replica.")
    assert canary.is_hopeless
    assert canary.is_due(EVERY_MS)
    canary.commands(EVERY_MS)
    canary.taken("")
    assert not canary.is_hopeless
