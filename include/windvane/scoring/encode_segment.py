"""Turns scored rows into the columns of a log segment, which `collect_predictions.read_segment` turns into rows of `SCHEMA`.

A segment holds the inputs as they are, a column for each column of the model: to write them as JSON costs as much as to score them.
What is the same for all rows of a request is there once. Rows of versions with other columns are in other structs of the same file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

Values = list[Any] | np.ndarray
_MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("segment", pa.string()),
        ("request_id", pa.string()),
        ("row", pa.int64()),
        ("received", _MOMENT),
        ("version", pa.int64()),
        ("digest", pa.string()),
        ("id", pa.string()),
        ("time", _MOMENT),
        ("features", pa.string()),
        ("prediction", pa.string()),
        ("score", pa.float64()),
        ("probabilities", pa.string()),
        ("milliseconds", pa.float64()),
    ]
)
# a file with this in its schema has columns of inputs in place of `segment`, `row` and `features`
COLUMNAR = {b"windvane.segment": b"columns"}
INPUTS = "inputs_"
_CHANCES = pa.list_(pa.float64())
_KINDS = {"double": pa.float64(), "long": pa.int64(), "datetime": _MOMENT, "boolean": pa.bool_(), "string": pa.string()}
_REPEATED = {"request_id": pa.string(), "received": _MOMENT, "version": pa.int64(), "digest": pa.string(), "milliseconds": pa.float64()}
_EACH = {"id": pa.string(), "time": _MOMENT, "score": pa.float64(), "probabilities": _CHANCES}


class LoggedRequest(NamedTuple):
    """One answered request.

    Attributes:
        received: When it came, in microseconds since 1970, UTC.
        rows: How many rows it had.
        milliseconds: From its complete body to its encoded answer.
    """

    request_id: str
    received: int
    rows: int
    milliseconds: float


@dataclass(frozen=True)
class ScoredRows:
    """The rows of one or more answered requests that were scored together.

    Attributes:
        requests: The requests that they came in, in the order of the rows.
        size: Bytes of those requests: about what the rows hold in memory.
        columns: The input columns, one value per row, None for null; or arrays, with NaN and NaT for null.
        types: The type of each column in the signature. A datetime is in microseconds since 1970, UTC, or datetime64[us].
        times: Like the values of a column of datetimes.
        predictions: A label or value per row.
        scores: Probability of the positive class, or the value of a regression; None where there is no such number.
        probabilities: Shape (rows, classes), kept for more than two classes only.
        arrays: `predictions` and `scores` as arrays, where they are there: quicker to log, and never changed by anybody.
    """

    version: int
    digest: str
    requests: Sequence[LoggedRequest]
    size: int
    columns: Mapping[str, Values]
    types: Mapping[str, str]
    ids: list[str | None]
    times: Values
    predictions: list[Any]
    scores: list[float] | None
    probabilities: np.ndarray | None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.predictions)


def encode_rows(batch: Sequence[ScoredRows]) -> list[pa.RecordBatch]:
    """The rows in the form that `join_batches` takes; a batch has rows of one version and of one layout."""
    return [_encode(list(alike)) for _, alike in groupby(batch, _layout)]


def join_batches(batches: Sequence[pa.RecordBatch]) -> pa.Buffer:
    """The bytes of a segment: an Arrow file. What is null in all rows takes no room."""
    layouts = list(dict.fromkeys(kind for batch in batches if (kind := _inputs(batch)) is not None))
    columns: dict[str, pa.DataType] = {name: pa.run_end_encoded(pa.int32(), kind) for name, kind in _REPEATED.items()}
    for name, kind in _EACH.items():
        columns[name] = kind if any(batch.schema.field(name).type == kind for batch in batches) else pa.null()
    predictions = {batch.schema.field("prediction").type for batch in batches}
    columns["prediction"] = predictions.pop() if len(predictions) == 1 else pa.string()
    columns |= {f"{INPUTS}{number}": kind for number, kind in enumerate(layouts)}
    schema = pa.schema(list(columns.items()), metadata=COLUMNAR)
    # in memory first: a Python file would be called for every buffer of every column
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            place = f"{INPUTS}{layouts.index(kind)}" if (kind := _inputs(batch)) is not None else None
            arrays = [_as(batch, INPUTS if name == place else name, kind) for name, kind in columns.items()]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return sink.getvalue()


def _inputs(batch: pa.RecordBatch) -> pa.DataType | None:
    """The type of the struct of inputs; None for a model without any."""
    place = batch.schema.get_field_index(INPUTS)
    return batch.schema.field(place).type if place >= 0 else None


def _as(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    place = batch.schema.get_field_index(name)
    if place < 0:
        return pa.nulls(batch.num_rows, kind)
    column = batch.column(place)
    if column.type == kind:
        return column
    # predictions of versions with other labels are texts, as all are in the end
    return _texts([str(value) for value in column.to_pylist()]) if name == "prediction" else pa.nulls(batch.num_rows, kind)


def _layout(scored: ScoredRows) -> tuple[Any, ...]:
    """Equal for what can be one batch."""
    columns = tuple((name, scored.types[name]) for name in scored.columns)
    classes = None if scored.probabilities is None else scored.probabilities.shape[1]
    kind = scored.arrays["predictions"].dtype.kind if "predictions" in scored.arrays else None
    return scored.version, scored.digest, columns, classes, scored.scores is None, kind


def _encode(parts: Sequence[ScoredRows]) -> pa.RecordBatch:
    first = parts[0]
    requests = [request for scored in parts for request in scored.requests]
    ends = np.cumsum([request.rows for request in requests])
    total = sum(scored.rows for scored in parts)
    columns: dict[str, pa.Array] = {
        "request_id": _runs(ends, _texts([request.request_id for request in requests])),
        "received": _runs(ends, _numbers(np.array([request.received for request in requests]), _MOMENT)),
        "version": _runs([total], _numbers(np.array([first.version]), pa.int64())),
        "digest": _runs([total], _texts([first.digest])),
        "milliseconds": _runs(ends, _numbers(np.array([request.milliseconds for request in requests]), pa.float64())),
        "id": _texts(_joined([scored.ids for scored in parts])),
        "time": _column([scored.times for scored in parts], "datetime"),
        "prediction": _predictions(parts),
        "score": pa.nulls(total) if first.scores is None else _column([_scores(scored) for scored in parts], "double"),
        "probabilities": pa.nulls(total) if first.probabilities is None else _chances([scored.probabilities for scored in parts]),
    }
    if first.columns:
        inputs = {name: _column([scored.columns[name] for scored in parts], first.types[name]) for name in first.columns}
        arrays = [
            values if values.type == (kind := _KINDS[first.types[name]]) else pa.nulls(total, kind) for name, values in inputs.items()
        ]
        fields = [pa.field(name, values.type) for name, values in zip(inputs, arrays, strict=True)]
        columns[INPUTS] = pa.StructArray.from_arrays(arrays, fields=fields)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _predictions(parts: Sequence[ScoredRows]) -> pa.Array:
    """As numbers where they are, which is quicker; else as texts."""
    kinds = {"f": pa.float64(), "i": pa.int64()}
    arrays = [scored.arrays["predictions"] for scored in parts if "predictions" in scored.arrays]
    if len(arrays) == len(parts) and arrays[0].dtype.kind in kinds:
        return _numbers(_concatenated(arrays), kinds[arrays[0].dtype.kind])
    values = _joined([scored.predictions for scored in parts])
    texts = {value: str(value) for value in set(values)}
    return _texts(list(map(texts.__getitem__, values)))


def _scores(scored: ScoredRows) -> Values:
    return scored.arrays.get("scores", scored.scores or [])


def _chances(parts: Sequence[Any]) -> pa.Array:
    chances = _concatenated(parts)
    n, classes = chances.shape
    ends = pa.py_buffer(np.arange(0, (n + 1) * classes, classes, dtype="int32"))
    return pa.Array.from_buffers(_CHANCES, n, [None, ends], children=[_numbers(chances.reshape(-1), pa.float64())])


# Arrow arrays are made from their buffers: Arrow's own ways from lists and NumPy import pandas, which costs memory and time


def _column(parts: Sequence[Values], kind: str) -> pa.Array:
    """A column of a type of the signature; of the type null if it has no value."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) < len(parts):
        return _from_list(_joined([part.tolist() if isinstance(part, np.ndarray) else part for part in _as_ticks(parts)]), kind)
    values = _concatenated(arrays)
    if kind != "datetime":
        return _numbers(values, _KINDS[kind])
    unknown = np.isnat(values)
    return _numbers(values.view("int64"), _MOMENT, ~unknown if unknown.any() else None)


