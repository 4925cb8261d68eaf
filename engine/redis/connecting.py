"""Connecting beside the loop: names, handshakes and greetings may take seconds, and the loop must keep turning.

Meanwhile the loop sends heartbeats, does its other work, and obeys commands. The thread only connects: it shares
nothing, and ends when that is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Connected = TypeVar("_Connected")


class Connecting(Generic[_Connected]):
    """One attempt to connect, under way in a thread of its own, which calls ``on_end`` at its end."""

    def __init__(self, connect: Callable[[], _Connected], on_end: Callable[[], None] = lambda: None) -> None:
        self._connect = connect
        self._on_end = on_end
        self._connection: _Connected | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="connect", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._connection = self._connect()
        except Exception as error:
            self._error = error
        self._is_over = True
        self._on_end()

    def poll(self) -> _Connected | None:
        """Return the connection once it is made, None until then; raise what went wrong."""
        if not self._is_over:
            return None
        if self._error is not None:
            raise self._error
        return self._connection
