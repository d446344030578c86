"""Turns scored rows into the columns of a log segment."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, NamedTuple

import numpy as np
import orjson
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
        datetimes: Names of the columns that hold microseconds since 1970, UTC, or datetime64[us].
        times: Like the values of such a column.
        predictions: A label or value per row.
        scores: Probability of the positive class, or the value of a regression; None where there is no such number.
        probabilities: Shape (rows, classes), kept for more than two classes only.
    """

    version: int
    digest: str
    requests: Sequence[LoggedRequest]
    size: int
    columns: Mapping[str, Values]
    datetimes: Collection[str]
    ids: list[str | None]
    times: Values
    predictions: list[Any]
    scores: list[float] | None
    probabilities: np.ndarray | None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.predictions)


def encode_rows(batch: Sequence[ScoredRows], segment: str) -> pa.RecordBatch:
    """The rows in the form of `SCHEMA`, for the segment of that name."""
    requests = [request for scored in batch for request in scored.requests]
    per_request = np.array([request.rows for request in requests])
    per_batch = np.array([scored.rows for scored in batch])
    total = int(per_batch.sum())
    starts = np.cumsum(per_request) - per_request
    columns: dict[str, pa.Array] = {
        "segment": _repeated([segment], [total]),
        "request_id": _repeated([request.request_id for request in requests], per_request),
        "row": _numbers(np.arange(total) - np.repeat(starts, per_request), pa.int64()),
        "received": _numbers(np.repeat(np.array([request.received for request in requests]), per_request), _MOMENT),
        "version": _numbers(np.repeat(np.array([scored.version for scored in batch]), per_batch), pa.int64()),
        "digest": _repeated([scored.digest for scored in batch], per_batch),
        "id": _texts(_joined(_encoded(scored.ids) for scored in batch)),
        "time": _times([scored.times for scored in batch]),
        "features": _texts(_joined(_rows_as_json(scored) for scored in batch)),
        "prediction": _texts(_joined(_predictions(scored) for scored in batch)),
        "score": _nullable(_joined(_scores(scored) for scored in batch), pa.float64()),
        "probabilities": (
            _nothing(total)
            if all(scored.probabilities is None for scored in batch)
            else _texts(_joined(_probabilities(scored) for scored in batch))
        ),
        "milliseconds": _numbers(np.repeat(np.array([request.milliseconds for request in requests]), per_request), pa.float64()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _rows_as_json(scored: ScoredRows) -> list[bytes]:
    """A JSON object per row, put together from the JSON of each column's values: that is quicker than row by row."""
    if not scored.columns:
        return [b"{}"] * scored.rows
    parts: list[Iterable[bytes]] = []
    for number, (name, values) in enumerate(scored.columns.items()):
        before = (b"," if number else b"{") + orjson.dumps(name) + b":"
        if name in scored.datetimes:
            parts += repeat(before), _moments(values)
        elif isinstance(values, list) and isinstance(next((value for value in values if value is not None), None), str):
            texts = {value: before + orjson.dumps(value) for value in set(values)}
            parts.append(map(texts.__getitem__, values))
        else:
            parts += repeat(before), orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    return list(map(b"".join, zip(*parts, repeat(b"}", scored.rows), strict=False)))


def _moments(values: Values) -> list[bytes]:
    ticks, known = _ticks(values)
    texts = orjson.dumps(ticks.view("datetime64[us]"), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC)[1:-1].split(b",")
    return texts if known is None else [text if there else b"null" for text, there in zip(texts, known.tolist(), strict=True)]


def _ticks(values: Values) -> tuple[np.ndarray, np.ndarray | None]:
    """Microseconds since 1970, 0 for null; and which are known, None for all."""
    if isinstance(values, list):
        nulls = None in values
        known = np.array([value is not None for value in values]) if nulls else None
        return np.array([0 if value is None else value for value in values] if nulls else values, dtype="int64"), known
    unknown = np.isnat(values)
    ticks = values.view("int64")
    return (np.where(unknown, 0, ticks), ~unknown) if unknown.any() else (ticks, None)


def _times(parts: list[Values]) -> pa.Array:
    ticks, known = zip(*map(_ticks, parts), strict=True)
    if all(one is None for one in known):
        return _numbers(np.concatenate(ticks), _MOMENT)
    there = [np.ones(len(values), dtype=bool) if one is None else one for values, one in zip(ticks, known, strict=True)]
    return _numbers(np.concatenate(ticks), _MOMENT, np.concatenate(there))


def _predictions(scored: ScoredRows) -> Iterable[bytes]:
    texts = {value: str(value).encode() for value in set(scored.predictions)}
    return map(texts.__getitem__, scored.predictions)


def _encoded(texts: Sequence[str | None]) -> Sequence[bytes | None]:
    try:
        return list(map(str.encode, texts))  # type: ignore[arg-type]
    except TypeError:
        return [None if text is None else text.encode() for text in texts]


def _scores(scored: ScoredRows) -> Sequence[float | None]:
    return [None] * scored.rows if scored.scores is None else scored.scores


def _probabilities(scored: ScoredRows) -> list[bytes | None]:
    if scored.probabilities is None:
        return [None] * scored.rows
    return [orjson.dumps(row) for row in scored.probabilities.tolist()]


# Arrow arrays are made from their buffers: Arrow's own ways from lists and NumPy import pandas, which costs memory and time


def _numbers(values: np.ndarray, kind: pa.DataType, known: np.ndarray | None = None) -> pa.Array:
    bits = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    data = np.ascontiguousarray(values, dtype="float64" if kind == pa.float64() else "int64")
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(data)])


def _nullable(values: list[Any], kind: pa.DataType) -> pa.Array:
    if None not in values:
        return _numbers(np.array(values), kind)
    return _numbers(np.array([0 if value is None else value for value in values]), kind, np.array([value is not None for value in values]))


def _texts(values: list[Any]) -> pa.Array:
    """Texts as UTF-8, None for null."""
    n, nulls = len(values), values.count(None)
    known = pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little")) if nulls else None
    present = [value or b"" for value in values] if nulls else values
    return pa.StringArray.from_buffers(n, _ends(np.fromiter(map(len, present), "int32", n)), pa.py_buffer(b"".join(present)), known, nulls)


def _nothing(n: int) -> pa.Array:
    """Null, n times."""
    known, ends = pa.py_buffer(bytes(-(-n // 8))), pa.py_buffer(bytes(4 * (n + 1)))
    return pa.StringArray.from_buffers(n, ends, pa.py_buffer(b""), known, n)


def _repeated(texts: list[str], times: Any) -> pa.Array:
    parts = [text.encode() for text in texts]
    lengths = np.repeat(np.array([len(part) for part in parts]), times)
    data = b"".join([part * int(number) for part, number in zip(parts, times, strict=True)])
    return pa.StringArray.from_buffers(len(lengths), _ends(lengths), pa.py_buffer(data))


def _ends(lengths: np.ndarray) -> pa.Buffer:
    ends = np.zeros(len(lengths) + 1, dtype="int32")
    np.cumsum(lengths, out=ends[1:])
    return pa.py_buffer(ends)


def _joined(parts: Iterable[Iterable[Any]]) -> list[Any]:
    return list(chain.from_iterable(parts))
