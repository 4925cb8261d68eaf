"""Equal shares of what is too long to play in one go: CI plays another one each day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import click

T = TypeVar("T")


def share_of(things: Sequence[T], index: int, shares: int) -> list[T]:
    """Return one of so many shares; each thing is in exactly one, and ``index`` counts round."""
    return [thing for number, thing in enumerate(things) if number % shares == index % shares]


def parse(share: str) -> tuple[int, int]:
    """Return index (from 0) and number of shares of ``K/N``."""
    index, _, shares = share.partition("/")
    if not (index.isdigit() and shares.isdigit() and int(shares)):
        raise click.BadParameter(f"{share!r} is not K/N, as in 2/5", param_hint="--share")
    return int(index) - 1, int(shares)


share_option = click.option(
    "--share", default="1/1", show_default=True, metavar="K/N", help="The K-th of N shares (K counts round)."
)
