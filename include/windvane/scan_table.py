"""Reads the rows of a window from one version of a Delta table, batch after batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from windvane.column_types import TIME
from windvane.errors import DataError
from windvane.explain_storage import unreadable
from windvane.windows import Window


def quoted(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Scan:
    """The rows of a window in one version of a table.

    Attributes:
        schema: Columns of the table.
        version: Version that is read, whatever is committed meanwhile.
        changed: Version that changed rows of the window last: of two versions with the same one, the rows are the same.
        rows: How many rows there are.
    """

    table: DeltaTable
    time: str
    window: Window
    schema: pa.Schema
    version: int
    changed: int
    rows: int

    def batches(self, columns: Sequence[str], *, texts: Sequence[str] = (), rows_at_once: int) -> Iterator[pa.RecordBatch]:
        """Read the rows in the order of the files, a part of a file at a time.

        Args:
            columns: Columns to read.
            texts: Those of them to read as dictionaries of texts.
            rows_at_once: Rows of a batch; the last of a file has fewer.

        Yields:
            Batches of the columns in this order.
        """
        wanted = [_as_dictionary(name) if name in texts else quoted(name) for name in columns]
        yield from select(self.table, ", ".join(wanted), lies_in(self.time, self.window), rows_at_once=rows_at_once)


def lies_in(time: str, window: Window) -> str:
    """The rows of a window as a condition in SQL.

    Args:
        time: The column that places a row in the window.
    """
    start, end = (
        f"arrow_cast('{moment.isoformat()}', 'Timestamp(Microsecond, Some(\"{TIME.tz}\"))')" for moment in (window.start, window.end)
    )
    return f"({quoted(time)} >= {start} AND {quoted(time)} < {end})"


def time_field(schema: pa.Schema, time: str | None, *, where: str) -> pa.Field:
    """The column that places rows in a window.

    Raises:
        DataError: If there is none of this name.
    """
    if time is None or time not in schema.names:
        raise DataError(f"{where}: there is no column {time!r} to find the window by; columns: {', '.join(schema.names)}")
    return schema.field(time)


def count_rows(table: DeltaTable, condition: str) -> int:
    """How many rows of a table fulfil a condition."""
    return sum(batch["n"][0].as_py() for batch in select(table, "count(*) AS n", condition))


def select(table: DeltaTable, wanted: str, condition: str, *, rows_at_once: int = 8192) -> Iterator[pa.RecordBatch]:
    """Run a query on some rows of a table.

    Args:
        wanted: What stands behind SELECT.
        condition: What stands behind WHERE.
    """
    # one partition: the rows keep their order, and no file is read before it is needed
    session = {"datafusion.execution.batch_size": str(rows_at_once), "datafusion.execution.target_partitions": "1"}
    query = f"SELECT {wanted} FROM rows WHERE {condition}"
    reader: Any = QueryBuilder(session).register("rows", table).execute(query)
    try:
        yield from pa.RecordBatchReader.from_stream(reader)
    except (pa.ArrowException, DeltaError, OSError) as exc:
        raise unreadable(table.table_uri, exc) from None


def _as_dictionary(name: str) -> str:
    return f"arrow_cast({quoted(name)}, 'Dictionary(Int32, Utf8)') AS {quoted(name)}"
