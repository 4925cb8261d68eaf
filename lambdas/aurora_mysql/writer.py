"""Changes → rows in their tables, each written, or failed with a reason."""

from __future__ import annotations

from collections.abc import Sequence

from lambdas.aurora_mysql import statements
from lambdas.aurora_mysql.calls import Caller
from lambdas.aurora_mysql.errors import READ_ONLY, WRITER_WANTED, GivenUp, ServerError
from lambdas.aurora_mysql.layout import Layout
from lambdas.aurora_mysql.mapping import TableMapping
from lambdas.aurora_mysql.rows import Change, RecordRefused, row_of, unknown_fields
from lambdas.aurora_mysql.schema import Schema
from lambdas.aurora_mysql.settings import Settings
from lambdas.aurora_mysql.statements import Form, Row
from lambdas.contract import SetupError
from lambdas.repeats import TimeLeft

Identity = bytes | int


class Writer:
    """Writes to one table after the other. Every write is safe to repeat, and takes no effect on a newer row."""

    def __init__(self, caller: Caller, settings: Settings) -> None:
        self._caller = caller
        self._settings = settings
        self._schema = Schema(caller)

    def write(self, mapping: TableMapping, changes: Sequence[Change], time_left: TimeLeft) -> dict[Identity, str]:
        """Write the changes of one table, each of another row; return identity → reason of those that were not.

        Raises `SetupError` if no change of this table can be written.
        """
        try:
            return self._write(mapping, changes, time_left)
        except GivenUp as gone:
            return {change.identity: gone.reason for change in changes}
        except SetupError:
            self._schema.forget(mapping)
            raise
        except ServerError as error:
            # Rows are found and fail alone: what is left is a change of the table itself.
            raise SetupError(f"the table {mapping.table} could not be made to fit: {error.message}") from None

    def check(self, time_left: TimeLeft) -> None:
        """See whether all tables are there and may be written; raise `SetupError` with all that is wrong.

        Changes nothing. Raises `GivenUp` where the server does not answer.
        """
        problems = []
        for mapping in self._settings.mappings:
            try:
                layout = self._schema.read(mapping, time_left)
                if not layout.missing:
                    self._probe(layout, time_left)
            except SetupError as error:
                problems.append(str(error))
            except ServerError as error:
                problems.append(f"the table {mapping.table}: {error.message}")
            except GivenUp as gone:
                if gone.number in READ_ONLY:
                    # So it is for some seconds of every failover too, and that passes.
                    raise GivenUp(f"{WRITER_WANTED} ({gone.reason})", gone.number) from None
                raise
        if problems:
            raise SetupError("; ".join(dict.fromkeys(problems)))

    def _probe(self, layout: Layout, time_left: TimeLeft) -> None:
        self._caller.run(layout.upsert.probe, time_left)
        if not layout.mapping.leaves_tombstones:
            self._caller.run(layout.delete.probe, time_left)

    def _write(self, mapping: TableMapping, changes: Sequence[Change], time_left: TimeLeft) -> dict[Identity, str]:
        layout = self._schema.layout(mapping, time_left)
        if mapping.adds_fields:
            wanted = dict.fromkeys(field for change in changes for field in unknown_fields(change, layout))
            layout = self._schema.with_fields(layout, wanted, time_left)
        failed: dict[Identity, str] = {}
        upserts: list[Row] = []
        deletes: list[Row] = []
        now_ms = time_left.now_ms()
        for change in changes:
            is_delete = change.record.body is None and not mapping.leaves_tombstones
            try:
                (deletes if is_delete else upserts).append(row_of(change, layout, now_ms))
            except RecordRefused as error:
                failed[change.identity] = str(error)
        failed |= self._write_rows(layout.upsert, upserts, time_left)
        failed |= self._write_rows(layout.delete, deletes, time_left)
        return failed

    def _write_rows(self, form: Form, rows: Sequence[Row], time_left: TimeLeft) -> dict[Identity, str]:
        """Write rows in as few statements as the bounds allow; find by halves what the server refuses."""
        if not rows:
            return {}
        failed: dict[Identity, str] = {}
        rows_max, bytes_max = self._settings.statement_rows_max, self._settings.statement_bytes_max
        pending: list[list[Row]] = []
        try:
            packet_bytes_max = self._caller.packet_bytes_max(time_left)
            room = packet_bytes_max - form.bytes_around - statements.PACKET_BYTES_AROUND
            fitting = [row for row in rows if row.size <= room]
            too_large = f"its row is larger than the server's max_allowed_packet, {packet_bytes_max} bytes"
            failed.update((row.identity, too_large) for row in rows if row.size > room)
            pending = list(statements.chunks(fitting, len(form.joint), rows_max, min(bytes_max, room)))[::-1]
            while pending:
                self._send(form, pending, failed, time_left)
        except GivenUp as gone:
            left = [row for chunk in pending for row in chunk] if pending else rows
            failed.update((row.identity, gone.reason) for row in left)
        return failed

    def _send(self, form: Form, pending: list[list[Row]], failed: dict[Identity, str], time_left: TimeLeft) -> None:
        """Send the last of the statements; take it off, or put its halves in its place where the server refuses it."""
        chunk = pending[-1]
        try:
            self._caller.run(form.statement(chunk), time_left)
        except ServerError as error:
            pending.pop()
            if len(chunk) == 1:
                failed[chunk[0].identity] = error.message
                return
            half = len(chunk) // 2
            pending += [chunk[half:], chunk[:half]]
        else:
            pending.pop()
