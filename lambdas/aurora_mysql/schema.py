"""The tables as the server has them: read once a container, and given the columns that they lack."""

from __future__ import annotations

import json
from collections.abc import Iterable

from lambdas.aurora_mysql import statements
from lambdas.aurora_mysql.calls import Caller
from lambdas.aurora_mysql.errors import DUPLICATE_COLUMN, ServerError
from lambdas.aurora_mysql.layout import Layout, bind, facts_of
from lambdas.aurora_mysql.mapping import TableMapping, sql_types
from lambdas.repeats import TimeLeft


class Schema:
    """Layouts by table. Raises `SetupError` where mapping and table do not fit, and what `Caller` raises."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._known: dict[str, Layout] = {}

    def layout(self, mapping: TableMapping, time_left: TimeLeft) -> Layout:
        """Return how rows are written to a mapping's table; add the columns that are missing, where they may be."""
        layout = self._known.get(mapping.table)
        # Another container may have added columns since: a row that left them alone would keep older values in them.
        if layout is None or mapping.adds_fields:
            layout = self.read(mapping, time_left)
        if layout.missing:
            types = sql_types(mapping)
            for column in layout.missing:
                self._add(statements.add_column(mapping.table, column, types[column]), mapping, column, time_left)
            layout = self.read(mapping, time_left)
        self._known[mapping.table] = layout
        return layout

    def read(self, mapping: TableMapping, time_left: TimeLeft) -> Layout:
        """Return a table's layout as it is now."""
        columns = self._caller.query(statements.columns_query(mapping.table), time_left)
        indexes = self._caller.query(statements.indexes_query(mapping.table), time_left)
        return bind(mapping, facts_of(columns, indexes))

    def with_fields(self, layout: Layout, fields: Iterable[str], time_left: TimeLeft) -> Layout:
        """Return the layout with a column for each of these fields that may have one, and that the server agrees to."""
        mapping = layout.mapping
        for field in fields:
            if field in layout.named or layout.why_not_added(field):
                continue
            statement = statements.add_column(mapping.table, field, "TEXT", is_ours=True)
            try:
                self._add(statement, mapping, field, time_left)
            except ServerError as error:
                # The table is full, say: the records that have the field fail alone.
                _log("column_not_added", mapping, field, reason=error.message)
                break
            layout = self._known[mapping.table] = self.read(mapping, time_left)
        return layout

    def forget(self, mapping: TableMapping) -> None:
        """Have the table read again: it is no longer what it was."""
        self._known.pop(mapping.table, None)

    def _add(self, statement: str, mapping: TableMapping, column: str, time_left: TimeLeft) -> None:
        try:
            self._caller.run(statement, time_left)
        except ServerError as error:
            # Somebody else was quicker.
            if error.number != DUPLICATE_COLUMN:
                raise
            return
        _log("column_added", mapping, column)


def _log(event: str, mapping: TableMapping, column: str, **more: str) -> None:
    print(json.dumps({"event": event, "table": mapping.table, "column": column, **more}), flush=True)
