"""``engine audit``, ``engine deletions`` and ``engine redrive``: what is compared, decided and delivered again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from engine.commands.base import (
    complain,
    config_option,
    examples,
    json_option,
    load,
    load_state,
    log_warnings,
    print_json,
    print_rich,
    route_names,
)
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.config import Settings


@click.command(epilog=examples("engine audit", "engine audit --route carts --repair", "engine audit --json"))
@click.option(
    "--route",
    metavar="NAME",
    shell_complete=route_names,
    help="Only this route (default: all that name a destination).",
)
@click.option("--repair", is_flag=True, help="Have the running engine deliver again what differs.")
@click.option(
    "--accept-deletions", is_flag=True, help="With --repair: also delete what is gone past the limit, or is held."
)
@click.option("--keys-per-s", type=click.IntRange(1, 10_000_000), default=5_000, show_default=True, help="At most.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Concurrent reads.")
@config_option
@json_option
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

    A key counts as different only if it stays so over several looks. Exits with 0 if everything is equal, 1 if not
    (even if --repair has had it delivered: run it again), 2 if no route names a destination.
    """
    settings = load(config, {}).settings
    if repair or accept_deletions:
        _hears_marks(settings, "engine audit --repair")
    log_warnings(settings, "audit")

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
        print_json(report.as_json())
    else:
        from engine.observe.console import audit_view

        print_rich(audit_view(report.as_json()))
    if report.unheard:
        complain(no_engine(report.unheard))
    return report.exit_code


def _hears_marks(settings: Settings, command: str) -> None:
    """Refuse a command that marks keys by publishing them, if the engine does not subscribe to its server."""
    remedies = {
        "scan": "each pass tries what was given up on again; to have everything delivered again, stop the engine and "
        "remove the folder digests of its backlog",
        "stream": "write the keys to the stream again, by XADD",
    }
    if remedy := remedies.get(settings.capture.source):
        raise EngineError(
            f'{command} does not reach an engine with capture.source = "{settings.capture.source}"', hint=remedy
        )


@click.command(epilog=examples("engine deletions", "engine deletions accept carts", "engine deletions refuse carts"))
@click.argument("choice", type=click.Choice(["accept", "refuse"]), required=False)
@click.argument("route", required=False, shell_complete=route_names)
@config_option
@json_option
def deletions(choice: Literal["accept", "refuse"] | None, route: str | None, config: str | None, as_json: bool) -> int:
    """Show which deletions are held, or decide on those of one ROUTE, once.

    Keys that a comparison found gone, past capture.deletions_found_share_max or because the server came back empty, are
    not deleted from the destination. "accept" has the engine delete them, "refuse" keeps them there for good. A running
    engine does so at once, a stopped one at its next start.
    """
    from engine.audit.held_file import HeldFile
    from engine.supervision.report import describe_held

    if choice and not route:
        raise click.UsageError("name the ROUTE")
    file = HeldFile.of(load_state(config))
    if choice and route:
        file.choose(route, choice)
    held = describe_held(file.load())
    if as_json:
        print_json(held)
    else:
        from engine.observe.console import deletions_view

        print_rich(deletions_view(held["deletions"]))
    return 0


@click.command(
    epilog=examples(
        "engine redrive",
        "engine redrive --route carts --max 10",
        "engine redrive --from arn:aws:sqs:eu-west-1:123456789012:failed",
    )
)
@click.option("--route", metavar="NAME", shell_complete=route_names, help="Only the letters of this route.")
@click.option("--from", "source", metavar="WHERE", help="A file, or the ARN of a queue or bucket (default: all).")
@click.option("--max", "count_max", type=click.IntRange(min=1), help="At most this many letters.")
@config_option
@json_option
def redrive(route: str | None, source: str | None, count_max: int | None, config: str | None, as_json: bool) -> int:
    """Have the running engine deliver the keys of dead letters again, as they are now.

    A letter is removed once the engine has heard of its key. Exits with 0 if all were sent, or there were none, and 1
    if some were kept.
    """
    settings = load(config, {}).settings
    _hears_marks(settings, "engine redrive")
    log_warnings(settings, "redrive")

    from engine.redrive.run import redrive as run
    from engine.redrive.view import observer, problems_of, summary_view

    with observer() as progress:
        summary = run(settings, route=route, source=source, count_max=count_max, observer=progress)
    if as_json:
        print_json(summary)
    else:
        print_rich(summary_view(summary))
    for problem in problems_of(summary):
        complain(EngineError(problem))
    return summary.exit_code
