"""Values that a route's function has already accepted are not delivered again: `skip_unchanged`, in one invoker.

A digest is noted once an invocation is *accepted*, and voided before one is *sent*. So whatever becomes of an
invocation whose answer is lost, and whichever process is killed when, a digest represents only what the destination
received last: at worst a value is delivered again.

What an audit, a redrive or a comparison has found missing there is delivered regardless: its mark voids the digest as
it arrives, and removes it from whatever is on its way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import DeliverySettings, RouteSettings
from engine.delivery.lanes.work import Batch, Entry
from engine.delivery.reading.questions import Fetched
from engine.digests.folder import path_of
from engine.digests.table import DigestTable, Place, fingerprint
from engine.observe.logs import get_logger
from engine.ring.counters import Counter, StatusRow

log = get_logger(__name__)


@dataclass(slots=True)
class Claims:
    """What the destination holds of these keys once an invocation is accepted."""

    table: DigestTable
    places: dict[bytes, Place]

    def accept(self, entries: Iterable[Entry]) -> None:
        """Note what was accepted, unless the table belongs to another route by now."""
        if self.table.is_open:
            places, note = self.places, self.table.note
            for key, _ in entries:
                place = places.get(key)
                if place is not None:
                    note(place)


class Unchanged:
    """One lane's. ``index`` of ``invokers`` is the invoker, which alone has its keys; ``scope`` is what else decides
    which keys those are.
    """

    def __init__(
        self, delivery: DeliverySettings, index: int, invokers: int, scope: tuple[object, ...], row: StatusRow
    ) -> None:
        self._delivery = delivery
        self._index, self._invokers, self._scope = index, invokers, scope
        self._row = row
        self._table: DigestTable | None = None
        self._true_of = b""
        self._has_expiry = False
        self._places: dict[bytes, Place] = {}

    @property
    def is_on(self) -> bool:
        """Tell whether the route asks for it, and there is a table."""
        return self._table is not None

    def use(self, route: RouteSettings) -> None:
        """Skip by these settings from now on; what was accepted under other ones no longer counts."""
        path = path_of(self._delivery.backlog_folder, route.name, self._index, self._invokers)
        # How it is sent does not matter; what, where, and which keys do.
        true_of = fingerprint(
            route.name, route.keys, route.events, route.function, route.payload, route.include_expiry,
            route.destination, self._index, self._invokers, self._scope,
        )  # fmt: skip
        if self._table is not None and (true_of != self._true_of or not route.skip_unchanged):
            self.retire()
        self._true_of, self._has_expiry = true_of, route.include_expiry
        if not route.skip_unchanged:
            if self._delivery.backlog_folder:
                _remove(path)
        elif self._table is None:
            self._table = self._open(path, route.name)

    def _open(self, path: Path, route: str) -> DigestTable | None:
        try:
            table = DigestTable(path, self._true_of, self._delivery.digest_bytes_max)
        except OSError as error:
            _remove(path)
            log.error(
                "digests_unusable", route=route, problem=f"{path}: {error.strerror or error}",
                hint="unchanged values are delivered until the next start or reload",
            )  # fmt: skip
            return None
        log.info("digests", route=route, file=str(path), state="new" if table.is_new else "kept")
        return table

    def retire(self) -> None:
        """Forget all, on disk too."""
        table, self._table = self._table, None
        self._places = {}
        if table is not None:
            table.drop()

    def close(self) -> None:
        """Keep all for the next start."""
        table, self._table = self._table, None
        if table is not None:
            try:
                table.close()
            except OSError as error:
                log.error("digests_not_kept", problem=f"{table.path}: {error.strerror or error}")

    def sift(self, batch: Batch, values: Sequence[Fetched]) -> tuple[list[Entry], Sequence[Fetched]]:
        """Remove entries from a batch that hold what was last accepted; return them, and the values of the others.

        ``values`` are those of the batch's entries, in their order.
        """
        table = self._table
        if table is None:
            return [], values
        place_of, holds, has_expiry = table.place_of, table.holds, self._has_expiry
        places: dict[bytes, Place] = {}
        same: list[Entry] = []
        kept: list[Entry] = []
        left: list[Fetched] = []
        for entry, value in zip(batch.entries, values, strict=True):
            if not value.error:
                key = entry[0]
                place = place_of(key, _content(value, has_expiry=has_expiry))
                if holds(place):
                    same.append(entry)
                    continue
                places[key] = place
            kept.append(entry)
            left.append(value)
        self._places = places
        if same:
            batch.entries = kept
            self._row.add(Counter.SKIPPED_UNCHANGED, len(same))
        return same, left

    def sending(self, batch: Batch) -> None:
        """Void the digests of a batch that is about to be sent, until it is accepted."""
        table = self._table
        if table is None:
            return
        places = self._places
        mine = {key: places[key] for key, _ in batch.entries}
        for tag, _ in mine.values():
            table.void(tag)
        batch.claims = Claims(table, mine)

    def distrust(self, flying: Iterable[Batch]) -> None:
        """Void everything, including what is on its way: marks may have been lost."""
        if self._table is not None:
            self._table.clear()
            for batch in flying:
                batch.claims = None

    def force(self, keys: Collection[bytes], flying: Iterable[Batch]) -> None:
        """Deliver these whatever they hold, even after what is on its way."""
        if self._table is None:
            return
        for key in keys:
            self._table.void(self._table.tag_of(key))
        for batch in flying:
            if batch.claims is not None:
                for key in keys:
                    batch.claims.places.pop(key, None)


def _content(value: Fetched, *, has_expiry: bool) -> bytes:
    """Return all that a record says about a value, except when it was read."""
    head = f"{value.type}\0{value.body_encoding}\0{value.expires_at_ms if has_expiry else 0}\0"
    return (head + value.body).encode() if value.body is not None else head.encode()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.error("digests_not_removed", problem=f"{path}: {error.strerror}", hint="remove it before the next start")
