"""Splits many things into calls that each take some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def calls_of(items: Iterable[T], size_of: Callable[[T], int], items_max: int, bytes_max: int) -> Iterator[list[T]]:
    """Yield what each call takes, in order, within the limits of a call; an oversized one goes alone."""
    call: list[T] = []
    size = 0
    for item in items:
        more = size_of(item)
        if call and (len(call) == items_max or size + more > bytes_max):
            yield call
            call, size = [], 0
        call.append(item)
        size += more
    if call:
        yield call
