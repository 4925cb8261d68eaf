"""The supervisor's ends of its children's channels: polled together, and dropped once the other end is closed."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator

from engine.lifecycle import Channel, Message


class Channels:
    """The open channels by their children's numbers; ``severed`` receives each that was found closed."""

    def __init__(self, selector: selectors.BaseSelector, severed: Callable[[int], None]) -> None:
        self._selector = selector
        self._severed = severed
        self._open: dict[int, Channel] = {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return whose channels are open."""
        return tuple(self._open)

    @property
    def ends(self) -> tuple[Channel, ...]:
        """Return the open channels, which no other process may keep."""
        return tuple(self._open.values())

    def add(self, number: int, channel: Channel) -> None:
        """Wait for what this child says."""
        self._open[number] = channel
        self._selector.register(channel, selectors.EVENT_READ)

    def hear(self, number: int) -> Iterator[Message]:
        """Yield what a child has said, if its channel is open; it may have been the last."""
        channel = self._open.get(number)
        if channel is None:
            return
        yield from channel.receive()
        if channel.closed:
            self._sever(number)

    def send(self, number: int, message: Message) -> None:
        """Send a child a message, if it can still be sent."""
        channel = self._open.get(number)
        if channel is not None and not channel.send(message):
            self._sever(number)

    def drop(self, number: int) -> None:
        """Close a child's channel, if it is open."""
        channel = self._open.pop(number, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()

    def close(self) -> None:
        """Close all of them."""
        for number in self.numbers:
            self.drop(number)

    def _sever(self, number: int) -> None:
        self.drop(number)
        self._severed(number)
