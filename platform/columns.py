"""Columns that a table gained after its first tables were written: those still read, with nulls there."""

from __future__ import annotations

import pyarrow as pa

_ADDED = b"sonoloop.added"


def added_column(name: str, kind: pa.DataType) -> pa.Field:
    """A column that older tables of the same record may lack; any other missing column is an error."""
    return pa.field(name, kind, metadata={_ADDED: b"older tables lack this column"})


def is_added(field: pa.Field) -> bool:
    """Whether older tables may lack this column."""
    return _ADDED in (field.metadata or {})


def with_added_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with nulls in the added columns of ``schema`` that it lacks; the rest as it is."""
    for field in schema:
        if is_added(field) and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table
