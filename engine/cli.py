"""The command line: every command by its name, exit codes, and one clear line per mistake."""

from __future__ import annotations

import errno
import os
import sys

import click

from engine import __version__
from engine.commands.base import complain, examples
from engine.commands.beginning import completion, init
from engine.commands.repairing import audit, deletions, redrive
from engine.commands.routes import routes
from engine.commands.running import check, start
from engine.commands.trying import demo, sandbox
from engine.commands.watching import metrics, status, upgrade_check
from engine.errors import EngineError

COMMANDS = (
    start,
    check,
    status,
    metrics,
    audit,
    deletions,
    redrive,
    routes,
    init,
    upgrade_check,
    sandbox,
    demo,
    completion,
)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "engine demo                                  # see it work, on embedded parts",
        "engine init --function carts --keys 'cart:*'  # a first engine.toml",
        "engine check                                 # is everything there and allowed?",
        "engine start",
        "engine status",
    ),
)
@click.version_option(__version__, prog_name="engine", message="%(prog)s %(version)s")
def cli() -> None:
    """Watch a Redis or Valkey keyspace, and deliver every changed key to AWS Lambda functions.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command line, and exit."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command; return its exit code. A user's mistakes become lines on standard error."""
    if sys.stdout is None:
        # The caller has closed it.
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        result = cli.main(arguments, prog_name="engine", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EngineError as error:
        complain(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # The reader of our output has gone.
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        complain(EngineError(f"the output can't be written: {error.strerror} (free some space, or send it elsewhere)"))
        return 1
    return result if isinstance(result, int) else 0


def _drop_output() -> None:
    """Make sure that buffered output does not fail a second time at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
