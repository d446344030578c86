"""Writes rows as the JSON objects that the request log holds and that a request is made of."""

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from windvane.signature import Column

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = pa.timestamp("us", tz="UTC")


def encode_rows(rows: pa.Table, columns: Sequence[Column]) -> list[str]:
    """A JSON object of the columns for each row; NaN is null.

    Args:
        rows: Has the columns, in the types of their signature.
    """
    values = {c.name: [_AS_JSON[c.type](value) if _known(value) else None for value in _column(rows, c)] for c in columns}
    return [json.dumps(dict(zip(values, row, strict=True)), allow_nan=False) for row in zip(*values.values(), strict=True)]


def _column(rows: pa.Table, column: Column) -> list[Any]:
    found = rows[column.name]
    # as whole numbers: pyarrow brings in pandas to make datetimes
    values: list[Any] = (found.cast(_MOMENT).cast(pa.int64()) if column.type == "datetime" else found).to_pylist()
    return values


def _moment(microseconds: int) -> str:
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat()


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


_AS_JSON: dict[str, Callable[[Any], Any]] = {
    "string": str,
    "double": float,
    "long": int,
    "boolean": bool,
    "datetime": _moment,
}
