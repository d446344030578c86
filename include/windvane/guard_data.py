"""The checks that no expectation suite makes: they hold for every batch of every model.

Expectations about values pass when there are no values, and know nothing of infinity or of what a table looked like
before. So these guards look first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from windvane.column_types import fit_columns
from windvane.config import Data
from windvane.windows import Window


@dataclass(frozen=True)
class RowFailure:
    """Rows that fail a check.

    Attributes:
        reason: Which check, about which column; never a value.
        positions: Positions of the rows in the batch.
    """

    reason: str
    positions: Sequence[int]


@dataclass(frozen=True)
class Guarded:
    """What the guards found.

    Attributes:
        table: The batch, its columns cast to the types that the model's table has.
        problems: What is wrong with the batch as a whole; any of them refuses it.
        failures: What is wrong with single rows.
    """

    table: pa.Table
    problems: tuple[str, ...]
    failures: tuple[RowFailure, ...]


def guard_data(
    table: pa.Table, data: Data, *, window: Window, known_schema: Mapping[str, str] | None, suite_columns: Sequence[str]
) -> Guarded:
    """Look for what makes a batch unusable as a whole, and for rows that no model may see.

    Args:
        known_schema: Column name to Arrow type of the table so far; None before the first commit.
        suite_columns: Columns that the expectation suite is about.
    """
    if not table.num_rows:
        return Guarded(
            table, ("the batch is empty; expectations about values would pass on it", *_lost(table, data, known_schema, suite_columns)), ()
        )
    fitted, retyped = fit_columns(table, known_schema or {})
    problems = [
        *_lost(fitted, data, known_schema, suite_columns),
        *(f"column '{name}' {what}; mend the source, or give the column a new name" for name, what in retyped.items()),
        *(f"column '{name}' holds only nulls; mend the source, or drop the column" for name in _all_null(fitted, data, window)),
    ]
    failures = [*_infinite(fitted), *_missing_keys(fitted, data), *_repeated_ids(fitted, data)]
    return Guarded(fitted, tuple(problems), tuple(failures))


def _lost(table: pa.Table, data: Data, known_schema: Mapping[str, str] | None, suite_columns: Sequence[str]) -> list[str]:
    wanted: dict[str, str] = {
        **dict.fromkeys(suite_columns, "the expectation suite needs it"),
        **dict.fromkeys(known_schema or {}, "the table has it"),
        **{name: "the config needs it" for name in (data.id, data.time, data.label) if name},
    }
    return [f"column '{name}' is lost; {why}" for name, why in wanted.items() if name not in table.column_names]


def _all_null(table: pa.Table, data: Data, window: Window) -> list[str]:
    # outcomes that are not due yet are no fault, and neither is one row with a gap
    excused = {data.label} if window.end - window.start <= data.label_delay else set()
    if table.num_rows < 2:
        return []
    return [name for name in table.column_names if name not in excused and table[name].null_count == table.num_rows]


def _infinite(table: pa.Table) -> list[RowFailure]:
    found = []
    for field in table.schema:
        if pa.types.is_floating(field.type):
            positions = np.flatnonzero(pc.fill_null(pc.is_inf(table[field.name]), False).to_numpy())
            if len(positions):
                found.append(RowFailure(f"{field.name}: infinite", positions.tolist()))
    return found


def _missing_keys(table: pa.Table, data: Data) -> list[RowFailure]:
    found = []
    for name in (data.id, data.time):
        if name in table.column_names and table[name].null_count:
            found.append(RowFailure(f"{name}: null", np.flatnonzero(table[name].is_null().to_numpy()).tolist()))
    return found


def _repeated_ids(table: pa.Table, data: Data) -> list[RowFailure]:
    """Of equal rows the first one is kept; of different rows with one id nobody knows the right one."""
    if data.id is None or data.id not in table.column_names:
        return []
    ids: pd.Series = table[data.id].to_pandas()
    repeated = ids.duplicated(keep=False) & ids.notna()
    if not repeated.any():
        return []
    rows = table.filter(pa.array(repeated)).to_pandas()
    again = rows.duplicated(keep="first")
    # what is left of an id after its equal rows are gone: more than one means that they differ
    differs = rows[data.id].isin(rows.loc[~again, data.id][rows.loc[~again, data.id].duplicated()])
    positions = np.flatnonzero(repeated.to_numpy())
    found = [
        RowFailure(f"{data.id}: the same row again", positions[(again & ~differs).to_numpy()].tolist()),
        RowFailure(f"{data.id}: different rows with one id", positions[differs.to_numpy()].tolist()),
    ]
    return [failure for failure in found if failure.positions]
