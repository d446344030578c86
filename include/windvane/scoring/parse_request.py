"""Turns the bytes of a scoring request into a frame with the model's columns, or says exactly what is wrong with them.

It speaks MLflow's protocol: `dataframe_split`, `dataframe_records`, `instances` and `inputs` in JSON, and CSV. Every column
of the model's signature must be there (null where it may be unknown), so that a misspelt name never becomes a missing
value in silence; other columns are ignored, as MLflow does. Messages never repeat values, only their kind.
"""

import csv
import difflib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from windvane.scoring.convert_values import convert_column, describe
from windvane.scoring.request_error import RequestError
from windvane.signature import Column, columns_from_json

MAX_BODY_BYTES = 10_000_000
MAX_ROWS = 10_000
MAX_COLUMNS = 10_000

_FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_Table = tuple[list[str], dict[str, list[Any]], int]


@dataclass(frozen=True)
class Layout:
    """What requests for a model look like.

    Attributes:
        columns: The model's signature, in order.
        id: Column that identifies a row, logged and never a feature.
        time: Column with the row's own time, logged; it may be in the signature, too.
    """

    columns: tuple[Column, ...]
    id: str | None
    time: str | None

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Layout":
        """Read the layout from a bundle's manifest."""
        return cls(columns=columns_from_json(manifest["signature"]), id=manifest.get("id"), time=manifest.get("time"))


@dataclass(frozen=True)
class Request:
    """A request that can be scored.

    Attributes:
        frame: The columns of the signature, one row per row of the request.
        ids: The id of each row as text, None where there is none.
        times: The time of each row in UTC, None where there is none.
    """

    frame: pd.DataFrame
    ids: list[str | None]
    times: list[datetime | None]


def parse_request(body: bytes, content_type: str | None, layout: Layout) -> Request:
    """Read the body of a request.

    Args:
        body: At most MAX_BODY_BYTES, as they came.
        content_type: The Content-Type header.

    Raises:
        RequestError: With the status 400, 413 or 415 and what is wrong where.
    """
    kind = _media_type(content_type)
    if len(body) > MAX_BODY_BYTES:
        raise RequestError(413, f"body: got {len(body)} bytes, allowed are {MAX_BODY_BYTES}; send fewer rows per request")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RequestError(400, f"body: not valid UTF-8 at byte {exc.start}") from exc
    names, values, rows = _read_csv(text) if kind == "text/csv" else _read_json(text, layout)
    if rows == 0:
        raise RequestError(400, f"body: got no rows, allowed are 1 to {MAX_ROWS}")
    if rows > MAX_ROWS:
        raise RequestError(413, f"body: got {rows} rows, allowed are {MAX_ROWS}; send fewer rows per request")
    from_text = kind == "text/csv"
    _check_names(names, layout)
    columns = {
        c.name: convert_column(values[c.name], c.name, type_name=c.type, nullable=c.nullable, from_text=from_text) for c in layout.columns
    }
    return Request(
        frame=pd.DataFrame(columns, copy=False) if columns else pd.DataFrame(index=range(rows)),
        ids=_ids(values.get(layout.id) if layout.id else None, layout.id, rows=rows),
        times=_times(values, columns, layout, rows=rows, from_text=from_text),
    )


def _media_type(content_type: str | None) -> str:
    allowed = "allowed are application/json and text/csv, in UTF-8"
    if not content_type:
        raise RequestError(415, f"Content-Type: is missing, {allowed}")
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind not in ("application/json", "text/csv"):
        raise RequestError(415, f"Content-Type: got another media type, {allowed}")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name != "charset" or value.strip('"') not in ("utf-8", "utf8"):
            raise RequestError(415, f"Content-Type: got a parameter other than charset=utf-8, {allowed}")
    return kind


class _NotJson(float):
    """NaN or infinity, which JSON does not have; kept until row and field are known."""


def _read_json(text: str, layout: Layout) -> _Table:
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_NotJson)
    except RecursionError as exc:
        raise RequestError(400, "body: JSON is nested too deeply; rows are flat") from exc
    except json.JSONDecodeError as exc:
        raise RequestError(400, f"body: not valid JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}") from exc
    except ValueError as exc:
        # the JSON decoder refuses integers of more digits than Python reads
        raise RequestError(400, "body: JSON holds an integer with too many digits; allowed are 64-bit integers") from exc
    allowed = f"allowed is an object with exactly one of {', '.join(_FORMATS)}"
    if not isinstance(document, dict):
        raise RequestError(400, f"body: got {describe(document)}, {allowed}")
    found = [name for name in _FORMATS if name in document]
    unknown = [name for name in document if name not in (*_FORMATS, "params")]
    if len(found) != 1 or unknown:
        raise RequestError(400, f"body: got the fields {_names([*found, *unknown])}, {allowed}")
    if document.get("params"):
        raise RequestError(400, "params: got parameters, this model takes none; leave params out")
    return _READERS[found[0]](document[found[0]], found[0], layout)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestError(400, f"body: the field {_twice([name for name, _ in pairs])} appears twice in one object; allowed is once")
    return found


