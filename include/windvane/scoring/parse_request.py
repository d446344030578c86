"""Turns the bytes of a scoring request into the model's columns, or says exactly what is wrong with them.

It speaks MLflow's protocol: `dataframe_split`, `dataframe_records`, `instances` and `inputs` in JSON, and CSV. Every column
of the model's signature must be there (null where it may be unknown), so that a misspelt name never becomes a missing
value in silence; other columns are ignored, as MLflow does. Messages never repeat values, only their kind.
"""

import csv
import difflib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from windvane.scoring.convert_values import convert_column, describe
from windvane.scoring.read_json import quoted, read_json, show_names, twice
from windvane.scoring.request_error import RequestError
from windvane.signature import Column, columns_from_json

MAX_BODY_BYTES = 10_000_000
MAX_ROWS = 10_000
MAX_ID = 250

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_JSON, _CSV = "application/json", "text/csv"
Table = tuple[Sequence[str], Mapping[str, list[Any]], int]


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

    @property
    def datetimes(self) -> frozenset[str]:
        """The columns that hold times."""
        return frozenset(column.name for column in self.columns if column.type == "datetime")

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Layout":
        """Read the layout from a bundle's manifest."""
        return cls(columns=columns_from_json(manifest["signature"]), id=manifest.get("id"), time=manifest.get("time"))


class Request(NamedTuple):
    """A request that can be scored.

    Attributes:
        columns: The columns of the signature in its order, one value per row as `convert_column` returns them.
        rows: The number of rows.
        ids: The id of each row as text, None where there is none.
        times: The time of each row in microseconds since 1970, UTC, None where there is none.
    """

    columns: dict[str, list[Any]]
    rows: int
    ids: list[str | None]
    times: list[int | None]


def parse_request(body: bytes, content_type: str | None, layout: Layout) -> Request:
    """Read the body of a request of MLflow's protocol.

    Args:
        body: At most MAX_BODY_BYTES, as they came.
        content_type: The Content-Type header.

    Raises:
        RequestError: With the status 400, 413 or 415 and what is wrong where.
    """
    kind = _JSON if content_type == _JSON else _media_type(content_type)
    if len(body) > MAX_BODY_BYTES:
        raise RequestError(413, f"body: got {len(body)} bytes, allowed are {MAX_BODY_BYTES}; send fewer rows per request")
    check_parts(body, layout)
    table = _read_csv(body) if kind == _CSV else _read_document(body, layout)
    return make_request(table, layout, from_text=kind == _CSV)


def check_parts(body: bytes, layout: Layout) -> None:
    """Refuse a body of so many values, lists and objects that reading it would take far more memory than its bytes.

    Raises:
        RequestError: 413.
    """
    most = 2 * MAX_ROWS * (len(layout.columns) + 4)
    if len(body) > most and sum(map(body.count, (b",", b"[", b"{"))) > most:
        raise RequestError(413, f"body: got more than {most} values, lists and objects; send fewer rows per request")


def make_request(table: Table, layout: Layout, *, from_text: bool = False) -> Request:
    """Check the columns of a request against the model's and convert them.

    Raises:
        RequestError: 400 or 413.
    """
    names, values, rows = table
    if rows == 0:
        raise RequestError(400, f"body: got no rows, allowed are 1 to {MAX_ROWS}")
    check_row_count(rows)
    try:
        columns = {column.name: convert_column(values[column.name], column, from_text=from_text) for column in layout.columns}
    except KeyError:
        _refuse_names(names, layout)
        raise
    return Request(columns, rows, _ids(values, layout, rows), _times(values, columns, layout, rows=rows, from_text=from_text))


def _media_type(content_type: str | None) -> str:
    allowed = "allowed are application/json and text/csv, in UTF-8"
    if not content_type:
        raise RequestError(415, f"Content-Type: is missing, {allowed}")
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind not in (_JSON, _CSV):
        raise RequestError(415, f"Content-Type: got another media type, {allowed}")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name != "charset" or value.strip('"') not in ("utf-8", "utf8"):
            raise RequestError(415, f"Content-Type: got a parameter other than charset=utf-8, {allowed}")
    return kind


def _read_document(body: bytes, layout: Layout) -> Table:
    document = read_json(body)
    allowed = f"allowed is an object with exactly one of {', '.join(FORMATS)}"
    if not isinstance(document, dict):
        raise RequestError(400, f"body: got {describe(document)}, {allowed}")
    found = [name for name in FORMATS if name in document]
    if len(found) != 1 or (len(document) > 1 and set(document) != {found[0], "params"}):
        unknown = [name for name in document if name not in (*FORMATS, "params")]
        raise RequestError(400, f"body: got the fields {show_names([*found, *unknown])}, {allowed}")
    if document.get("params") not in (None, {}):
        raise RequestError(400, "params: got parameters, this model takes none; leave params out")
    return _READERS[found[0]](document[found[0]], found[0], layout)


