"""The input columns of a model: which ones it reads, of what type, and how a frame is brought into that form.

Training, gates, monitoring and serving all pass through `conform`, so that they cannot differ.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windvane.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

ColumnType = Literal["string", "double", "long", "boolean", "datetime"]

_OBJECT_TYPES: dict[str, ColumnType] = {
    "boolean": "boolean",
    "date": "datetime",
    "datetime": "datetime",
    "datetime64": "datetime",
    "decimal": "double",
    "floating": "double",
    "integer": "double",
    "mixed-integer-float": "double",
}
_PROBE_ROWS = 512


@dataclass(frozen=True)
class Column:
    """One input column; a nullable boolean reaches the model's code as 1.0, 0.0 and NaN."""

    name: str
    type: ColumnType
    nullable: bool

    def as_json(self) -> dict[str, Any]:
        """The form in which `bundle.json` holds it."""
        return asdict(self)


def columns_from_json(columns: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Read what `Column.as_json` wrote."""
    return tuple(Column(name=c["name"], type=c["type"], nullable=bool(c["nullable"])) for c in columns)


def describe_columns(frame: "pd.DataFrame", *, exclude: Iterable[str | None]) -> tuple[Column, ...]:
    """Name and type every column of the frame except some (the id and the label).

    Raises:
        DataError: If a column has a type that no client could send.
    """
    hidden = set(exclude)
    return tuple(
        Column(name=str(name), type=_type_of(frame[name]), nullable=bool(frame[name].isna().any()))
        for name in frame.columns
        if name not in hidden
    )


def keep_used_columns(
    columns: Sequence[Column],
    frame: "pd.DataFrame",
    *,
    features: Callable[["pd.DataFrame"], "pd.DataFrame"],
    predict: Callable[["pd.DataFrame"], np.ndarray],
) -> tuple[Column, ...]:
    """Drop the columns that the model does not read, so that no client has to send them.

    A column is unused if without it the features are the same and the predictions are equal on a sample of the frame.

    Args:
        columns: All columns.
        frame: Rows in conformed form.
        features: The model file's `features`.
        predict: From features to predictions.
    """
    sample = frame[[c.name for c in columns]]
    sample = sample.iloc[:: max(1, len(sample) // _PROBE_ROWS)]
    used = list(columns)
    expected_features = features(sample.copy())
    expected = predict(expected_features)
    for column in columns:
        rest = sample[[c.name for c in used if c is not column]]
        if rest.shape[1] and _same_without(column.name, rest, features, predict, expected_features, expected):
            used.remove(column)
    return tuple(used)


def _same_without(
    name: str,
    rest: "pd.DataFrame",
    features: Callable[["pd.DataFrame"], "pd.DataFrame"],
    predict: Callable[["pd.DataFrame"], np.ndarray],
    expected_features: "pd.DataFrame",
    expected: np.ndarray,
) -> bool:
    try:
        found = features(rest.copy())
        same = all(found[c].equals(expected_features[c]) for c in expected_features.columns if c != name)
        return same and np.array_equal(predict(found), expected)
    except Exception:  # noqa: BLE001 - the model's own code may raise anything when a column that it needs is gone: then it is used
        return False


def conform(frame: "pd.DataFrame", columns: Sequence[Column]) -> "pd.DataFrame":
    """Return the columns in their order and types; other columns are left out.

    Raises:
        DataError: If a column is missing or does not have, and cannot be turned into, its type.
    """
    missing = [c.name for c in columns if c.name not in frame.columns]
    if missing:
        raise DataError(f"input: lost columns {missing[:10]}, the model needs {[c.name for c in columns][:50]}; send or restore them")
    import pandas as pd

    made: dict[str, Any] = {}
    for column in columns:
        try:
            made[column.name] = _CASTS[column.type](frame[column.name], column)
        except (TypeError, ValueError, OverflowError) as exc:
            got = frame[column.name].dtype
            raise DataError(f"input: column '{column.name}': got {got}, which does not turn into {column.type}; restore its type") from exc
    return pd.DataFrame(made, index=frame.index)


def arrays_of(frame: "pd.DataFrame", columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The columns of a conformed frame as arrays.

    Returns:
        Arrays of shape (n,): string as object (str or None), double as float64 (NaN is null), long as int64, boolean as bool
        or, where nullable, float64, datetime as datetime64[us] in UTC without a zone (NaT is null).
    """
    return {c.name: (frame[c.name].dt.tz_localize(None) if c.type == "datetime" else frame[c.name]).to_numpy() for c in columns}


def frame_of(arrays: Mapping[str, np.ndarray], columns: Sequence[Column]) -> "pd.DataFrame":
    """The conformed frame of what `arrays_of` returns."""
    import pandas as pd

    made = {c.name: pd.DatetimeIndex(arrays[c.name], tz="UTC") if c.type == "datetime" else arrays[c.name] for c in columns}
    return pd.DataFrame(made, copy=False)


def _type_of(series: "pd.Series") -> ColumnType:
    import pandas as pd

    kinds = pd.api.types
    if kinds.is_bool_dtype(series.dtype):
        return "boolean"
    if kinds.is_integer_dtype(series.dtype):
        return "double" if series.isna().any() else "long"
    if kinds.is_float_dtype(series.dtype):
        return "double"
    if kinds.is_datetime64_any_dtype(series.dtype):
        return "datetime"
    if kinds.is_string_dtype(series.dtype) or series.dtype == object or isinstance(series.dtype, pd.CategoricalDtype):
        return _OBJECT_TYPES.get(kinds.infer_dtype(series, skipna=True), "string") if series.dtype == object else "string"
    raise DataError(f"column '{series.name}': type {series.dtype} is not supported; turn it into text, a number or a time in read()")


def _as_string(series: "pd.Series", column: Column) -> Any:
    import pandas as pd

    values = series.astype(object)
    known = series.notna()
    if pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty"):
        values = values.where(~known, values.astype(str))
    return values if known.all() else values.where(known, None)


def _as_double(series: "pd.Series", column: Column) -> Any:
    import pandas as pd

    return pd.to_numeric(series).astype("float64")


def _as_long(series: "pd.Series", column: Column) -> Any:
    import pandas as pd

    numbers = pd.to_numeric(series)
    whole = numbers.astype("int64")
    if not (whole == numbers).all():
        raise ValueError("not whole numbers")
    return whole


def _as_boolean(series: "pd.Series", column: Column) -> Any:
    return series.astype(object).where(series.notna(), np.nan).astype("float64") if column.nullable else series.astype(bool)


def _as_datetime(series: "pd.Series", column: Column) -> Any:
    import pandas as pd

    return pd.to_datetime(series, utc=True, format="ISO8601").dt.as_unit("us")


_CASTS: dict[str, Callable[["pd.Series", Column], Any]] = {
    "string": _as_string,
    "double": _as_double,
    "long": _as_long,
    "boolean": _as_boolean,
    "datetime": _as_datetime,
}
