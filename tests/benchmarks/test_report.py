"""The pages: all of it is in them, they need nothing else, and results that are none are refused."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from benchmarks.judged.results import Results, ResultsError, read, write
from benchmarks.report.__main__ import main
from benchmarks.report.charts import COLOURS, DASHES, MARKERS, all_of
from benchmarks.report.pages import write_pages
from benchmarks.stand.harness import figure, no_figure
from tests.benchmarks.samples import results


class Page(HTMLParser):
    """The tags of a page that are open or void, and what it loads."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use", "rect", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    """The page is whole HTML, loads nothing over the network, runs no script, and escapes what it is told."""
    page, _ = write_pages(results(), tmp_path)
    text = page.read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert all(link.startswith("#") for link in parsed.loads)
    assert "<script" not in text
    assert "@import" not in text
    assert "keys &amp; &lt;tags&gt;" in text
    assert 'name="viewport"' in text
    assert text.count("<svg") == 7


def test_both_forms_tell_the_same(tmp_path: Path) -> None:
    """Each figure, its goal and whether it is met, the machine, the seed and how to repeat it are in both forms."""
    for path in write_pages(results(), tmp_path):
        text = path.read_text()
        for part in (
            "engine_cpu_us",
            "5.10 µs",
            "≤ 6",
            "yes",
            "cores",
            "seed",
            "make bench",
            "1,000,000",
            "--shards",
            "an invocation",
        ):
            assert part in text, (path.name, part)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """Without series the pages say so, chart by chart, and draw nothing."""
    for path in write_pages(results(with_series=False), tmp_path):
        assert path.read_text().count("Not measured.") == 7
        assert "<svg" not in path.read_text()


def test_a_machine_that_swings_is_told(tmp_path: Path) -> None:
    """Where the yardstick went up and down the pages say by how much; where none was taken they say nothing."""
    swung = results([figure("yardstick_us", "µs", "", [0.6, 1.2, 0.9])])
    for path in write_pages(swung, tmp_path):
        assert "by a factor of 2.0: what differs by less" in path.read_text().replace("&#39;", "'")
    for path in write_pages(results(), tmp_path):
        assert "yardstick" not in path.read_text()


def test_charts_are_told_apart_without_colour() -> None:
    """Every line has a marker and a dash of its own, and every chart its numbers as a table, and a title to read."""
    assert len(set(COLOURS)) == len(set(MARKERS)) == len(set(map(str, DASHES)))
    for chart in all_of(results().series, results().calibration):
        assert chart.rows
        assert all(len(row) == len(chart.columns) for row in chart.rows)
        assert re.search(r"<svg[^>]*><title>\w", chart.svg)
        assert 'height="' not in chart.svg[: chart.svg.index(">")]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Nothing is lost on the way to the file and back; an older file without series is read too."""
    path = tmp_path / "bench.json"
    write(results(), path)
    assert read(path) == results()
    old = {"figures": [], "machine": {}, "plan": {"runs": 3}, "measured_at": "then"}
    path.write_bytes(msgspec.json.encode(old))
    assert read(path) == Results([], {}, measured_at="then")


def test_a_file_that_holds_no_results_is_refused(tmp_path: Path) -> None:
    """A file that is missing, or holds something else, is an error of one sentence."""
    (tmp_path / "other.json").write_text("[1]")
    for name in ("other.json", "none.json"):
        with pytest.raises(ResultsError, match="make bench"):
            read(tmp_path / name)
        done = CliRunner().invoke(main, [str(tmp_path / name)])
        assert done.exit_code == 1
        assert done.output.startswith("Error: ")


def test_a_line_of_one_point_is_not_drawn() -> None:
    """What was measured at one rate, or with one count alone, has its number in the table, and no chart."""
    whole = results().series
    short = msgspec.structs.replace(
        whole,
        lag_over_load=whole.lag_over_load[:1],
        throughput_over_shards=whole.throughput_over_shards[:1],
        memory=whole.memory[:1],
    )
    drawn = {chart.title: chart for chart in all_of(short, None)}
    for title in ("Lag over load", "Throughput over shards", "Memory while the load grows"):
        assert drawn[title].svg == "", title
        assert len(drawn[title].rows) == 1
    assert drawn["Throughput over invokers"].svg


def test_a_time_stands_in_yardsticks_too(tmp_path: Path) -> None:
    """A time beside which a yardstick was taken is told in both, and what is no figure is told with its reason."""
    told = [figure("fetch_cpu_us", "µs", "", [6.0], "", [0.5]), no_figure("half_cpu_y", "y", "<= 35", "a busy host")]
    for path in write_pages(results(told), tmp_path):
        text = path.read_text()
        assert "12.00" in text
        assert "no figure: a busy host" in text
        assert "0.00 y" not in text
