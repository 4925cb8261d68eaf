"""What a source of dead letters is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import EngineError

CHUNK_ITEMS_MAX = 500
CHUNK_BYTES_MAX = 8 * 1024 * 1024
"""The most that is published at once, except for a single letter that is larger."""


class SourceError(EngineError):
    """A place of dead letters can't be read or changed; its letters are still there."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a place holds for one letter; ``weight`` is its part of `Source.total`,
    ``token`` what its source knows it by."""

    token: Any
    content: bytes
    weight: int = 1


class Source(Protocol):
    """Dead letters in one place. Whatever is not removed stays there, or is put back, whatever happens."""

    name: str

    def open(self) -> None:
        """Claim what is there; raises `SourceError`."""
        ...

    def total(self) -> int | None:
        """Return the approximate weight of all items; None if it is unknown."""
        ...

    def chunks(self) -> Iterator[list[Item]]:
        """Yield what existed at the beginning, in chunks; raises `SourceError`."""
        ...

    def remove(self, items: Sequence[Item]) -> None:
        """Remove items of the chunk that was yielded last, in its order; raises `SourceError`."""
        ...

    def close(self) -> str:
        """Put back what was claimed and not removed; return "", or what went wrong with it."""
        ...


def in_chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Cut items into chunks within the limits."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += len(item.content)
        if len(chunk) == CHUNK_ITEMS_MAX or size >= CHUNK_BYTES_MAX:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
