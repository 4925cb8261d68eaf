"""What it costs to be watched, measured."""

from __future__ import annotations

from benchmarks.measured.watching import SCRAPE_S, Watching, measure_watching


def test_each_part_is_measured() -> None:
    """Every part of being watched takes something, and less than a second of a core each second."""
    found = measure_watching()
    parts = (found.count_ns_per_key, found.status_us, found.scrape_us, found.page_us)
    assert all(0 < part < 1e6 for part in parts)


def test_the_share_is_of_the_engine_s_own_cpu() -> None:
    """At 25,000 changes/s 6 µs each are 150 ms a second: 60 ns a key, or 1.5 ms a second, are one per cent of it."""
    assert Watching(60, 0, 0, 0).share(6.0, pages=0) == 0.01
    assert round(Watching(0, 1_000, SCRAPE_S * 250, 250).share(6.0, pages=1), 9) == 0.01
