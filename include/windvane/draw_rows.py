"""Reads rows of a table within bounds of memory: all of them where they are few, else some that are spread evenly over the time.

Which rows are drawn follows from their keys, which say nothing about what a model learns, or from their places in the table: so a test on
them is as valid as one on all, only less sharp. The same rows of the same version are always drawn; a smaller draw by key is a part of a
larger one.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from windvane.lake import Lake
from windvane.scan_table import count_rows, lies_in, quoted, select, time_field
from windvane.windows import Window

log = logging.getLogger(__name__)

AT_ONCE = 2_000_000
"""All rows of windows with no more than this may be read at once."""

_ROWS_AT_ONCE = 65_536
_DRAWN = "(drawn)"
# keys are put into groups by the first digits of their hash, and whole groups are drawn
_DIGITS = 4
_FEWEST = 0.5

See = Callable[[pa.RecordBatch, int], None]


@dataclass(frozen=True)
class Chosen:
    """Which rows of a table are meant.

    Attributes:
        window: Rows whose `time` lies in it.
        time: The column that places a row in time.
        known: Rows with a value in this column; None: whatever it holds.
        without: Rows in these windows are left out.
    """

    window: Window
    time: str
    known: str | None = None
    without: tuple[Window, ...] = ()

    def condition(self, columns: Sequence[str]) -> str:
        """The rows as a condition in SQL, for a table with these columns."""
        parts = [lies_in(self.time, self.window), *(f"NOT {lies_in(self.time, held)}" for held in self.without)]
        if self.known is not None:
            parts.append(f"{quoted(self.known)} IS NOT NULL" if self.known in columns else "FALSE")
        return " AND ".join(parts)

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The chosen ones among the rows of the window."""
        if rows.empty or (self.known is None and not self.without):
            return rows
        kept = np.ones(len(rows), dtype=bool)
        if self.known is not None:
            kept = rows[self.known].notna().to_numpy(dtype=bool) if self.known in rows.columns else ~kept
        for held in self.without:
            kept &= ~((rows[self.time] >= held.start) & (rows[self.time] < held.end)).to_numpy(dtype=bool)
        chosen: pd.DataFrame = rows[kept]
        return chosen


@dataclass(frozen=True)
class Drawn:
    """Rows, in no particular order, and how many there were to draw from."""

    rows: pd.DataFrame
    of: int

    @property
    def is_sampled(self) -> bool:
        """Whether some were left out."""
        return len(self.rows) < self.of


def draw_rows(
    lake: Lake,
    model: str,
    table: str,
    chosen: Chosen,
    *,
    most: int | None,
    key: Sequence[str] = (),
    version: int | None = None,
    columns: Sequence[str] | None = None,
    see: See | None = None,
) -> Drawn:
    """Read the chosen rows if there are at most so many, else nearly as many of them, as `Lake.read` would.

    Args:
        most: Return at most so many; None returns all.
        key: Columns that name a row: it is drawn by the first of them that has a value, so that rows of one name stay together, here and
            in other tables. Without any, or if too many rows share a name, by the places in the table: one of every few.
        version: Version of the table; default the newest.
        columns: Only these columns; those that the table does not have (yet) are null.
        see: Called with every batch of all chosen rows and their number, if not all are returned.

    Raises:
        DataError: If the table has no such version, or not the column that places a row in time.
        StorageError: If it cannot be read.
    """
    found = lake.open_table(model, table, version=version)
    few = AT_ONCE if most is None else most
    if found is None or _rows_of(found) <= few:
        return _read(lake, model, table, chosen, version=version, columns=columns)
    schema = pa.schema(found.schema())
    time_field(schema, chosen.time, where=lake.uri(model, table))
    if count_rows(found, lies_in(chosen.time, chosen.window)) <= few:
        return _read(lake, model, table, chosen, version=int(found.version()), columns=columns)
    condition, key = chosen.condition(schema.names), [name for name in key if name in schema.names]
    wanted = list(dict.fromkeys(schema.names if columns is None else columns))
    schema = pa.schema([schema.field(name) for name in wanted if name in schema.names])
    if most is None or not key:
        n, cut = count_rows(found, condition), None
    else:
        n, cut = _find_cut(found, condition, key=[*key, chosen.time], most=most)
    most = n if most is None else most
    told = [quoted(name) for name in schema.names]
    if cut and not see:
        condition = f"{condition} AND {cut}"
    elif cut:
        told.append(f"{cut} AS {quoted(_DRAWN)}")
    batches = select(found, ", ".join(told), condition, rows_at_once=_ROWS_AT_ONCE)
    if n > most and (see or not cut):
        batches = _seen(batches, n, see) if see else batches
        batches = _flagged(batches, schema) if cut else _evenly(batches, schema, n, most)
    # one column after the other, and what was turned is let go
    rows = pa.Table.from_batches((batch.cast(schema) for batch in batches), schema)
    frame: pd.DataFrame = rows.to_pandas(split_blocks=True, self_destruct=True)
    if n > most:
        by = "by the hash of " + " or ".join(key) if cut else "by their places"
        log.info("%s: %d of %d rows of %s are drawn, %s", found.table_uri, len(frame), n, chosen.window, by)
    return Drawn(frame if columns is None else frame.reindex(columns=wanted), n)


