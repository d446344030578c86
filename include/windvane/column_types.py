"""The few column types that Windvane stores, and the lossless ways between them.

pandas turns whole numbers into fractions as soon as one is missing, and a column of nothing has no type at all. So every
frame becomes an Arrow table of a few wide types here, and is fitted to the types that a table already has.
"""

from collections import Counter
from collections.abc import Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from windvane.errors import DataError

TIME = pa.timestamp("us", tz="UTC")
_STORED: dict[str, pa.DataType] = {
    str(kind): kind for kind in (pa.string(), pa.int64(), pa.float64(), pa.bool_(), TIME, pa.date32(), pa.binary(), pa.null())
}
_LOSSLESS = {("int64", "double"), ("double", "int64")}


def to_arrow(frame: pd.DataFrame | pa.Table, *, where: str) -> pa.Table:
    """Return the rows as an Arrow table of the stored types: string, int64, double, bool, timestamp (UTC), date, binary.

    Args:
        frame: Rows; the index of a DataFrame is dropped, NaN becomes null, a time without a zone is UTC.
        where: What an error message calls the rows.

    Raises:
        DataError: If a column occurs twice, has a name that is no text, or holds values of several or other types. Names that differ
            in upper and lower case only are the same one: Delta tables do not tell them apart.
    """
    names = list(frame.columns) if isinstance(frame, pd.DataFrame) else frame.column_names
    odd = [ascii(name)[:80] for name in names if not _is_name(name)]
    if odd:
        raise DataError(f"{where}: column names must be texts without NUL, got {', '.join(odd[:5])}; name every column")
    times = Counter(name.lower() for name in names)
    twice = [name for name in names if times[name.lower()] > 1]
    if twice:
        told = ", ".join(name[:80] for name in sorted(set(twice))[:5])
        raise DataError(f"{where}: columns occur more than once: {told} (upper and lower case are the same); rename or drop the doubles")
    columns = [_arrow_column(frame, name, where=where) for name in names]
    return pa.table(columns, names=names)


def _is_name(name: object) -> bool:
    """Whether a table can have a column of this name; Arrow would cut it at a NUL."""
    return isinstance(name, str) and name != "" and "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)


def _arrow_column(frame: pd.DataFrame | pa.Table, name: str, *, where: str) -> pa.ChunkedArray:
    try:
        if isinstance(frame, pd.DataFrame):
            series = frame[name].astype("object") if frame.empty and frame[name].dtype.kind == "O" else frame[name]
            made = pa.Array.from_pandas(series)
            column = made if isinstance(made, pa.ChunkedArray) else pa.chunked_array([made])
        else:
            column = frame[name]
        kind = stored_type(column.type)
        column = column.cast(kind, safe=kind != TIME)  # finer times than a microsecond are cut
        return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column) if kind == pa.float64() else column
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as exc:
        problem = str(exc) if isinstance(exc, _UnstorableType) else "its values have several types, or do not fit their type"
        raise DataError(
            f"{where}: column '{name}': {problem}; allowed are text, whole numbers, fractions, booleans, times and dates"
        ) from exc


class _UnstorableType(TypeError):
    """The column has a type that is not stored, such as a list."""


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type in which values of a type are stored.

    Raises:
        TypeError: If they are not stored.
    """
    if pa.types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_timestamp(kind):
        return TIME
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return kind
    raise _UnstorableType(f"has the type {kind}")


def type_names(schema: pa.Schema) -> dict[str, str]:
    """Column name to the name of its stored type, such as `double`."""
    return {field.name: str(field.type) for field in schema}


def fit_columns(table: pa.Table, known: Mapping[str, str]) -> tuple[pa.Table, dict[str, str]]:
    """Cast columns to the types that are known for them, as far as no value changes.

    A whole number may become the equal fraction and back, and a column of nulls becomes anything.

    Args:
        table: Rows as `to_arrow` makes them.
        known: Column name to type name; columns that are not in it stay as they are.

    Returns:
        The table, and the columns that do not fit: their names and what is wrong, in words.
    """
    problems: dict[str, str] = {}
    for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        got, wanted = str(column.type), known.get(name)
        if wanted is None or got == wanted:
            continue
        if wanted in _STORED and (got == "null" or (got, wanted) in _LOSSLESS):
            try:
                table = table.set_column(place, name, pc.cast(column, _STORED[wanted], safe=True))
                continue
            except pa.ArrowInvalid:
                problems[name] = f"was {wanted} and now holds values that are not (it reads as {got})"
                continue
        problems[name] = f"was {wanted} and is now {got}"
    return table, problems
