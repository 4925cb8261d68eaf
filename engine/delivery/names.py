"""Names of keys that are about to be delivered, where scans find out by names what was deleted.

A pass marks a key that it does not find as gone, and its name is forgotten once that mark is settled. But the key may
be written again before the mark is read: then its value is delivered. Its name has to stay, or nothing would notice
that it is deleted again before the next pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.delivery.lanes.work import Entry
from engine.delivery.reading.questions import Fetched
from engine.digests.names import Names, NamesBroken, path_of
from engine.observe.logs import get_logger

log = get_logger(__name__)


class NamesOfDelivered:
    """One invoker's; ``folder`` is that of the names."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names: Names | None = None

    def keep(self, entries: Sequence[Entry], values: Sequence[Fetched]) -> bool:
        """Keep the names of keys that hold something, before it is sent; return False if the disk refuses.

        ``values`` are those of the first entries, in their order.
        """
        keys = [key for (key, _), value in zip(entries, values, strict=False) if value.body is not None]
        if not keys:
            return True
        try:
            if self._names is None:
                self._names = Names(path_of(self._folder), None)
            self._names.keep(keys)
        except NamesBroken as error:
            log.error("names_not_kept", problem=error.message, hint="nothing is delivered before they can be kept")
            return False
        return True
