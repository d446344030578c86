"""What the log of a Delta table says about the windows in it, and whether rows are there already."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from windvane.column_types import fit_columns, type_names
from windvane.read_log import read_log
from windvane.windows import Window

_KEEPS_ROWS = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END"})


@dataclass(frozen=True)
class CommittedWindow:
    """What the newest commit of a window said.

    Attributes:
        rows: Rows that the commit wrote.
        version: Version of the table that the commit made.
        time: When it was committed, by the clock on the wall.
        metadata: Everything that was recorded with the commit.
    """

    window: Window
    rows: int
    version: int
    time: datetime
    metadata: Mapping[str, str]


def commits_of(found: DeltaTable) -> Iterator[CommittedWindow]:
    """The commits that wrote windows, newest first."""
    for entry in read_log(found):
        window = Window.from_extra(entry)
        if window is not None:
            note = {name: value for name, value in entry.items() if isinstance(value, str)}
            moment = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
            yield CommittedWindow(window=window, rows=int(note["rows"]), version=int(entry["version"]), time=moment, metadata=note)


def same_window(found: DeltaTable, *, window: Window, note: Mapping[str, str]) -> int | None:
    """The version that already holds these rows, unless a later commit touched a part of the window."""
    newest = _last_change(found, window)
    same = Window.from_extra(newest) == window and all(newest.get(name) == value for name, value in note.items())
    return int(newest["version"]) if same else None


def changed_version(found: DeltaTable, window: Window) -> int:
    """The version that last changed, or may have changed, rows of the window."""
    return int(_last_change(found, window)["version"])


def _last_change(found: DeltaTable, window: Window) -> Mapping[str, Any]:
    entry: Mapping[str, Any]
    for entry in read_log(found):
        other = Window.from_extra(entry)
        # a commit without a window is not one of Windvane's: whatever it is, it may concern every row
        touched = entry.get("operation") not in _KEEPS_ROWS if other is None else other.start < window.end and window.start < other.end
        if touched:
            return entry
    return {"version": 0}


def same_rows(found: DeltaTable, *, rows: pa.Table, key: str, values: list[str]) -> int | None:
    """The present version of the table if its rows with these keys are these rows."""
    schema = pa.schema(found.schema())
    fitted, problems = fit_columns(rows, type_names(schema))
    if problems or key not in schema.names or not set(rows.column_names) <= set(schema.names):
        return None
    present = found.to_pyarrow_table(filters=[(key, "in", values)])
    missing = [field for field in schema if field.name not in rows.column_names]
    for field in missing:
        fitted = fitted.append_column(field.name, pa.nulls(rows.num_rows, field.type))
    same = present.num_rows == rows.num_rows and digest_of_rows(present) == digest_of_rows(fitted.select(present.column_names))
    return int(found.version()) if same else None


def digest_of_rows(rows: pa.Table) -> str:
    """SHA-256 of the set of rows: columns, types and values, in whatever order the rows come."""
    hashed = pd.util.hash_pandas_object(rows.to_pandas(), index=False).sort_values().to_numpy(dtype="<u8")
    return hashlib.sha256(repr(sorted(type_names(rows.schema).items())).encode() + hashed.tobytes()).hexdigest()
