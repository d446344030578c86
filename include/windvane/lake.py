"""The lake: Delta tables per model, written so that doing a thing twice, or twice at once, has the effect of once.

A process that has used a table must not fork and use one in the child: the threads of delta-rs do not survive it. Import
this module before a fork, but open no table.
"""

import contextlib
import errno
import logging
import os
import random
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from windvane.column_types import fit_columns, to_arrow, type_names
from windvane.committed_windows import CommittedWindow, commits_of, digest_of_rows, same_rows, same_window
from windvane.errors import DataError, StorageError
from windvane.windows import Window, as_utc

_log = logging.getLogger(__name__)

_ATTEMPTS = 25
# the log is the record of what was ingested, and every version may be read again: nothing of it expires
_CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}
_NO_SPACE = ("no space left", "os error 28", "disk quota", "storage full")


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
        return self._open(model, table) is not None

    def version(self, model: str, table: str) -> int | None:
        """The newest version of the table; None when there is no table."""
        found = self._open(model, table)
        return None if found is None else int(found.version())

    def columns(self, model: str, table: str) -> dict[str, str] | None:
        """Column name to the name of its Arrow type; None when there is no table."""
        found = self._open(model, table)
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
        found = self._open(model, table, version=version)
        if found is None:
            return pd.DataFrame(columns=list(columns or []))
        schema = pa.schema(found.schema())
        filters = None
        if window is not None:
            if time is None or time not in schema.names:
                raise DataError(
                    f"{self.uri(model, table)}: there is no column {time!r} to find the window by; columns: {', '.join(schema.names)}"
                )
            kind = schema.field(time).type
            filters = [(time, ">=", pa.scalar(window.start, kind)), (time, "<", pa.scalar(window.end, kind))]
        wanted = None if columns is None else [name for name in dict.fromkeys(columns) if name in schema.names]
        frame: pd.DataFrame = found.to_pyarrow_table(columns=wanted, filters=filters).to_pandas()
        return frame if columns is None else frame.reindex(columns=list(dict.fromkeys(columns)))

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
        predicate = f"{_quoted(time)} >= '{window.start.isoformat()}' AND {_quoted(time)} < '{window.end.isoformat()}'"
        return self._write(model, table, rows, predicate=predicate, note=note, unchanged=partial(same_window, window=window, note=note))

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
        unchanged = partial(same_rows, rows=rows, key=key, values=list(values))
        return self._write(model, table, rows, predicate=f"{_quoted(key)} IN ({texts})", note=note, unchanged=unchanged)

    def windows(self, model: str, table: str = "raw") -> list[CommittedWindow]:
        """The newest commit of each window, in the order of the windows."""
        found = self._open(model, table)
        newest: dict[Window, CommittedWindow] = {}
        for commit in commits_of(found) if found else []:
            newest.setdefault(commit.window, commit)
        return [newest[window] for window in sorted(newest)]

    def watermark(self, model: str) -> datetime | None:
        """The end of the newest window that was ever committed to `raw`; None when there is none."""
        return max((commit.window.end for commit in self.windows(model)), default=None)

    def _open(self, model: str, table: str, *, version: int | None = None) -> DeltaTable | None:
        uri = self.uri(model, table)
        try:
            return DeltaTable(uri, version=version)
        except TableNotFoundError:
            return None
        except DeltaError as exc:
            if version is None:
                raise StorageError(f"{uri}: the table cannot be read: {_first_line(exc)}") from exc
            raise DataError(f"{uri}: there is no version {version}; the newest is {self.version(model, table)}") from exc

    def _write(
        self,
        model: str,
        table: str,
        rows: pa.Table,
        *,
        predicate: str,
        note: Mapping[str, str],
        unchanged: Callable[[DeltaTable], int | None],
    ) -> int:
        uri = self.uri(model, table)
        with _named_storage_errors(uri, rows.nbytes):
            for attempt in range(_ATTEMPTS):
                try:
                    found = self._open(model, table) or _create(uri, rows)
                    same = unchanged(found)
                    if same is not None:
                        _log.info("%s: the same rows are there since version %d", uri, same)
                        return same
                    _commit(found, rows, predicate=predicate, note=note)
                except CommitFailedError as exc:
                    _log.info(
                        "%s: somebody else committed first, trying again (%d of %d): %s", uri, attempt + 1, _ATTEMPTS, _first_line(exc)
                    )
                    clock.sleep(random.uniform(0.01, 0.05 * (attempt + 1)))
                    continue
                _log.info("%s: committed %d rows as version %d", uri, rows.num_rows, found.version())
                return int(found.version())
        raise StorageError(f"{uri}: {_ATTEMPTS} attempts to commit lost against other writers; run again when they are done")


def _create(uri: str, rows: pa.Table) -> DeltaTable:
    # two writers that both create a table by writing duplicate rows: so it is created empty, and written afterwards
    typed = rows.select([field.name for field in rows.schema if field.type != pa.null()])
    if "://" not in uri:
        os.makedirs(uri, exist_ok=True)
    return DeltaTable.create(uri, typed.schema, mode="ignore", configuration=_CONFIGURATION)


def _commit(found: DeltaTable, rows: pa.Table, *, predicate: str, note: Mapping[str, str]) -> None:
    properties = CommitProperties(custom_metadata=dict(note))
    known = type_names(pa.schema(found.schema()))
    fitted, problems = fit_columns(rows, known)
    if problems:
        raise DataError(f"{found.table_uri}: " + "; ".join(f"column '{name}' {text}" for name, text in list(problems.items())[:5]))
    # a column that is new and has no value yet has no type: it is added when the first value comes
    typed = fitted.select([field.name for field in fitted.schema if field.type != pa.null()])
    write_deltalake(found, typed, mode="overwrite", predicate=predicate, schema_mode="merge", commit_properties=properties)


def _refuse_rows_outside(rows: pa.Table, window: Window, *, time: str, where: str) -> None:
    if not rows.num_rows:
        return
    moments = rows[time].to_pandas() if time in rows.column_names else None
    if moments is None or not isinstance(moments.dtype, pd.DatetimeTZDtype):
        raise DataError(
            f"{where}: the column '{time}' that places rows in the window is missing or holds no times; columns: {rows.column_names}"
        )
    outside = int((~((moments >= as_utc(window.start)) & (moments < as_utc(window.end)))).sum())
    if outside:
        raise DataError(f"{where}: {outside} of {rows.num_rows} rows lie outside the window {window}; read only rows of the window")


@contextlib.contextmanager
def _named_storage_errors(uri: str, size: int) -> Iterator[None]:
    try:
        yield
    except (DeltaError, OSError) as exc:
        full = getattr(exc, "errno", None) == errno.ENOSPC or any(text in str(exc).lower() for text in _NO_SPACE)
        reason = "no space is left; free some and run again" if full else _first_line(exc)
        raise StorageError(f"{uri}: could not store {size} bytes: {reason}") from exc


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _first_line(exc: Any) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]
