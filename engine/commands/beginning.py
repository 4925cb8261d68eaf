"""``engine init`` and ``engine completion``: for new users."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.commands.base import DEFAULT_CONFIG, examples
from engine.errors import ConfigError, EngineError, Problem
from engine.text import shown

if TYPE_CHECKING:
    from engine.settings.first import Answers

_LOCAL_URL = "redis://127.0.0.1:6379/0"
_OURS = ("ENGINE_", "REDIS_", "META_MAP_SUFFIX", "SUPPORTED_COMMANDS")
"""Variables that would override the file: it has to be right without them."""
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=examples(
        "engine init",
        "engine init --function carts --keys 'cart:*' --region eu-west-1",
        "engine init --redis-url rediss://cache.example:6379 --function 'carts:live' --region eu-west-1 --whole",
    )
)
@click.option("--redis-url", metavar="URL", help=f"The server (default: {_LOCAL_URL}). A password is not written down.")
@click.option("--function", metavar="NAME|ARN", help="The Lambda function, stream or queue that gets the changes.")
@click.option("--keys", metavar="GLOB", multiple=True, help="Which keys; may be repeated (default: every key).")
@click.option("--route", metavar="NAME", help="The route's name (default: the function's).")
@click.option("--region", metavar="NAME", help="The function's region, where neither its ARN nor AWS_REGION says it.")
@click.option("--destination", metavar="URL", help="What the function writes to, as dynamodb://TABLE, for the audit.")
@click.option("--whole", is_flag=True, help="Deliver the whole keyspace first, then what changes.")
@click.option(
    "--config", metavar="FILE", type=click.Path(), default=DEFAULT_CONFIG, show_default=True, help="The file to write."
)
def init(
    redis_url: str | None,
    function: str | None,
    keys: tuple[str, ...],
    route: str | None,
    region: str | None,
    destination: str | None,
    whole: bool,
    config: str,
) -> int:
    """Write a first settings file; never overwrites one.

    On a terminal it asks for what the options leave out. It does not contact the server or AWS: that is what 'engine
    check' is for.
    """
    from engine.settings.first import Answers, first_settings, route_name_of

    target = Path(config)
    _refuse_existing(target)
    asks = _is_terminal()
    if not function and not asks:
        raise click.UsageError("name the --function that gets the changes (on a terminal, engine init asks)")
    is_asked = asks and not function
    redis_url = redis_url or (_ask("The server", _LOCAL_URL) if is_asked else _LOCAL_URL)
    function = function or _ask("The function that gets the changes, by name or ARN", None)
    route = route or (_ask("The route's name", route_name_of(function)) if is_asked else "")
    keys = keys or (tuple(_ask("Which keys, as Redis globs", "*").split()) if is_asked else ("*",))
    if not region and asks and not _has_region(function):
        region = _ask("The function's AWS region", None)
    if is_asked and not whole:
        whole = click.confirm("Deliver the whole keyspace first?", default=False)
    answers = Answers(redis_url, function, route, keys, region or "", destination or "", whole)
    first = first_settings(answers)
    _check(first.text, target)
    _write(first.text, target)
    _say_what_is_next(answers, target, has_secret=first.has_secret)
    return 0


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _ask(question: str, default: str | None) -> str:
    return str(click.prompt(question, default=default)).strip()


def _has_region(function: str) -> bool:
    from engine.aws.function_arns import region_in

    return bool(region_in(function)) or any(os.environ.get(name) for name in _REGIONS)


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise EngineError(f"{target} exists, and stays as it is", hint="write another one with --config FILE")


def _check(text: str, target: Path) -> None:
    """Read the file as a start would, before it is written; raise `ConfigError` that names it."""
    from engine.settings.file import load

    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    with tempfile.TemporaryDirectory(prefix="engine-init-") as folder:
        draft = Path(folder, "engine.toml")
        draft.write_text(text)
        try:
            load(str(draft), environ, {})
        except ConfigError as error:
            raise ConfigError([_named(problem, str(draft), str(target)) for problem in error.problems]) from None


def _named(problem: Problem, draft: str, target: str) -> Problem:
    hint = "name it with --region, or set AWS_REGION" if problem.place == "aws.region" else problem.hint
    return Problem(problem.place.replace(draft, target), problem.message, hint)


def _write(text: str, target: Path) -> None:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _refuse_existing(target)
    except OSError as error:
        raise EngineError(f"can't write {target}: {error.strerror or error}", hint="name another --config") from None


def _say_what_is_next(answers: Answers, target: Path, *, has_secret: bool) -> None:
    named = "" if str(target) == DEFAULT_CONFIG else f" --config {target}"
    print(f"wrote {shown(str(target))}: keys {shown(' '.join(answers.keys))} go to {shown(answers.function)}")
    if has_secret:
        print("the password is not in it: set ENGINE_REDIS_PASSWORD, or redis.password_file")
    print("next:")
    print(f"  engine check{named}     # is everything there and allowed?")
    print(f"  engine start{named}     # until Ctrl-C, which delivers what was captured and ends")


@click.command(
    epilog=examples(
        'eval "$(engine completion bash)"                              # in ~/.bashrc',
        'eval "$(engine completion zsh)"                               # in ~/.zshrc, after compinit',
        "engine completion fish > ~/.config/fish/completions/engine.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the code that makes SHELL complete commands, options, files and names of routes."""
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    assert maker is not None
    root = context.find_root().command
    # click itself looks for a variable of this name whenever the command runs.
    print(maker(root, {}, "engine", "_ENGINE_COMPLETE").source())
    return 0
