"""Builds the reference pages of the site from the code, so that they cannot drift; a hook of MkDocs.

Links that leave ``docs/`` lead to the files as text, for a site has no repository around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from prometheus_client.parser import text_string_to_metric_families

from engine.cli import cli
from engine.console.prometheus import exposition
from engine.observe import metrics
from engine.ring.counters import Counter

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "config" / "engine.toml"
_SECTION = re.compile(r"^\[+([a-z_.]+)\]+$")
_SETTING = re.compile(r"^([a-z_0-9]+) = (.+)$")


def settings_page() -> str:
    """Return every setting with its default and its reason, from the documented defaults."""
    lines = ["# Settings", "", "Generated from `config/engine.toml`.", ""]
    for kind, name, value, words in _settings():
        if kind == "section":
            lines += [f"## `[{name}]`", "", words, ""]
        else:
            lines += [f"### `{name}`", "", f"Default: `{value}`", "", words, ""]
    return "\n".join(lines)


def _settings() -> Iterator[tuple[str, str, str, str]]:
    """Yield sections and settings: kind, name, default, and the comment above, in the file's order."""
    comment: list[str] = []
    for line in SETTINGS.read_text().splitlines():
        if line.startswith("#"):
            comment.append(line[1:].removeprefix(" "))
            continue
        if section := _SECTION.match(line):
            yield "section", section[1], "", _paragraphs(comment)
        elif setting := _SETTING.match(line):
            yield "setting", setting[1], setting[2], _paragraphs(comment)
        comment = []


def _paragraphs(comment: list[str]) -> str:
    """Return a comment as Markdown: what is indented keeps its lines."""
    if any(line.startswith("  ") for line in comment):
        return "```text\n" + "\n".join(comment) + "\n```"
    return " ".join(comment).replace("*", "\\*").replace("<", "&lt;").replace("__", "\\_\\_")


def commands_page() -> str:
    """Return every command with its options, from the command line itself."""
    lines = ["# Commands", "", "Generated from `engine --help`.", ""]
    for path, command in _commands(cli, ("engine",)):
        context = click.Context(command, info_name=" ".join(path), terminal_width=100, max_content_width=100)
        lines += [f"## `{' '.join(path)}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    for name, one in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(one, (*path, name))


def metrics_page() -> str:
    """Return every metric for CloudWatch."""
    rows = [(metrics.RUNNING, "gauge"), (metrics.LAG_MS, "gauge"), (metrics.DELETIONS_HELD, "gauge")]
    rows += [(name, "gauge") for name in (*metrics.LAGS, *metrics.GAUGES)]
    rows += [(name, "counter") for name in metrics.COUNTERS]
    lines = [
        "# Metrics",
        "",
        "What `engine metrics` reports to CloudWatch. Counters are reported as what was added since the last report.",
    ]
    lines += ["", "| metric | unit | kind |", "|---|---|---|"]
    lines += [f"| `{name}` | {metrics.unit_of(name)} | {kind} |" for name, kind in rows]
    return "\n".join([*lines, ""])


def prometheus_page() -> str:
    """Return every metric of ``/metrics``, as it says it itself."""
    status = {
        "version": "", "slice": "", "state": "ready", "started_at_ms": 0, "updated_at_ms": 2, "settled_until_ms": 2,
        "shards": 1, "children": [], "nodes": [], "totals": {one.name.lower(): 0 for one in Counter},
        "routes": [{"name": "", "function": "", "failing_since_ms": 0, "keys_waiting": 0, "keys_in_flight": 0,
                    "keys_backlog": 0}],
    }  # fmt: skip
    body, _ = exposition(status, (), 0, "")
    lines = [
        "# Prometheus",
        "",
        "What the console answers to `/metrics`.",
        "",
        "| metric | type | what it is |",
        "|---|---|---|",
    ]
    for family in text_string_to_metric_families(body.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join([*lines, ""])


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/metrics.md": metrics_page,
    "reference/prometheus.md": prometheus_page,
}


def on_files(files: Files, *, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that are generated, and the files outside of ``docs/`` that pages link to."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    pages = "".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))
    for target in sorted(set(re.findall(r"\]\(((?:\.\./)+[^)#]+)", pages))):
        path = ROOT / target.replace("../", "")
        if path.is_file():
            files.append(File.generated(config, _inside(target), content=path.read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn links that leave ``docs/`` into links to their copies within the site."""
    return re.sub(r"\]\(((?:\.\./)+[^)#]+)(#[^)]*)?\)", lambda found: f"]({_inside(found[1])})", markdown)


def _inside(target: str) -> str:
    """Return where a file outside of ``docs/`` lies in the site: as text, so that its own links are not followed."""
    return f"files/{target.replace('../', '')}.txt"
