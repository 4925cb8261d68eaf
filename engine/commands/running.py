"""``engine start`` and ``engine check``."""

from __future__ import annotations

from functools import partial

import click

from engine.commands.base import config_option, examples, file_of, json_option, load, print_json, print_rich
from engine.errors import ConfigError


@click.command(
    epilog=examples(
        "engine start",
        "engine start --config carts.toml --shards 4",
        "ENGINE_REDIS_PASSWORD=… engine start --redis-url rediss://cache.example:6379/0",
    )
)
@click.option("--shards", metavar="N|auto", help="Subscriber processes, each with its part of the keyspace.")
@click.option("--slice", "slice_", metavar="I/K", help="This host's part of the keys: number I, from 0, of K.")
@click.option("--invokers", type=int, help="Invoker processes, which read values and invoke functions.")
@click.option("--redis-url", metavar="URL", help="The server, as redis://HOST:PORT/DB or rediss://…")
@click.option("--console", metavar="ADDRESS", help="Where a page and metrics are served, as 127.0.0.1:9750.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@config_option
def start(
    shards: str | None,
    slice_: str | None,
    invokers: int | None,
    redis_url: str | None,
    console: str | None,
    log_level: str | None,
    config: str | None,
) -> int:
    """Run the engine until it is stopped.

    SIGTERM (or Ctrl-C) delivers what was captured and ends; a second one ends at once. SIGHUP reads the
    routes again.
    """
    flags = {
        "capture.shards": shards,
        "capture.slice": slice_,
        "delivery.invokers": invokers,
        "redis.url": redis_url,
        "console.listen": console,
        "log.level": log_level,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    settings, connection = load(config, given)

    from engine.settings.original import routes_of
    from engine.supervision.errands.asking import ask_nodes
    from engine.supervision.errands.plan import compare_destinations, make_plan
    from engine.supervision.mains import REAL
    from engine.supervision.supervisor import run

    return run(
        settings,
        plan=partial(make_plan, routes_of=routes_of),
        load=lambda: load(config, given).settings,
        mains=REAL,
        compare=compare_destinations,
        ask=ask_nodes,
        connection=connection,
        file=file_of(config),
    )


@click.command(
    epilog=examples(
        "engine check",
        "engine check --config carts.toml --shards 4",
        """engine check --json | jq '.findings[] | select(.verdict != "ok")'""",
    )
)
@click.option("--shards", metavar="N|auto", help="As many as the start will have: their patterns are tried.")
@click.option("--slice", "slice_", metavar="I/K", help="The slice that the start will have.")
@click.option("--redis-url", metavar="URL", help="The server that the start will have.")
@config_option
@json_option
def check(shards: str | None, slice_: str | None, redis_url: str | None, config: str | None, as_json: bool) -> int:
    """Check whether everything that the engine needs is there and allowed; changes nothing.

    It also looks at margins: how long a stall the server's output buffers survive at the rate that it measures for a
    second, memory, replicas, clocks, open files, disk space, the functions' time limits and concurrency.

    Exits with 0 if a start would work, 1 if something is missing, 2 if the settings are wrong.
    """
    from engine.settings.original import routes_of
    from engine.supervision.doctor.examination import diagnose
    from engine.supervision.errands.plan import Examination, examine

    flags = {"capture.shards": shards, "capture.slice": slice_, "redis.url": redis_url}
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        settings, connection = load(config, given)
        found = examine(settings, routes_of, changes_nothing=True)
        found.put_first(connection)
        found.findings += diagnose(found)
    except ConfigError as error:
        found = Examination()
        found.add_error("settings", error)
    findings = [(one.verdict.value, one.problem.place, one.problem.message, one.problem.hint) for one in found.findings]
    if as_json:
        names = ("verdict", "place", "message", "hint")
        print_json(
            {
                "exit_code": found.exit_code,
                "findings": [dict(zip(names, one, strict=True)) for one in findings],
            }
        )
    else:
        from engine.observe.console import findings_view

        print_rich(findings_view(findings))
    return found.exit_code
