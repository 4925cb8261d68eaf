"""``engine status``, ``metrics`` and ``upgrade-check``: they need an engine's state folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from engine.commands.base import (
    complain,
    config_option,
    console,
    examples,
    json_option,
    load_state,
    print_json,
    print_rich,
)
from engine.errors import EngineError


@click.command(
    epilog=examples(
        "engine status",
        "engine status --watch",
        "engine status --watch --every-s 60 >> health.log   # a line a minute",
        "engine status --json | jq .health",
    )
)
@click.option("--watch", is_flag=True, help="Show it until stopped; in a pipe, one line each time.")
@click.option("--every-s", type=click.IntRange(1, 3_600), default=1, show_default=True, help="With --watch: how often.")
@config_option
@json_option
def status(watch: bool, every_s: int, config: str | None, as_json: bool) -> int:
    """Show how the engine that runs here is doing: first one line that says whether it is well, or what is not.

    Needs only its state folder: no routes, no server, no AWS.
    """
    from engine.clock import now_ms
    from engine.observe.health import health_of
    from engine.observe.status import read_status

    path = load_state(config).supervision.status_file
    if watch:
        from engine.observe.watch import watch as watch_file

        return watch_file(path, every_s, console(), as_json=as_json)
    content, moment_ms = read_status(path, now_ms()), now_ms()
    health = health_of(content, moment_ms)
    if as_json:
        print_json({**content, "health": health.as_json()})
    else:
        from engine.observe.status_view import status_view

        print_rich(status_view(content, health, moment_ms))
    return 0


@click.command(
    "upgrade-check",
    epilog=examples(
        "engine upgrade-check                          # with the new version, before the old engine is stopped"
    ),
)
@config_option
@json_option
def upgrade_check(config: str | None, as_json: bool) -> int:
    """Check whether this version reads the state that an older or newer one left; changes nothing.

    Needs only the state folder. Exits with 0 if a start would continue from this state, 1 if a newer version wrote it.
    """
    from engine.observe.console import formats_view
    from engine.supervision.errands.formats import newer_formats, state_files

    settings = load_state(config)
    files = [{**one._asdict(), "verdict": one.verdict} for one in state_files(settings)]
    problems = newer_formats(settings)
    if as_json:
        print_json({"exit_code": int(bool(problems)), "files": files})
    else:
        print_rich(formats_view(files, settings.supervision.state_folder))
    for problem in problems:
        complain(EngineError(str(problem)))
    return int(bool(problems))


@click.command(
    epilog=examples(
        "engine metrics",
        "engine metrics --every-s 60          # lines for CloudWatch Logs, until stopped",
        "engine metrics --every-s 60 --put    # by PutMetricData",
    )
)
@click.option("--namespace", default="IngestEngine", show_default=True, help="CloudWatch's namespace.")
@click.option("--name", default="ingest-engine", show_default=True, help="The engine's name, as the dimension.")
@click.option("--every-s", type=click.IntRange(1, 3_600), help="Continue until stopped (default: one reading).")
@click.option("--put", is_flag=True, help="Send them by PutMetricData instead of printing embedded metric format.")
@config_option
def metrics(namespace: str, name: str, every_s: int | None, put: bool, config: str | None) -> int:
    """Report the engine that runs here to CloudWatch: its lag, gaps, dead letters, failures and what waits.

    Prints lines that CloudWatch Logs turns into metrics. A single reading has counters since the engine's start. With
    --every-s, they cover the time since the previous reading, and a stopped engine is reported too (Running = 0).
    """
    settings = load_state(config)

    from engine.clock import now_ms
    from engine.observe import reporter
    from engine.observe.status import read_status

    def read() -> Mapping[str, Any]:
        return read_status(settings.supervision.status_file, now_ms())

    if put:
        sink = reporter.to_cloudwatch(namespace, name, settings.aws)
    else:
        sink = reporter.to_lines(namespace, name, lambda line: print(line, flush=True))
    if every_s is None:
        reporter.report_once(read, sink)
    else:
        reporter.report_every(every_s, read, sink, complain)
    return 0
