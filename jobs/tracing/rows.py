"""A few columns of the rows that matter, whatever else a room holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from sonoloop.platform.records import Record
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store


def rows_of(
    workspace: Store,
    schema: pa.Schema,
    *parts: str,
    where: ds.Expression | None = None,
    named: str = "",
) -> pa.Table:
    """The columns of a schema, of the rows of a folder that meet a condition on these columns.

    A column that a file lacks is null in its rows.

    Args:
        workspace: Where the folder is.
        schema: The columns.
        parts: The folder.
        where: The condition; all rows without one.
        named: Only files whose name ends so.

    Raises:
        StorageError: the store refuses, or a file is no table.
    """
    paths = [path for path in workspace.table_paths(*parts) if path.endswith(named)]
    if not paths:
        return schema.empty_table()
    with storage_errors(workspace.uri):
        dataset = ds.dataset(paths, schema=schema, filesystem=workspace.fs, format="parquet")
        return dataset.to_table(filter=where)


def some_columns(record: type[Record], names: Iterable[str]) -> pa.Schema:
    """Columns of a record."""
    return pa.schema([record.ARROW.field(name) for name in names])


def newest_of(table: pa.Table, keys: list[str], time: str) -> pa.Table:
    """The newest row of each key."""
    order = [(name, "ascending") for name in (*keys, time)]
    table = table.sort_by(order).append_column("place", pa.array(range(table.num_rows), pa.int64()))
    last = table.group_by(keys).aggregate([("place", "max")])["place_max"]
    return table.take(last.combine_chunks().sort()).drop_columns(["place"])


def counted(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, the most frequent first; nulls are left out."""
    pairs = pc.value_counts(column.drop_null()).to_pylist()
    return dict(Counter({str(pair["values"]): pair["counts"] for pair in pairs}).most_common())