def _read_split(value: Any, where: str, layout: Layout) -> Table:
    if not isinstance(value, dict) or not {"columns", "data"} <= set(value) <= {"columns", "data", "index"}:
        raise RequestError(400, f"{where}: got {describe(value)}, allowed is an object with columns, data and, if wanted, index")
    names = value["columns"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(400, f"{where}.columns: got {describe(names)}, allowed is a list of column names")
    return _from_lists(value["data"], names, f"{where}.data")


def _read_records(value: Any, where: str, layout: Layout) -> Table:
    if not isinstance(value, list):
        raise RequestError(400, f"{where}: got {describe(value)}, allowed is a list of rows, each an object")
    check_row_count(len(value))
    names = [column.name for column in layout.columns]
    try:
        values = {name: [row[name] for row in value] for name in names}
        values |= {name: [row.get(name) for row in value] for name in (layout.id, layout.time) if name and name not in values}
    except (KeyError, TypeError, IndexError, AttributeError):
        for number, row in enumerate(value):
            if not isinstance(row, dict):
                raise RequestError(400, f"{where}: row {number}: got {describe(row)}, allowed is an object of column and value") from None
            _refuse_names(list(row), layout, row=number)
        raise
    return names, values, len(value)


def _read_rows(value: Any, where: str, layout: Layout) -> Table:
    """Rows as objects, or as lists in the order of the signature."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return _from_lists(value, [column.name for column in layout.columns], where)
    return _read_records(value, where, layout)


def _read_inputs(value: Any, where: str, layout: Layout) -> Table:
    """An object of columns, each a list or one value; or rows."""
    if not isinstance(value, dict):
        return _read_rows(value, where, layout)
    columns = {name: item if isinstance(item, list) else [item] for name, item in value.items()}
    rows = len(next(iter(columns.values()), ()))
    for name, items in columns.items():
        if len(items) != rows:
            raise RequestError(400, f"{where}.{quoted(name)}: got {len(items)} values, allowed are {rows}, as in the first column")
    return list(columns), columns, rows


_READERS: dict[str, Callable[[Any, str, Layout], Table]] = {
    "dataframe_split": _read_split,
    "dataframe_records": _read_records,
    "instances": _read_rows,
    "inputs": _read_inputs,
}


def _from_lists(data: Any, names: list[str], where: str) -> Table:
    if len(set(names)) != len(names):
        raise RequestError(400, f"{where}: the column {twice(names)} appears twice; allowed is once")
    if not isinstance(data, list):
        raise RequestError(400, f"{where}: got {describe(data)}, allowed is a list of rows, each a list of {len(names)} values")
    check_row_count(len(data))
    width = len(names)
    if set(map(type, data)) - {list} or set(map(len, data)) - {width}:
        for number, row in enumerate(data):
            if not isinstance(row, list) or len(row) != width:
                got = f"{len(row)} values" if isinstance(row, list) else describe(row)
                raise RequestError(400, f"{where}: row {number}: got {got}, allowed is a list of {width} values: {show_names(names)}")
    values = list(chain.from_iterable(data))
    return names, {name: values[place::width] for place, name in enumerate(names)} if data else {}, len(data)


def _read_csv(body: bytes) -> Table:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RequestError(400, f"body: not valid UTF-8 at byte {exc.start}") from exc
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
            check_row_count(len(rows))
    except csv.Error as exc:
        raise RequestError(400, f"csv: line {reader.line_num}: {exc}") from exc
    if not names:
        raise RequestError(400, "csv: is empty, allowed is a header line and one line per row")
    return _from_lists([[field or None for field in row] for row in rows], names, "csv")


def check_row_count(rows: int) -> None:
    """Refuse too many rows with 413."""
    if rows > MAX_ROWS:
        raise RequestError(413, f"body: got {rows} rows or more, allowed are {MAX_ROWS}; send fewer rows per request")


def _refuse_names(names: Sequence[str], layout: Layout, *, row: int = 0) -> None:
    """Raise if a column of the signature is missing."""
    given = set(names)
    missing = [column.name for column in layout.columns if column.name not in given]
    if not missing:
        return
    expected = {column.name for column in layout.columns}
    close = difflib.get_close_matches(missing[0], [name[:250] for name in names[:1000] if name not in expected], n=1)
    hint = f" - is it the one sent as {quoted(close[0])}?" if close else ""
    raise RequestError(
        400, f"row {row}: missing fields: {show_names(missing)}{hint}; send every field of the model, null where its value is unknown"
    )


def _ids(values: Mapping[str, list[Any]], layout: Layout, rows: int) -> list[str | None]:
    if layout.id is None or layout.id not in values:
        return [None] * rows
    given = values[layout.id]
    kinds = set(map(type, given))
    if kinds == {str} and max(map(len, given)) <= MAX_ID:
        return convert_column(given, Column(layout.id, "string", True))
    for number, value in enumerate(given):
        if value is not None and (not isinstance(value, str | int) or isinstance(value, bool) or len(str(value)) > MAX_ID):
            raise RequestError(
                400, f"row {number}: {layout.id}: got {describe(value)}, allowed is a text of at most {MAX_ID} characters or an integer"
            )
    texts = [None if value is None else str(value) for value in given]
    return convert_column(texts, Column(layout.id, "string", True))


def _times(
    values: Mapping[str, list[Any]], columns: Mapping[str, list[Any]], layout: Layout, *, rows: int, from_text: bool
) -> list[int | None]:
    if layout.time is None or layout.time not in values:
        return [None] * rows
    types = {column.name: column.type for column in layout.columns}
    if layout.time in types:
        return columns[layout.time] if types[layout.time] == "datetime" else [None] * rows
    return convert_column(values[layout.time], Column(layout.time, "datetime", True), from_text=from_text)
