"""The lake: Delta tables per model, written so that doing a thing twice, or twice at once, has the effect of once.

A process that has used a table must not fork and use one in the child: the threads of delta-rs do not survive it. Import
this module before a fork, but open no table.
"""

import logging
import os
import random
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from windvane.column_types import TIME, fit_columns, to_arrow, type_names
from windvane.committed_windows import CommittedWindow, changed_version, commits_of, digest_of_rows, same_rows, same_window
from windvane.errors import DataError, StorageError
from windvane.explain_storage import named_storage_errors, storage_reason, unreadable
from windvane.object_path import STORAGE_OPTIONS
from windvane.scan_table import Scan, count_rows, lies_in, quoted, time_field
from windvane.stream_batches import stream_batches
from windvane.windows import Window

_log = logging.getLogger(__name__)

_ATTEMPTS = 25
# the log is the record of what was ingested, and every version may be read again: nothing of it expires
_CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    # whoever opens a table reads the commits since the last checkpoint, each of which is a request to an object store
    "delta.checkpointInterval": "10",
}
# whoever reads a window decodes a group of rows at a time
_GROUP_ROWS = 131_072
# delta-rs lets some tens of batches wait until they are written
_WAITING_ROWS = 8192


class Lake:
    """Delta tables at `<root>/<model>/<table>`.

    Args:
        root: A directory or the URI of an object store.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def uri(self, model: str, table: str) -> str:
        """Where a table is."""
        return f"{self.root}/{model}/{table}"

    def exists(self, model: str, table: str) -> bool:
        """Whether the table was ever written."""
        return self.open_table(model, table) is not None

    def version(self, model: str, table: str) -> int | None:
        """The newest version of the table; None when there is no table."""
        found = self.open_table(model, table)
        return None if found is None else int(found.version())

    def columns(self, model: str, table: str) -> dict[str, str] | None:
        """Column name to the name of its Arrow type; None when there is no table."""
        found = self.open_table(model, table)
        return None if found is None else type_names(pa.schema(found.schema()))

    def read(
        self,
        model: str,
        table: str,
        *,
        window: Window | None = None,
        time: str | None = None,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Read rows, in no particular order.

        Args:
            window: Only rows whose `time` lies in the window.
            time: The column that `window` is about.
            version: Version of the table; default the newest.
            columns: Only these columns; those that the table does not have (yet) are null.

        Returns:
            The rows, times as UTC; an empty frame when there is no table.

        Raises:
            DataError: If the table has no such version, or not the column `time`.
        """
        found = self.open_table(model, table, version=version)
        if found is None:
            return pd.DataFrame(columns=list(columns or []))
        schema = pa.schema(found.schema())
        filters = None
        if window is not None:
            kind = time_field(schema, time, where=self.uri(model, table)).type
            filters = [(time, ">=", pa.scalar(window.start, kind)), (time, "<", pa.scalar(window.end, kind))]
        wanted = None if columns is None else [name for name in dict.fromkeys(columns) if name in schema.names]
        try:
            frame: pd.DataFrame = found.to_pyarrow_table(columns=wanted, filters=filters).to_pandas()
        except (DeltaError, OSError) as exc:
            raise unreadable(self.uri(model, table), exc) from None
        return frame if columns is None else frame.reindex(columns=list(dict.fromkeys(columns)))

    def scan(self, model: str, table: str, *, window: Window, time: str) -> Scan | None:
        """Find the rows of a window in the newest version, to be read in batches; None when there is no table.

        Args:
            time: The column that places a row in the window.

        Raises:
            DataError: If the table has no column `time`.
        """
        found = self.open_table(model, table)
        if found is None:
            return None
        schema = pa.schema(found.schema())
        time_field(schema, time, where=self.uri(model, table))
        return Scan(
            table=found,
            time=time,
            window=window,
            schema=schema,
            version=int(found.version()),
            changed=changed_version(found, window),
            rows=count_rows(found, lies_in(time, window)),
        )

    def overwrite_window(
        self,
        model: str,
        table: str,
        frame: pd.DataFrame | pa.Table,
        *,
        window: Window,
        time: str,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Replace the rows of a window in one commit; the same rows again make no new version.

        Args:
            frame: All rows of the window; none empties it.
            time: The column that places a row in the window.
            metadata: Kept with the commit, besides the window, the number of rows and their digest.

        Returns:
            The version of the table that holds these rows.

        Raises:
            DataError: If a row lies outside the window, or a column does not fit the table.
            StorageError: If the rows could not be stored.
        """
        rows = to_arrow(frame, where=self.uri(model, table))
        _refuse_rows_outside(rows, window, time=time, where=self.uri(model, table))
        note = {**(metadata or {}), **window.as_extra(), "rows": str(rows.num_rows), "rows_sha256": digest_of_rows(rows)}
        return self._write(
            model,
            table,
            rows.schema,
            partial(_commit, rows=rows, predicate=_predicate(window, time), note=note),
            what=f"{rows.nbytes} bytes",
            unchanged=partial(same_window, window=window, note=note),
        )

    def overwrite_window_by(
        self,
        model: str,
        table: str,
        make_batches: Callable[[], Iterable[pa.RecordBatch]],
        *,
        schema: pa.Schema,
        rows: int,
        window: Window,
        time: str,
        metadata: Mapping[str, str],
    ) -> int:
        """Replace the rows of a window in one commit by rows that are made while they are written.

        Args:
            make_batches: Makes the batches from the beginning; called again when somebody else committed first, and not
                called at all when the newest commit of the window has this number of rows and this metadata.
            schema: The batches' schema, of stored types.
            rows: How many rows `make_batches` makes.
            time: The column that places a row in the window.
            metadata: Says what the rows are made from: the same again makes the same rows. Kept with the commit, besides
                the window and the number of rows.

        Returns:
            The version of the table that holds these rows.

        Raises:
            DataError: If a row lies outside the window, there are fewer or more rows, or a column does not fit the table.
            StorageError: If the rows could not be stored.
        """
        note = {**metadata, **window.as_extra(), "rows": str(rows)}
        return self._write(
            model,
            table,
            schema,
            partial(_commit_stream, make_batches=make_batches, schema=schema, rows=rows, window=window, time=time, note=note),
            what=f"{rows} rows",
            unchanged=partial(same_window, window=window, note=note),
        )

    def replace_rows(
        self,
        model: str,
        table: str,
        frame: pd.DataFrame | pa.Table,
        *,
        key: str,
        values: Sequence[str],
        metadata: Mapping[str, str] | None = None,
    ) -> int | None:
        """Replace the rows whose `key` is one of `values` in one commit.

        Args:
            frame: The new rows, each with one of `values` in `key`; none removes the old ones.
            metadata: Kept with the commit.

        Returns:
            The version of the table that holds these rows; the same rows again make no new one. None when there was
            nothing to write and no table.

        Raises:
            DataError: If a row has another key, or a column does not fit the table.
            StorageError: If the rows could not be stored.
        """
        where = self.uri(model, table)
        rows = to_arrow(frame, where=where)
        if rows.num_rows and not set(rows[key].to_pylist() if key in rows.column_names else [None]) <= set(values):
            raise DataError(f"{where}: rows have a {key!r} that is not among those to replace; pass every key in `values`")
        if not values or (not rows.num_rows and not self.exists(model, table)):
            return self.version(model, table)
        texts = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
        note = {**(metadata or {}), "rows": str(rows.num_rows)}
        commit = partial(_commit, rows=rows, predicate=f"{quoted(key)} IN ({texts})", note=note)
        unchanged = partial(same_rows, rows=rows, key=key, values=list(values))
        return self._write(model, table, rows.schema, commit, what=f"{rows.nbytes} bytes", unchanged=unchanged)

    def windows(self, model: str, table: str = "raw") -> list[CommittedWindow]:
        """The newest commit of each window, in the order of the windows."""
        found = self.open_table(model, table)
        newest: dict[Window, CommittedWindow] = {}
        for commit in commits_of(found) if found else []:
            newest.setdefault(commit.window, commit)
        return [newest[window] for window in sorted(newest)]

    def watermark(self, model: str) -> datetime | None:
        """The end of the newest window that was ever committed to `raw`; None when there is none."""
        return max((commit.window.end for commit in self.windows(model)), default=None)

    def open_table(self, model: str, table: str, *, version: int | None = None) -> DeltaTable | None:
        """The table at a version, default the newest; None when there is no table.

        Raises:
            DataError: If the table has no such version.
            StorageError: If it cannot be read.
        """
        uri = self.uri(model, table)
        try:
            return DeltaTable(uri, version=version, storage_options=_options(uri))
        except TableNotFoundError:
            return None
        except OSError as exc:
            raise unreadable(uri, exc) from None
        except DeltaError as exc:
            if version is None:
                raise unreadable(uri, exc) from None
            raise DataError(f"{uri}: there is no version {version}; the newest is {self.version(model, table)}") from exc

    def _write(
        self,
        model: str,
        table: str,
        schema: pa.Schema,
        commit: Callable[[DeltaTable], None],
        *,
        what: str,
        unchanged: Callable[[DeltaTable], int | None],
    ) -> int:
        uri = self.uri(model, table)
        with named_storage_errors(uri, what):
            for attempt in range(_ATTEMPTS):
                try:
                    found = self.open_table(model, table) or _create(uri, schema)
                    same = unchanged(found)
                    if same is not None:
                        _log.info("%s: the same rows are there since version %d", uri, same)
                        return same
                    commit(found)
                except CommitFailedError as exc:
                    _log.info(
                        "%s: somebody else committed first, trying again (%d of %d): %s",
                        uri,
                        attempt + 1,
                        _ATTEMPTS,
                        storage_reason(uri, exc),
                    )
                    clock.sleep(random.uniform(0.01, 0.05 * (attempt + 1)))
                    continue
                _log.info("%s: committed %s as version %d", uri, what, found.version())
                return int(found.version())
        raise StorageError(f"{uri}: {_ATTEMPTS} attempts to commit lost against other writers; run again when they are done")


def _create(uri: str, schema: pa.Schema) -> DeltaTable:
    # two writers that both create a table by writing duplicate rows: so it is created empty, and written afterwards
    typed = pa.schema([field for field in schema if field.type != pa.null()])
    if "://" not in uri:
        os.makedirs(uri, exist_ok=True)
    # without retries: a second commit that creates the table would take back columns that were added meanwhile
    once = CommitProperties(max_commit_retries=0)
    return DeltaTable.create(uri, typed, mode="ignore", configuration=_CONFIGURATION, commit_properties=once, storage_options=_options(uri))


def _options(uri: str) -> dict[str, str] | None:
    """How long to wait for an object store; where it is and who asks stands in the environment, as for all other files."""
    return dict(STORAGE_OPTIONS) if "://" in uri else None


def _commit(found: DeltaTable, *, rows: pa.Table, predicate: str, note: Mapping[str, str]) -> None:
    fitted = _fitted(rows, type_names(pa.schema(found.schema())), where=found.table_uri)
    # a column that is new and has no value yet has no type: it is added when the first value comes
    typed = fitted.select([field.name for field in fitted.schema if field.type != pa.null()])
    _overwrite(typed, found=found, predicate=predicate, note=note)


def _commit_stream(
    found: DeltaTable,
    *,
    make_batches: Callable[[], Iterable[pa.RecordBatch]],
    schema: pa.Schema,
    rows: int,
    window: Window,
    time: str,
    note: Mapping[str, str],
) -> None:
    where, known = found.table_uri, type_names(pa.schema(found.schema()))

    def checked() -> Iterator[pa.RecordBatch]:
        made = 0
        for batch in make_batches():
            part = pa.Table.from_batches([batch], schema)
            _refuse_rows_outside(part, window, time=time, where=where)
            yield from _fitted(part, known, where=where).to_batches(max_chunksize=_WAITING_ROWS)
            made += batch.num_rows
        if made != rows:
            raise DataError(f"{where}: got {made} rows for the window {window}, announced were {rows}; run again")

    overwrite = partial(_overwrite, found=found, predicate=_predicate(window, time), note=note)
    stream_batches(checked(), _fitted(schema.empty_table(), known, where=where).schema, overwrite)


def _overwrite(data: pa.Table | pa.RecordBatchReader, *, found: DeltaTable, predicate: str, note: Mapping[str, str]) -> None:
    write_deltalake(
        found,
        data,
        mode="overwrite",
        predicate=predicate,
        schema_mode="merge",
        writer_properties=WriterProperties(max_row_group_size=_GROUP_ROWS),
        commit_properties=CommitProperties(custom_metadata=dict(note)),
    )


def _fitted(rows: pa.Table, known: Mapping[str, str], *, where: str) -> pa.Table:
    fitted, problems = fit_columns(rows, known)
    if problems:
        raise DataError(f"{where}: " + "; ".join(f"column '{name}' {text}" for name, text in list(problems.items())[:5]))
    return fitted


def _predicate(window: Window, time: str) -> str:
    return f"{quoted(time)} >= '{window.start.isoformat()}' AND {quoted(time)} < '{window.end.isoformat()}'"


def _refuse_rows_outside(rows: pa.Table, window: Window, *, time: str, where: str) -> None:
    if not rows.num_rows:
        return
    if time not in rows.column_names or rows[time].type != TIME:
        raise DataError(
            f"{where}: the column '{time}' that places rows in the window is missing or holds no times; columns: {rows.column_names}"
        )
    moments, start, end = rows[time], pa.scalar(window.start, TIME), pa.scalar(window.end, TIME)
    inside = pc.sum(pc.and_(pc.greater_equal(moments, start), pc.less(moments, end))).as_py() or 0
    if inside < rows.num_rows:
        outside = rows.num_rows - inside
        raise DataError(f"{where}: {outside} of {rows.num_rows} rows lie outside the window {window}; read only rows of the window")