def _from_list(values: list[Any], kind: str) -> pa.Array:
    if kind == "string":
        return _texts(values)
    nulls = values.count(None)
    if nulls == len(values):
        return pa.nulls(nulls)
    known = np.array([value is not None for value in values]) if nulls else None
    present = [0 if value is None else value for value in values] if nulls else values
    if kind == "boolean":
        bits = pa.py_buffer(np.packbits(np.array(present, dtype=bool), bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(values), [_bits(known), bits])
    return _numbers(np.array(present, dtype="float64" if kind == "double" else "int64"), _KINDS[kind], known)


def _as_ticks(parts: Sequence[Values]) -> Iterable[Values]:
    """Arrays of moments as lists with None for NaT, for the few that meet lists."""
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind == "M":
            yield [None if missing else tick for tick, missing in zip(part.view("int64").tolist(), np.isnat(part).tolist(), strict=True)]
        else:
            yield part


def _numbers(values: np.ndarray, kind: pa.DataType, known: np.ndarray | None = None) -> pa.Array:
    data = np.ascontiguousarray(values, dtype="float64" if kind == pa.float64() else "int64")
    return pa.Array.from_buffers(kind, len(values), [_bits(known), pa.py_buffer(data)])


def _texts(values: list[Any]) -> pa.Array:
    """Texts, None for null; of the type null if it has no text."""
    n, known = len(values), None
    try:
        apart = "\0".join(values)
    except TypeError:
        known = np.array([value is not None for value in values])
        if not known.any():
            return pa.nulls(n)
        values = [value or "" for value in values]
        apart = "\0".join(values)
    # in UTF-8 the byte 0 is the character 0 and no part of another, so where each text ends is found in one go
    places = np.flatnonzero(np.frombuffer(apart.encode(), dtype="u1") == 0)
    data = "".join(values).encode()
    ends = np.zeros(n + 1, dtype="int32")
    if len(places) == n - 1:
        ends[1:-1], ends[-1] = places - np.arange(n - 1), len(data)
    else:
        np.cumsum([len(value.encode()) for value in values], out=ends[1:])
    return pa.StringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(data), _bits(known))


def _runs(ends: Any, values: pa.Array) -> pa.Array:
    """Each value up to its end."""
    data = np.array(ends, dtype="int32")
    children = [pa.Array.from_buffers(pa.int32(), len(data), [None, pa.py_buffer(data)]), values]
    return pa.Array.from_buffers(pa.run_end_encoded(pa.int32(), values.type), int(data[-1]), [None], children=children)


def _bits(known: np.ndarray | None) -> pa.Buffer | None:
    return None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _joined(parts: Sequence[list[Any]]) -> list[Any]:
    return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
