"""Brings Arrow columns into the form that predictors read, without pandas where the types agree."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from windvane.column_types import TIME
from windvane.errors import DataError
from windvane.signature import Column, ColumnType, arrays_of, conform


def conform_batch(batch: pa.RecordBatch, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The columns of a signature, as `signature.arrays_of` returns them for the conformed frame of the same rows.

    Equal texts become one Python object, so that few distinct ones cost little.

    Raises:
        DataError: If a column is missing or cannot be turned into its type.
    """
    missing = [column.name for column in columns if column.name not in batch.schema.names]
    if missing:
        raise DataError(f"input: lost columns {missing[:10]}; restore them")
    return {column.name: _conform(batch[column.name], column) for column in columns}


def _conform(values: pa.Array, column: Column) -> np.ndarray:
    fast = _FAST[column.type](values, column)
    if fast is not None:
        return fast
    plain = values.dictionary_decode() if kinds.is_dictionary(values.type) else values
    rows = pa.table({column.name: plain}).to_pandas()
    return arrays_of(conform(rows, [column]), [column])[column.name]


def _text(values: pa.Array, column: Column) -> np.ndarray | None:
    kind = values.type.value_type if kinds.is_dictionary(values.type) else values.type
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)):
        return None
    coded = values if kinds.is_dictionary(values.type) else values.dictionary_encode()
    known = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    texts: np.ndarray = known[coded.indices.fill_null(len(known) - 1).to_numpy()]
    return texts


def _double(values: pa.Array, column: Column) -> np.ndarray | None:
    return _array(values.cast(pa.float64(), safe=False)) if values.type in (pa.float64(), pa.int64()) else None


def _long(values: pa.Array, column: Column) -> np.ndarray | None:
    return _array(values) if values.type == pa.int64() and not values.null_count else None


def _boolean(values: pa.Array, column: Column) -> np.ndarray | None:
    if values.type != pa.bool_() or (values.null_count and not column.nullable):
        return None
    return _array(values.cast(pa.int8()).cast(pa.float64()) if column.nullable else values)


def _datetime(values: pa.Array, column: Column) -> np.ndarray | None:
    # the smallest integer is NumPy's NaT
    return _array(values.cast(pa.int64()).fill_null(np.iinfo(np.int64).min)).view("M8[us]") if values.type == TIME else None


def _array(values: pa.Array) -> np.ndarray:
    made: np.ndarray = values.to_numpy(zero_copy_only=False)
    return made


_FAST: dict[ColumnType, Callable[[pa.Array, Column], np.ndarray | None]] = {
    "string": _text,
    "double": _double,
    "long": _long,
    "boolean": _boolean,
    "datetime": _datetime,
}
