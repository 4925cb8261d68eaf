"""What Prometheus reads of a real engine while its processes die, stand still, or fall behind alone."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.sandbox.ports import free_port
from tests.support import ROUTE, PathUnderTest, wait_for, whole_path

Samples = dict[tuple[str, ...], float]
KEYS = 100


class Scraped:
    """A running engine of two subscribers and an invoker, and its console."""

    def __init__(self, path: PathUnderTest, address: str) -> None:
        self.path, self._address = path, address
        self._written = 0

    def scrape(self) -> Samples:
        """Return each sample by its name and its labels, in their alphabetical order."""
        with urllib.request.urlopen(f"http://{self._address}/metrics", timeout=20) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name.removeprefix("ingest_engine_"), *(value for _, value in sorted(sample.labels.items()))): (
                sample.value
            )
            for family in families
            for sample in family.samples
        }

    def total(self, name: str) -> float:
        """Return a metric over all of its labels."""
        return sum(value for (found, *_), value in self.scrape().items() if found == name)

    def write(self) -> None:
        """Change so many keys that were not there before, of both subscribers."""
        for number in range(self._written, self._written + KEYS):
            self.path.client.hset(f"key:{number}", "n", 1)
        self._written += KEYS

    def is_calm(self) -> bool:
        ages = self.ages()
        return len(ages) == 2 and max(ages) < 2.5

    def ages(self) -> list[float]:
        """Return the age of each feed's watermark, the subscribers in their order."""
        found = {labels: value for labels, value in self.scrape().items() if labels[0] == "feed_watermark_age_seconds"}
        return [found[labels] for labels in sorted(found, key=lambda labels: labels[-1])]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder: Path = tmp_path_factory.mktemp("metrics")
    address = f"127.0.0.1:{free_port('the console')}"
    with whole_path(folder) as path:
        path.write_config(f'[console]\nlisten = "{address}"\n{ROUTE}', invokers=1)
        path.start()
        wait_for(lambda: "listen=" in path.log(), "the console listens")
        yield Scraped(path, address)
        assert path.stop() == 0


def test_counts_are_those_of_this_moment(engine: Scraped) -> None:
    """Counters, gaps and lags come from shared memory: they grow while the supervisor, and its status file, stand."""
    supervisor = engine.path.engine
    assert supervisor is not None

    def is_counted() -> bool:
        """Deliver something meanwhile; False where that takes so long that the status counts as left behind."""
        before = engine.total("records_delivered_total")
        os.kill(supervisor.pid, signal.SIGSTOP)
        try:
            stood = engine.path.status()
            engine.write()
            with suppress(AssertionError):
                wait_for(lambda: engine.total("records_delivered_total") - before >= KEYS, "they are counted", 6.0)
                found = engine.scrape()
                is_of_now = found["lag_seconds_count", "settled"] >= stood["totals"]["records_delivered"] + KEYS
                return is_of_now and engine.path.status() == stood
        finally:
            os.kill(supervisor.pid, signal.SIGCONT)
        return False

    wait_for(is_counted, "deliveries are counted")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_the_console_may_only_read(engine: Scraped) -> None:
    """What processes share is not writable in the console, and is in the processes whose memory it is."""
    assert shared_as("console", engine) == "r--s"
    assert shared_as("invoker 1/1", engine) == "rw-s"


def shared_as(name: str, engine: Scraped) -> str:
    """Return how a process may use the memory that all of the engine's share: all of it in one way."""
    maps = Path(f"/proc/{engine.path.child(name).pid}/maps").read_text().splitlines()
    shared = {line.split()[1] for line in maps if line.endswith("/dev/zero (deleted)")}
    (rights,) = shared
    return rights


def test_counters_outlive_the_processes_that_count(engine: Scraped) -> None:
    """Whoever succeeds a killed process goes on from its counts; gaps say why, and repairs what they found."""
    engine.write()
    delivered = engine.path.totals
    wait_for(lambda: delivered()["records_delivered"] >= KEYS and engine.is_calm(), "all is delivered")
    before = engine.scrape()
    names = ("invoker 1/1", "subscriber 1/2", "subscriber 2/2")
    for name in names:
        engine.path.child(name).kill()
    for name in names:
        wait_for(lambda name=name: engine.scrape().get(("process_restarts_total", name)) == 1, f"{name} is replaced")
    wait_for(lambda: engine.scrape()["ready",] == 1 and engine.is_calm(), "the engine is ready again")
    after = engine.scrape()
    for key, value in before.items():
        if key[0].endswith("_total") and key[0] != "process_cpu_seconds_total":
            assert after[key] >= value, key
    assert after["gaps_total", "subscriber 1/2", "not_started"] > before["gaps_total", "subscriber 1/2", "not_started"]
    engine.write()
    grown = before["records_delivered_total", "invoker 1/1"] + KEYS
    wait_for(lambda: engine.scrape()["records_delivered_total", "invoker 1/1"] >= grown, "what is delivered is added")
    wait_for(lambda: engine.total("repairs_total") >= 2, "the gaps are repaired")
    assert engine.total("repair_keys_scanned_total") >= KEYS
    assert after["nodes",] == 1


def test_a_feed_that_lags_alone_is_seen(engine: Scraped) -> None:
    """While one of a node's subscribers stands still its feed grows old, and the other's does not."""
    wait_for(engine.is_calm, "both feeds are settled")
    subscriber = engine.path.child("subscriber 2/2")
    subscriber.suspend()
    try:
        wait_for(lambda: engine.ages()[1] > 5.0, "one feed grows old")
        first, second = engine.ages()
        assert first < second
        wait_for(lambda: engine.ages()[0] < 2.5, "the other one is settled")
        (node,) = engine.path.status()["nodes"]
        assert [feed["shard"] for feed in node["feeds"]] == [0, 1]
        assert node["feeds"][0]["keys"] != node["feeds"][1]["keys"] != "all"
    finally:
        subscriber.resume()
    wait_for(engine.is_calm, "both feeds are settled again")
