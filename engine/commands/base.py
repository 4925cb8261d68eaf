"""What commands share: options, settings, output, and the lines of an error. Alone in loading settings.

Nothing heavy is imported before a command runs, so that help and completion come at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.errors import EngineError
from engine.text import shown, shown_json

if TYPE_CHECKING:
    from engine.config import Settings
    from engine.settings.file import Loaded

DEFAULT_CONFIG = "engine.toml"
WIDTH_OF_A_PIPE = 100_000
"""Columns if their number is unknown: whatever reads a pipe needs each row on one line."""

_Command = TypeVar("_Command", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(),
    help=f"Settings file (default: {DEFAULT_CONFIG} if it exists, otherwise the environment alone).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def examples(*lines: str) -> str:
    """Return the end of a help text: commands to copy, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def load(config: str | None, flags: Mapping[str, object]) -> Loaded:
    """Return the settings in force; raises `engine.errors.ConfigError`."""
    from engine.settings.file import load as load_file

    return load_file(file_of(config), os.environ, flags)


def load_state(config: str | None) -> Settings:
    """Return where the state of an engine is, which is all that a command needs to look at it."""
    from engine.settings.file import load_state_settings

    return load_state_settings(file_of(config), os.environ)


def file_of(config: str | None) -> str | None:
    """Return the settings file that is read, None if there is none."""
    return DEFAULT_CONFIG if config is None and Path(DEFAULT_CONFIG).is_file() else config


def log_warnings(settings: Settings, command: str) -> None:
    """Send a command's warnings to standard error, like those of the engine."""
    from msgspec.structs import replace

    from engine.observe import logs

    level = "error" if settings.log.level == "error" else "warning"
    logs.configure(replace(settings.log, level=level), command)


def complain(error: EngineError) -> None:
    """Print an error: a line for each problem, with its remedy."""
    for problem in getattr(error, "problems", None) or (error,):
        print(f"engine: error: {shown(str(problem))}", file=sys.stderr)


def print_json(content: Any) -> None:
    """Print plain data for scripts."""
    import msgspec

    print(shown_json(msgspec.json.format(msgspec.json.encode(content), indent=2).decode()))


def console() -> Any:
    """Return standard output as rich sees it; a pipe has no width, so nothing is wrapped there."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(highlight=False, width=None if is_terminal else WIDTH_OF_A_PIPE, soft_wrap=not is_terminal)


def print_rich(view: Any) -> None:
    """Print a view for people; a pipe gets no blanks at the ends of its lines."""
    target = console()
    if target.is_terminal:
        target.print(view)
        return
    with target.capture() as captured:
        target.print(view)
    print("\n".join(line.rstrip() for line in captured.get().split("\n")), end="")


def route_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the routes in the settings file that begin with this, for a shell that completes a word."""
    import tomllib

    try:
        document = tomllib.loads(Path(context.params.get("config") or DEFAULT_CONFIG).read_text())
        names = [str(route["name"]) for route in document["routes"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [name for name in names if name.startswith(incomplete)]
