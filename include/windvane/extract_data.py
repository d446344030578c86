"""Copies the rows of a window from the source into staging: whole, typed, sorted, or not at all."""

import hashlib
import logging
import shutil
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from windvane.column_types import TIME
from windvane.config import ModelConfig
from windvane.errors import ConfigError, DataError
from windvane.model_code import ModelCode
from windvane.read_source import read_source
from windvane.settings import Settings
from windvane.store_files import Place, as_parquet, place_of, read_parquet, write_bytes
from windvane.windows import Window

_log = logging.getLogger(__name__)

_KEPT = timedelta(days=7)


@dataclass(frozen=True)
class Staged:
    """A batch between extract and commit.

    Attributes:
        directory: Where the batch lies: `raw.parquet`, and what validation adds.
        window: The window of its rows.
        rows: How many rows it has.
        digest: SHA-256 of `raw.parquet`.
    """

    directory: Place
    window: Window
    rows: int
    digest: str

    @property
    def path(self) -> Place:
        """The rows as they came from the source."""
        return self.directory / "raw.parquet"

    def read(self) -> pa.Table:
        """The rows; refused if a bit changed since they were written.

        Raises:
            DataError: If the file is missing, cut, or changed.
        """
        return read_parquet(self.path, sha256=self.digest)

    def as_json(self) -> dict[str, Any]:
        """The form in which tasks hand it on."""
        return {"directory": str(self.directory), **self.window.as_extra(), "rows": self.rows, "digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Staged":
        """Read what `as_json` wrote."""
        window = Window.from_extra(value)
        if window is None:
            raise ConfigError(["staged batch: window_start and window_end are missing; run extract again"])
        return cls(directory=place_of(value["directory"]), window=window, rows=int(value["rows"]), digest=str(value["digest"]))


def extract_data(config: ModelConfig, code: ModelCode, settings: Settings, *, window: Window, connection_uri: str | None) -> Staged:
    """Read the rows of a window from the source of a model and stage them.

    Args:
        connection_uri: Address of the connection that the source names, None when it names none.

    Returns:
        The staged batch; the same rows always give the same one.

    Raises:
        DataError: If there are no rows, a column of the config is missing, or the source is unreadable or cut.
        StorageError: If the batch cannot be stored.
    """
    where = f"{config.model}: source ({config.data.source.type}), window {window}"
    rows, holds_other_windows = read_source(config, code, settings.project, window=window, connection_uri=connection_uri)
    _refuse_no_rows(rows, where=where)
    _refuse_lost_columns(rows, config, where=where)
    rows = _with_utc_time(rows, config.data.time, where=where)
    rows = _only_window(rows, config.data.time, window, holds_other_windows=holds_other_windows, where=where)
    _refuse_no_rows(rows, where=where)
    keys = [(config.data.time, "ascending"), *([(config.data.id, "ascending")] if config.data.id else [])]
    staged = _stage(rows.sort_by(keys), settings.staging / config.model, window)
    _log.info("%s: staged %d rows of %d columns", where, staged.rows, rows.num_columns)
    return staged


def _refuse_no_rows(rows: pa.Table, *, where: str) -> None:
    if not rows.num_rows:
        raise DataError(f"{where}: has no rows; check that the source is complete, then run this window again")


def _refuse_lost_columns(rows: pa.Table, config: ModelConfig, *, where: str) -> None:
    wanted = {"data.time": config.data.time, "data.label": config.data.label, "data.id": config.data.id}
    lost = [f"'{name}' ({field})" for field, name in wanted.items() if name is not None and name not in rows.column_names]
    if lost:
        raise DataError(f"{where}: lost the columns {', '.join(lost)}; it has: {', '.join(rows.column_names[:30])}")


def _with_utc_time(rows: pa.Table, time: str, *, where: str) -> pa.Table:
    column = rows[time]
    if column.type == TIME:
        return rows
    if pa.types.is_null(column.type):
        moments = column.cast(TIME)
    elif pa.types.is_date(column.type):
        moments = column.cast(pa.timestamp("us")).cast(TIME)
    elif pa.types.is_string(column.type):
        texts = column.to_pandas()
        parsed = pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce")
        bad = int((parsed.isna() & texts.notna()).sum())
        if bad:
            raise DataError(
                f"{where}: column '{time}': {bad} of {len(texts)} texts are no times; allowed is ISO 8601 such as 2013-02-01T06:00:00Z"
            )
        moments = pa.chunked_array([pa.Array.from_pandas(parsed).cast(TIME, safe=False)])
    else:
        raise DataError(f"{where}: column '{time}' (data.time) holds {column.type}, allowed are times, dates and ISO 8601 texts")
    return rows.set_column(rows.column_names.index(time), time, moments)


def _only_window(rows: pa.Table, time: str, window: Window, *, holds_other_windows: bool, where: str) -> pa.Table:
    moments = rows[time]
    within = pc.and_(pc.greater_equal(moments, pa.scalar(window.start, TIME)), pc.less(moments, pa.scalar(window.end, TIME)))
    # a row without a time stays: validation will quarantine it, where it can be seen
    kept = pc.fill_null(within, True)
    outside = int(rows.num_rows - np.count_nonzero(kept.to_numpy()))
    if outside and not holds_other_windows:
        raise DataError(
            f"{where}: {outside} of {rows.num_rows} rows lie outside the window; let the source return only start <= {time} < end, in UTC"
        )
    return rows.filter(kept) if outside else rows


def _stage(rows: pa.Table, root: Place, window: Window) -> Staged:
    content = as_parquet(rows)
    digest = hashlib.sha256(content).hexdigest()
    staged = Staged(directory=root / window.key / digest[:20], window=window, rows=rows.num_rows, digest=digest)
    write_bytes(staged.path, content)
    _remove_old(root)
    return staged


def _remove_old(root: Place) -> None:
    """Drop batches that were staged long ago: what they held was committed or refused since."""
    if not isinstance(root, Path):
        for file, written in root.objects():
            if datetime.now(UTC) - written > _KEPT:
                file.unlink(missing_ok=True)
        return
    for directory in root.glob("*/*"):
        try:
            if clock.time() - directory.stat().st_mtime > _KEPT.total_seconds():
                shutil.rmtree(directory)
        except OSError as exc:
            _log.info("%s: could not be removed: %s", directory, exc.strerror)
