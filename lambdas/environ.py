"""Environment variables → settings; each error names the variable and the remedy."""

from __future__ import annotations

from collections.abc import Mapping

from lambdas.contract import SetupError


def required(environ: Mapping[str, str], name: str, what: str) -> str:
    """Return a variable's text; raise `SetupError` if it is empty or missing."""
    text = environ.get(name, "")
    if not text:
        raise SetupError(f"{name} is not set: name {what}")
    return text


def one_of(environ: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """Return a variable's text, the first of those that are allowed where it is missing; raise `SetupError`."""
    text = environ.get(name, allowed[0])
    if text not in allowed:
        raise SetupError(f"{name} is {text!r}: allowed are {', '.join(allowed)}")
    return text


def number(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a variable's whole number from ``low`` to ``high``; raise `SetupError`."""
    text = environ.get(name, str(default))
    if not text.isdecimal() or not low <= int(text) <= high:
        raise SetupError(f"{name} is {text!r}: a whole number from {low} to {high} is allowed")
    return int(text)


def check_order(low_name: str, low: int, high_name: str, high: int) -> None:
    """Raise `SetupError` if the lower bound is above the upper one."""
    if low > high:
        raise SetupError(f"{low_name} is larger than {high_name}")