def read_named(
    lake: Lake, model: str, table: str, chosen: Chosen, *, name: str, wanted: "pd.Index[Any]", at_once: int, columns: Sequence[str]
) -> pd.DataFrame:
    """Read the chosen rows whose name is wanted, and the others as well where there are few.

    Args:
        name: The column with the name, which is compared as text.
        at_once: Windows with no more rows than this are read as they are.
        columns: Only these columns, `name` among them.

    Raises:
        DataError: If the table has not the column that places a row in time.
        StorageError: If it cannot be read.
    """
    found = lake.open_table(model, table)
    if found is None or _rows_of(found) <= at_once:
        return _read(lake, model, table, chosen, version=None, columns=columns).rows
    names = pa.schema(found.schema()).names
    if name not in names:
        return pd.DataFrame(columns=list(columns))
    time_field(pa.schema(found.schema()), chosen.time, where=lake.uri(model, table))
    told = ", ".join(quoted(column) for column in columns if column in names)
    condition = f"{chosen.condition(names)} AND {quoted(name)} IS NOT NULL"
    frames = (batch.to_pandas() for batch in select(found, told, condition, rows_at_once=_ROWS_AT_ONCE))
    parts = [frame[wanted.get_indexer(frame[name].astype(str)) >= 0] for frame in frames]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))


class Counted(NamedTuple):
    """How many rows are chosen, and the least and the greatest of the values that are asked for."""

    rows: int
    least: Any = None
    greatest: Any = None


def count_chosen(lake: Lake, model: str, table: str, chosen: Chosen, *, version: int | None = None) -> Counted:
    """How many rows are chosen, with the ends of the values in `chosen.known`; none when there is no table.

    Raises:
        DataError: If the table has no such version, or not the column that places a row in time.
    """
    found = lake.open_table(model, table, version=version)
    if found is None:
        return Counted(0)
    schema = pa.schema(found.schema())
    time_field(schema, chosen.time, where=lake.uri(model, table))
    column = quoted(chosen.known) if chosen.known is not None and chosen.known in schema.names else "NULL"
    wanted = f"count(*) AS n, min({column}) AS least, max({column}) AS greatest"
    (row,) = (row for batch in select(found, wanted, chosen.condition(schema.names)) for row in batch.to_pylist())
    return Counted(row["n"], row["least"], row["greatest"])


def _read(lake: Lake, model: str, table: str, chosen: Chosen, *, version: int | None, columns: Sequence[str] | None) -> Drawn:
    rows = chosen.of(lake.read(model, table, window=chosen.window, time=chosen.time, version=version, columns=columns))
    return Drawn(rows, len(rows))


def _rows_of(table: DeltaTable) -> int:
    """How many rows the table has by its log, which may not say: then more than anybody reads."""
    counts = pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist()
    return sum(n if n is not None else 2**62 for n in counts)


def _find_cut(table: DeltaTable, condition: str, *, key: Sequence[str], most: int) -> tuple[int, str | None]:
    """How many rows there are, and a condition that is true of at most so many of them; None if their keys are too few."""
    # a hash that every release and every library computes alike
    digits = f"md5(coalesce({', '.join(f'CAST({quoted(name)} AS VARCHAR)' for name in key)}))"
    counted = select(table, f"left({digits}, {_DIGITS}) AS cut, count(*) AS n", f"{condition} GROUP BY 1")
    groups = sorted((row["cut"], row["n"]) for batch in counted for row in batch.to_pylist())
    sums = list(itertools.accumulate(n for _, n in groups))
    total = sums[-1] if sums else 0
    if total <= most:
        return total, None
    taken = int(np.searchsorted(sums, most, side="right"))
    if not taken or sums[taken - 1] < _FEWEST * most:
        return total, None
    return total, f"{digits} < '{groups[taken][0]}'"


def _seen(batches: Iterable[pa.RecordBatch], n: int, see: See) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        see(batch, n)
        yield batch


def _flagged(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.drop_columns([_DRAWN]).cast(schema).filter(batch[_DRAWN])


def _evenly(batches: Iterable[pa.RecordBatch], schema: pa.Schema, n: int, most: int) -> Iterator[pa.RecordBatch]:
    """One row of each of `most` groups of consecutive rows, where in its group by a fixed random number.

    So what comes round in the table, such as the rows of the same few machines, is not met at the same place each time.
    """
    done = 0
    for batch in batches:
        end = done + batch.num_rows
        groups = np.arange(done * most // n, (end - 1) * most // n + 1, dtype=np.int64) if batch.num_rows else np.empty(0, np.int64)
        starts, ends = -(-groups * n // most), -(-(groups + 1) * n // most)
        places = starts + (_mixed(groups) % (ends - starts).astype(np.uint64)).astype(np.int64)
        yield batch.cast(schema).take(pa.array(places[(places >= done) & (places < end)] - done))
        done = end


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """A random number for each number, always the same one (Steele, Lea and Flood, SplitMix, 2014)."""
    with np.errstate(over="ignore"):
        mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