def _read_split(value: Any, where: str, layout: Layout) -> _Table:
    if not isinstance(value, dict) or not {"columns", "data"} <= set(value) <= {"columns", "data", "index"}:
        raise RequestError(400, f"{where}: got {describe(value)}, allowed is an object with columns, data and, if wanted, index")
    names = value["columns"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(400, f"{where}.columns: got {describe(names)}, allowed is a list of column names")
    return _from_lists(value["data"], names, f"{where}.data")


def _read_records(value: Any, where: str, _layout: Layout) -> _Table:
    if not isinstance(value, list):
        raise RequestError(400, f"{where}: got {describe(value)}, allowed is a list of rows, each an object")
    _check_row_count(len(value))
    if not value:
        return [], {}, 0
    names = list(value[0]) if isinstance(value[0], dict) else []
    for number, row in enumerate(value):
        if not isinstance(row, dict):
            raise RequestError(400, f"{where}: row {number}: got {describe(row)}, allowed is an object of column and value")
        if len(row) != len(names) or not all(name in row for name in names):
            odd = sorted(set(row) ^ set(names))
            raise RequestError(
                400, f"{where}: row {number}: its fields differ from row 0's by {_names(odd)}; send null for an unknown value"
            )
    return names, {name: [row[name] for row in value] for name in names}, len(value)


def _read_rows(value: Any, where: str, layout: Layout) -> _Table:
    """Rows as objects, or as lists in the order of the signature."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return _from_lists(value, [column.name for column in layout.columns], where)
    return _read_records(value, where, layout)


def _read_inputs(value: Any, where: str, layout: Layout) -> _Table:
    """An object of columns, each a list or one value; or rows."""
    if not isinstance(value, dict):
        return _read_rows(value, where, layout)
    columns = {name: item if isinstance(item, list) else [item] for name, item in value.items()}
    lengths = {name: len(items) for name, items in columns.items()}
    rows = next(iter(lengths.values()), 0)
    for name, length in lengths.items():
        if length != rows:
            raise RequestError(400, f"{where}.{_quoted(name)}: got {length} values, allowed are {rows}, as in the first column")
    return list(columns), columns, rows


_READERS: dict[str, Callable[[Any, str, Layout], _Table]] = {
    "dataframe_split": _read_split,
    "dataframe_records": _read_records,
    "instances": _read_rows,
    "inputs": _read_inputs,
}


def _from_lists(data: Any, names: list[str], where: str) -> _Table:
    if len(set(names)) != len(names):
        raise RequestError(400, f"{where}: the column {_twice(names)} appears twice; allowed is once")
    if not isinstance(data, list):
        raise RequestError(400, f"{where}: got {describe(data)}, allowed is a list of rows, each a list of {len(names)} values")
    _check_row_count(len(data))
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            got = f"{len(row)} values" if isinstance(row, list) else describe(row)
            raise RequestError(400, f"{where}: row {number}: got {got}, allowed is a list of {len(names)} values: {_names(names)}")
    return names, dict(zip(names, map(list, zip(*data, strict=True)), strict=True)) if data else {}, len(data)


def _read_csv(text: str) -> _Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader, [])
        rows: list[list[str]] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise RequestError(400, f"csv: row {len(rows)}: got {len(row)} fields, the header has {len(names)}")
            rows.append(row)
            _check_row_count(len(rows))
    except csv.Error as exc:
        raise RequestError(400, f"csv: line {reader.line_num}: {exc}") from exc
    if not names:
        raise RequestError(400, "csv: is empty, allowed is a header line and one line per row")
    return _from_lists([[field or None for field in row] for row in rows], names, "csv")


def _check_row_count(rows: int) -> None:
    if rows > MAX_ROWS:
        raise RequestError(413, f"body: got {rows} rows or more, allowed are {MAX_ROWS}; send fewer rows per request")


def _check_names(names: Sequence[str], layout: Layout) -> None:
    if len(names) > MAX_COLUMNS:
        raise RequestError(400, f"body: got {len(names)} columns, allowed are {MAX_COLUMNS}")
    given = set(names)
    missing = [column.name for column in layout.columns if column.name not in given]
    if not missing:
        return
    expected = {column.name for column in layout.columns}
    close = difflib.get_close_matches(missing[0], [name[:250] for name in names[:1000] if name not in expected], n=1)
    hint = f" - is it the one sent as {_quoted(close[0])}?" if close else ""
    raise RequestError(
        400, f"row 0: missing fields: {_names(missing)}{hint}; send every field of the model, null where its value is unknown"
    )


def _ids(values: list[Any] | None, name: str | None, *, rows: int) -> list[str | None]:
    if values is None:
        return [None] * rows
    for number, value in enumerate(values):
        if value is not None and (not isinstance(value, str | int) or isinstance(value, bool) or len(str(value)) > 250):
            raise RequestError(
                400, f"row {number}: {name}: got {describe(value)}, allowed is a text of at most 250 characters or an integer"
            )
    texts = [None if value is None else str(value) for value in values]
    return convert_column(texts, str(name), type_name="string", nullable=True).tolist()


def _times(
    values: Mapping[str, list[Any]], columns: Mapping[str, Any], layout: Layout, *, rows: int, from_text: bool
) -> list[datetime | None]:
    if layout.time is None or layout.time not in values:
        return [None] * rows
    types = {column.name: column.type for column in layout.columns}
    if types.get(layout.time) == "datetime":
        moments = columns[layout.time]
    elif layout.time in types:
        return [None] * rows
    else:
        moments = convert_column(values[layout.time], layout.time, type_name="datetime", nullable=True, from_text=from_text)
    return [None if pd.isna(moment) else moment.to_pydatetime().astimezone(UTC) for moment in moments]


def _twice(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next((_quoted(name) for name in names if name in seen or seen.add(name)), "?")  # type: ignore[func-returns-value]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(map(_quoted, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "none"


def _quoted(name: str) -> str:
    """A name as a client wrote it: short, printable, on one line."""
    return ascii(name[:80])
