"""What `engine check` says of margins: each figure with what it means, and a remedy where there is too little."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.config import DeliverySettings, RouteSettings, Settings
from engine.supervision.doctor.figures import (
    OutputLimit,
    about_clock,
    about_memory,
    about_output,
    about_replicas,
    output_limit,
)
from engine.supervision.doctor.functions import about_concurrency, about_date, about_function
from engine.supervision.doctor.host import disk, existing, files_needed, open_files
from engine.supervision.errands.findings import Finding, Verdict

DEFAULT = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
ROUTES = [RouteSettings("carts", "f", parallelization_factor=10), RouteSettings("orders", "f")]
SETTINGS = Settings(routes=tuple(ROUTES), delivery=DeliverySettings(invokers=2))


def said(found: Finding) -> tuple[str, str, str]:
    return found.verdict.value, found.problem.message, found.problem.hint


def test_the_output_limit_is_read() -> None:
    """The limit of subscribers is found among the others; a text without one has none."""
    assert output_limit(DEFAULT) == OutputLimit(33_554_432, 8_388_608, 60)
    assert output_limit("normal 0 0 0") is None
    assert output_limit("") is None


@pytest.mark.parametrize(
    ("rate", "seconds"), [(8_388_608 / 14, 33_554_432 / (8_388_608 / 14)), (100_000, 8_388_608 / 100_000 + 60)]
)
def test_how_long_a_stall_is_survived(rate: float, seconds: float) -> None:
    """Whichever of both limits is reached first ends the subscription."""
    assert OutputLimit(33_554_432, 8_388_608, 60).stall_s(rate) == pytest.approx(seconds)


def test_the_output_limit_at_the_measured_rate() -> None:
    """A rate that the limit bears for long is well, one that it does not gets a command to paste."""
    verdict, message, _ = said(about_output(output_limit(DEFAULT), 450_000.0, "server"))
    assert (verdict, message) == ("ok", "450 kB/s of notifications: a subscription survives 75 s of stall")
    verdict, message, hint = said(about_output(output_limit(DEFAULT), 20_000_000.0, "server"))
    assert verdict == "note" and "survives 2 s of stall" in message
    assert 'CONFIG SET client-output-buffer-limit "pubsub ' in hint
    assert said(about_output(OutputLimit(0, 0, 0), 1.0, "server"))[0] == "ok"
    for rate in (None, 0.0):
        assert said(about_output(output_limit(DEFAULT), rate, "server"))[0] == "ok"
    assert said(about_output(None, 5.0, "server"))[0] == "ok"


@pytest.mark.parametrize(
    ("info", "verdict", "words"),
    [
        ({"used_memory": "1048576", "maxmemory": "0"}, "ok", "no maxmemory"),
        ({"used_memory": "50", "maxmemory": "100", "maxmemory_policy": "noeviction"}, "ok", "policy noeviction"),
        (
            {"used_memory": "95", "maxmemory": "100", "maxmemory_policy": "noeviction"},
            "note",
            "writes will soon be refused",
        ),
        ({"used_memory": "95", "maxmemory": "100", "maxmemory_policy": "allkeys-lru"}, "note", "soon be evicted"),
    ],
)
def test_memory(info: dict[str, str], verdict: str, words: str) -> None:
    found = said(about_memory(info, "server"))
    assert found[0] == verdict and words in found[1]


def test_replicas() -> None:
    """A primary says how many replicas it has; a replica whose link is down hears of nothing."""
    assert said(about_replicas({"role": "master", "connected_slaves": "1"}, "s"))[1] == "a primary with 1 replica"
    down = {"role": "slave", "master_link_status": "down", "master_host": "10.0.0.1"}
    assert said(about_replicas(down, "s"))[0] == "note"
    assert said(about_replicas({**down, "master_link_status": "up"}, "s"))[0] == "ok"


@pytest.mark.parametrize(("ahead_ms", "verdict"), [(0, "ok"), (-900, "ok"), (1_500, "note"), (-60_000, "note")])
def test_clocks(ahead_ms: int, verdict: str) -> None:
    """A second is borne; more is told, and past the margin of deadlines what that means."""
    found = said(about_clock(ahead_ms, "AWS", "functions", 4_000))
    assert found[0] == verdict
    assert ("deadline_margin_ms" in found[2]) is (abs(ahead_ms) > 4_000)


def test_open_files() -> None:
    """The limit has to do for an invoker at full concurrency; the remedy is a number."""
    needed = files_needed(SETTINGS)
    assert needed >= 2 * 12
    assert said(open_files(SETTINGS, needed))[0] == "ok"
    assert said(open_files(SETTINGS, resource.RLIM_INFINITY))[0] == "ok"
    verdict, _, hint = said(open_files(SETTINGS, needed - 1))
    assert verdict == "note" and f"ulimit -n {2 * needed}" in hint


def test_room_on_disk(tmp_path: Path) -> None:
    """Backlog and dead letters of one file system are added up; too little room gets limits that fit."""
    delivery = replace(
        SETTINGS.delivery,
        backlog_folder=str(tmp_path / "not" / "yet"),
        backlog_bytes_max=1 << 30,
        dead_letter_file=str(tmp_path / "letters"),
        dead_letter_bytes_max=1 << 30,
    )
    settings = replace(SETTINGS, delivery=delivery)
    assert existing(delivery.backlog_folder) == str(tmp_path)
    (found,) = disk(settings, {str(tmp_path): 3 << 30})
    assert said(found)[0] == "ok"
    (found,) = disk(settings, {str(tmp_path): (3 << 30) - 1})
    verdict, message, hint = said(found)
    assert verdict == "note" and "may take 3.0 GiB" in message and "delivery.backlog_bytes_max" in hint


def test_a_functions_own_time_limit() -> None:
    """A function that may run for longer than the engine waits would write late."""
    (found,) = about_function("f", {"Timeout": 30}, SETTINGS, ROUTES)
    assert found.verdict is Verdict.OK and found.problem.place == "routes 'carts', 'orders'"
    (found,) = about_function("f", {"Timeout": 900}, SETTINGS, ROUTES[:1])
    assert found.verdict is Verdict.NOTE and "invoke_timeout_ms to 905_000" in found.problem.hint
    assert about_function("f", {}, SETTINGS, ROUTES) == []


def test_a_functions_concurrency() -> None:
    """What is reserved has to do for all invokers of all routes; the remedy is AWS's command."""
    assert about_concurrency("f", None, SETTINGS, ROUTES)[0].verdict is Verdict.OK
    assert about_concurrency("f", 24, SETTINGS, ROUTES)[0].verdict is Verdict.OK
    (found,) = about_concurrency("f", 23, SETTINGS, ROUTES)
    assert found.verdict is Verdict.NOTE
    assert "--function-name f --reserved-concurrent-executions 24" in found.problem.hint


def test_the_services_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer's date says how far AWS's clock is from ours; an answer without one says nothing."""
    monkeypatch.setattr("engine.supervision.doctor.functions.now_ms", lambda: 1_763_890_000_000)

    def answered(date: str) -> dict[str, Any]:
        return {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    (found,) = about_date(answered("Sun, 23 Nov 2025 09:26:40 GMT"), SETTINGS)
    assert said(found) == ("ok", "the clock of AWS is 500 ms ahead of this host's", "")
    (found,) = about_date(answered("Sun, 23 Nov 2025 09:27:40 GMT"), SETTINGS)
    assert found.verdict is Verdict.NOTE
    assert about_date({}, SETTINGS) == about_date(answered("yesterday"), SETTINGS) == []
