"""The command line: parse, call, print, exit. The only one who loads settings."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from engine import __version__
from engine.errors import ConfigError, EngineError
from engine.text import shown, shown_json

if TYPE_CHECKING:
    from engine.config import Settings
    from engine.settings.file import Loaded

DEFAULT_CONFIG = "engine.toml"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_config = click.option(
    "--config",
    metavar="FILE",
    help=f"Settings file (default: {DEFAULT_CONFIG} where it is there, else the environment alone).",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="engine", message="%(prog)s %(version)s")
def cli() -> None:
    """Watch a Redis or Valkey keyspace, and deliver every changed key to AWS Lambda functions.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
    """


@cli.command()
@click.option("--shards", metavar="N|auto", help="Subscriber processes, each with its part of the keyspace.")
@click.option("--slice", "slice_", metavar="I/K", help="This host's part of the keys: number I, from 0, of K.")
@click.option("--invokers", type=int, help="Invoker processes, which read values and invoke functions.")
@click.option("--redis-url", metavar="URL", help="The server, as redis://HOST:PORT/DB or rediss://…")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@_config
def start(
    shards: str | None,
    slice_: str | None,
    invokers: int | None,
    redis_url: str | None,
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
        "log.level": log_level,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    settings, connection = _load(config, given)

    from engine.settings.original import routes_of
    from engine.supervision.errands.asking import ask_nodes
    from engine.supervision.errands.plan import compare_destinations, make_plan
    from engine.supervision.mains import REAL
    from engine.supervision.supervisor import run

    return run(
        settings,
        plan=partial(make_plan, routes_of=routes_of),
        load=lambda: _load(config, given).settings,
        mains=REAL,
        compare=compare_destinations,
        ask=ask_nodes,
        connection=connection,
        file=_file_of(config),
    )


@cli.command()
@click.option("--shards", metavar="N|auto", help="As many as the start will have: their patterns are tried.")
@click.option("--slice", "slice_", metavar="I/K", help="The slice that the start will have.")
@click.option("--redis-url", metavar="URL", help="The server that the start will have.")
@_config
@_json
def check(shards: str | None, slice_: str | None, redis_url: str | None, config: str | None, as_json: bool) -> int:
    """See whether everything that the engine needs is there and allowed; changes nothing.

    Exits with 0 where a start would work, 1 where something is missing, 2 where the settings are wrong.
    """
    from engine.settings.original import routes_of
    from engine.supervision.errands.plan import Examination, examine

    flags = {"capture.shards": shards, "capture.slice": slice_, "redis.url": redis_url}
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        settings, connection = _load(config, given)
        found = examine(settings, routes_of, changes_nothing=True)
        found.put_first(connection)
    except ConfigError as error:
        found = Examination()
        found.add_error("settings", error)
    findings = [(one.verdict.value, one.problem.place, one.problem.message, one.problem.hint) for one in found.findings]
    if as_json:
        names = ("verdict", "place", "message", "hint")
        _print_json(
            {
                "exit_code": found.exit_code,
                "findings": [dict(zip(names, one, strict=True)) for one in findings],
            }
        )
    else:
        from engine.observe.console import findings_view

        _print_rich(findings_view(findings))
    return found.exit_code


@cli.command()
@_config
@_json
def status(config: str | None, as_json: bool) -> int:
    """Show what the engine that runs here says of itself."""
    from engine.clock import now_ms
    from engine.observe.status import read_status

    content = read_status(_load_state(config).supervision.status_file, now_ms())
    if as_json:
        _print_json(content)
    else:
        from engine.observe.console import status_view

        _print_rich(status_view(content))
    return 0


@cli.command()
@click.option("--namespace", default="IngestEngine", show_default=True, help="CloudWatch's namespace.")
@click.option("--name", default="ingest-engine", show_default=True, help="What the engine is called: its dimension.")
@click.option("--every-s", type=click.IntRange(1, 3_600), help="Go on until stopped (default: one reading).")
@click.option("--put", is_flag=True, help="Send them by PutMetricData, rather than print embedded metric format.")
@_config
def metrics(namespace: str, name: str, every_s: int | None, put: bool, config: str | None) -> int:
    """Tell CloudWatch of the engine that runs here: its lag, gaps, dead letters, failures and what waits.

    Prints lines that CloudWatch Logs makes metrics of. One reading has counters since the engine's start; with
    --every-s they are of the time since the reading before, and that no engine runs is told too (Running = 0).
    """
    settings = _load_state(config)

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
        reporter.report_every(every_s, read, sink, _complain)
    return 0


@cli.command()
@click.option("--route", metavar="NAME", help="This route alone (default: all that name a destination).")
@click.option("--repair", is_flag=True, help="Have the running engine deliver again what differs.")
@click.option(
    "--accept-deletions", is_flag=True, help="With --repair: delete also what is gone past the limit, or is held."
)
@click.option("--keys-per-s", type=click.IntRange(1, 10_000_000), default=5_000, show_default=True, help="At most.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Reads at once.")
@_config
@_json
def audit(
    route: str | None,
    repair: bool,
    accept_deletions: bool,
    keys_per_s: int,
    workers: int,
    config: str | None,
    as_json: bool,
) -> int:
    """Compare Redis with what the functions write to, key by key, while both change.

    A key counts as different only if it stays so over several looks. Exits with 0 where all is equal, 1 where it is
    not (also where --repair has had it delivered: run it again), 2 where no route names a destination.
    """
    settings = _load(config, {}).settings
    _log_warnings(settings, "audit")

    from engine.audit.options import AuditOptions
    from engine.audit.progress import shown_progress
    from engine.audit.run import no_engine, run_audit

    with shown_progress() as progress:
        options = AuditOptions(
            keys_per_s_max=keys_per_s,
            workers=workers,
            repair=repair or accept_deletions,
            accept_deletions=accept_deletions,
            trouble_s_max=300.0,
            deletions_found_share_max=settings.capture.deletions_found_share_max,
        )
        report = run_audit(settings, route, options, progress)
    if as_json:
        _print_json(report.as_json())
    else:
        from engine.observe.console import audit_view

        _print_rich(audit_view(report.as_json()))
    if report.unheard:
        _complain(no_engine(report.unheard))
    return report.exit_code


@cli.command()
@click.argument("choice", type=click.Choice(["accept", "refuse"]), required=False)
@click.argument("route", required=False)
@_config
@_json
def deletions(choice: Literal["accept", "refuse"] | None, route: str | None, config: str | None, as_json: bool) -> int:
    """Show which deletions are held, or decide on those of one ROUTE, once.

    Keys that a comparison found gone, past capture.deletions_found_share_max or because the server came back empty, are
    not deleted from the destination. "accept" has the engine delete them, "refuse" keeps them there for good. An
    engine that runs does so at once, one that does not at its next start.
    """
    from engine.audit.held_file import HeldFile
    from engine.supervision.report import describe_held

    if choice and not route:
        raise click.UsageError("name the ROUTE")
    file = HeldFile.of(_load_state(config))
    if choice and route:
        file.choose(route, choice)
    held = describe_held(file.load())
    if as_json:
        _print_json(held)
    else:
        from engine.observe.console import deletions_view

        _print_rich(deletions_view(held["deletions"]))
    return 0


@cli.command()
@click.option("--route", metavar="NAME", help="The letters of this route alone.")
@click.option("--from", "source", metavar="WHERE", help="A file, or the ARN of a queue or bucket (default: all).")
@click.option("--max", "count_max", type=click.IntRange(min=1), help="So many letters at most.")
@_config
@_json
def redrive(route: str | None, source: str | None, count_max: int | None, config: str | None, as_json: bool) -> int:
    """Have the running engine deliver the keys of dead letters again, as they are now.

    A letter is removed once the engine has heard of its key. Exits with 0 where all were sent, or none was there, 1
    where some were kept.
    """
    settings = _load(config, {}).settings
    _log_warnings(settings, "redrive")

    from engine.redrive.run import redrive as run
    from engine.redrive.view import observer, problems_of, summary_view

    with observer() as progress:
        summary = run(settings, route=route, source=source, count_max=count_max, observer=progress)
    if as_json:
        _print_json(summary)
    else:
        _print_rich(summary_view(summary))
    for problem in problems_of(summary):
        _complain(EngineError(problem))
    return summary.exit_code


@cli.command()
@click.option("--redis-port", type=click.IntRange(0, 65_535), default=6379, show_default=True)
@click.option("--dynamodb-port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@click.option("--lambda-port", type=click.IntRange(0, 65_535), default=9001, show_default=True)
@click.option("--table", help="The DynamoDB table that is made.")
@_json
def sandbox(redis_port: int, dynamodb_port: int, lambda_port: int, table: str | None, as_json: bool) -> int:
    """Run the embedded stack (Valkey, DynamoDB, a Lambda runtime) until stopped. A port of 0: a free one."""
    from engine.sandbox.run import run_sandbox

    named = {"table": table} if table else {}
    return run_sandbox(
        redis_port=redis_port,
        dynamodb_port=dynamodb_port,
        lambda_port=lambda_port,
        json_output=as_json,
        **named,
    )


@cli.command()
def demo() -> int:
    """See hashes set in Valkey appear in a DynamoDB table, and every key compared. About a minute."""
    from engine.sandbox.demo import run_demo

    return run_demo()


def main() -> None:
    """Run the command line, and exit."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command; return its exit code. A user's mistake becomes lines on standard error."""
    if sys.stdout is None:
        # Whoever called has closed it.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        result = cli.main(arguments, prog_name="engine", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EngineError as error:
        _complain(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # Who read our output has gone.
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        _complain(EngineError(f"the output can't be written: {error.strerror} (free some, or send it elsewhere)"))
        return 1
    return result if isinstance(result, int) else 0


def _drop_output() -> None:
    """See to it that what is buffered does not fail a second time at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(config: str | None, flags: Mapping[str, object]) -> Loaded:
    from engine.settings.file import load

    return load(_file_of(config), os.environ, flags)


def _load_state(config: str | None) -> Settings:
    """Return what those need who look at an engine: where its state is."""
    from engine.settings.file import load_state_settings

    return load_state_settings(_file_of(config), os.environ)


def _log_warnings(settings: Settings, command: str) -> None:
    """Have a command's warnings go to standard error, as those of the engine do."""
    from msgspec.structs import replace

    from engine.observe import logs

    level = "error" if settings.log.level == "error" else "warning"
    logs.configure(replace(settings.log, level=level), command)


def _file_of(config: str | None) -> str | None:
    return DEFAULT_CONFIG if config is None and Path(DEFAULT_CONFIG).is_file() else config


def _complain(error: EngineError) -> None:
    """Print an error: a line for each problem, with its remedy."""
    for problem in getattr(error, "problems", None) or (error,):
        print(f"engine: error: {shown(str(problem))}", file=sys.stderr)


def _print_json(content: Any) -> None:
    import msgspec

    print(shown_json(msgspec.json.format(msgspec.json.encode(content), indent=2).decode()))


def _print_rich(view: Any) -> None:
    from rich.console import Console

    Console(highlight=False).print(view)
