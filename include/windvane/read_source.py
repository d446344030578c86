"""Reads the rows of a window from the source that a config names: a function, files, a Delta table or a database."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from windvane.column_types import to_arrow
from windvane.config import CsvSource, DeltaSource, ModelConfig, ParquetSource, PythonSource, SqlSource
from windvane.errors import ConfigError, DataError, ModelCodeError, ServiceUnavailable, WindvaneError
from windvane.model_code import ModelCode
from windvane.store_files import read_parquet
from windvane.windows import Window

_log = logging.getLogger(__name__)

_NULLS = ["", "null", "NULL", "None", "nan", "NaN", "NA", "N/A", "#N/A", "<NA>"]
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", "~")


def read_source(
    config: ModelConfig, code: ModelCode, project: Path, *, window: Window, connection_uri: str | None
) -> tuple[pa.Table, bool]:
    """Read the rows that the source has for a window.

    Args:
        project: What relative paths in the config are relative to.
        connection_uri: Address with credentials, for `python` and `sql`.

    Returns:
        The rows, and whether the source may hold rows of other windows too (files do, a query does not).

    Raises:
        DataError: If the source is unreadable, cut in the middle, or does not exist.
        ServiceUnavailable: If a database or another service does not answer.
        ModelCodeError: If the model's `read` is missing or fails.
    """
    source = config.data.source
    if isinstance(source, PythonSource):
        return to_arrow(_call_read(code, window, connection_uri), where=f"{code.path}: read()"), False
    if isinstance(source, CsvSource):
        return _read_files(project, source.path, window, _read_csv), True
    if isinstance(source, ParquetSource):
        return _read_files(project, source.path, window, _read_parquet), True
    if isinstance(source, DeltaSource):
        return _read_delta(source, config.data.time, window), True
    return to_arrow(_query(source, window, connection_uri), where=f"data.source.query on connection '{source.connection}'"), False


def find_files(project: Path, template: str, window: Window) -> list[Path]:
    """The files that a path or glob of a config means for a window, sorted; hidden and unfinished ones are left out.

    Raises:
        ConfigError: If the path has a placeholder that is not one of the window's ends.
    """
    try:
        pattern = template.format(start=window.start, end=window.end)
    except (KeyError, IndexError, ValueError, AttributeError) as exc:
        raise ConfigError(
            [f"data.source.path: got {template!r}, allowed placeholders are {{start:%Y-%m}} and {{end:%Y-%m}} ({exc})"]
        ) from exc
    path = Path(pattern)
    root, relative = (Path(path.anchor), path.relative_to(path.anchor)) if path.is_absolute() else (project, path)
    found = sorted(file for file in root.glob(str(relative)) if file.is_file())
    return [file for file in found if not file.name.startswith((".", "_")) and not file.name.endswith(_UNFINISHED)]


def _call_read(code: ModelCode, window: Window, connection_uri: str | None) -> pd.DataFrame:
    if code.read is None:
        raise ModelCodeError(f"{code.path}: has no function read(window, connection), which data.source.type: python needs; add it")
    try:
        frame = code.read(window, connection_uri)
    except WindvaneError:
        raise
    except (ConnectionError, TimeoutError) as exc:
        raise ServiceUnavailable(f"{code.path}: read(): the source does not answer: {type(exc).__name__}: {exc}") from exc
    except Exception as exc:
        raise ModelCodeError(f"{code.path}: read() failed: {type(exc).__name__}: {exc}") from exc
    if not isinstance(frame, pd.DataFrame):
        raise ModelCodeError(f"{code.path}: read() must return a pandas DataFrame, got {type(frame).__name__}")
    return frame


def _read_files(project: Path, template: str, window: Window, read: Callable[[Path], pa.Table]) -> pa.Table:
    files = find_files(project, template, window)
    if not files:
        raise DataError(
            f"data.source.path: no file matches '{template.format(start=window.start, end=window.end)}' (relative to {project})"
        )
    tables = []
    for file in files:
        before = file.stat()
        tables.append(to_arrow(read(file), where=str(file)))
        after = file.stat()
        if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
            raise DataError(f"{file}: changed while it was read; write it under another name and rename it when it is complete")
        _log.info("Read %d rows from %s", tables[-1].num_rows, file)
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as exc:
        raise DataError(f"{template}: the {len(files)} files do not have the same column types: {str(exc).splitlines()[0][:200]}") from exc


def _read_parquet(file: Path) -> pa.Table:
    return read_parquet(file)


def _read_csv(file: Path) -> pa.Table:
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            content = stream.read()
    except (OSError, pa.ArrowException) as exc:
        raise DataError(f"{file}: cannot be read whole: {str(exc).splitlines()[0][:200]}") from exc
    if not content:
        raise DataError(f"{file}: is empty, it has not even a header")
    # a cut CSV still parses: a last line without an end, or an open quote, is the only trace that a cut leaves
    if not content.endswith(b"\n") or content.count(b'"') % 2:
        raise DataError(
            f"{file}: is cut in the middle: the last line does not end ({len(content)} bytes); write the whole file, newline last"
        )
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(content),
            # types are guessed from the first block: so there is one
            read_options=pa_csv.ReadOptions(block_size=min(len(content) + 1, 2**31 - 1), use_threads=False),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(strings_can_be_null=True, null_values=_NULLS),
        )
    except pa.ArrowException as exc:
        # the parser quotes the row; its message up to the colon says how many columns were expected and found
        raise DataError(f"{file}: not a whole CSV file: {str(exc).splitlines()[0].rsplit(':', 1)[0][:200]}") from exc
    binary = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    if binary:
        raise DataError(f"{file}: not UTF-8 text in the columns {', '.join(binary[:5])}; save the file as UTF-8")
    return table


def _read_delta(source: DeltaSource, time: str, window: Window) -> pa.Table:
    try:
        table = DeltaTable(source.uri)
        schema = pa.schema(table.schema())
        if time not in schema.names:
            raise DataError(f"{source.uri}: has no column '{time}' (data.time); columns: {', '.join(schema.names)}")
        kind = schema.field(time).type
        filters = None
        if pa.types.is_timestamp(kind):
            ends = (window.start, window.end) if kind.tz else (window.start.replace(tzinfo=None), window.end.replace(tzinfo=None))
            filters = [(time, ">=", pa.scalar(ends[0], kind)), (time, "<", pa.scalar(ends[1], kind))]
        rows = table.to_pyarrow_table(filters=filters)
    except TableNotFoundError as exc:
        raise DataError(f"{source.uri}: there is no Delta table (data.source.uri)") from exc
    except (DeltaError, pa.ArrowException, OSError) as exc:
        raise DataError(f"{source.uri}: the Delta table cannot be read: {(str(exc).splitlines() or ['?'])[0][:200]}") from exc
    return to_arrow(rows, where=source.uri)


def _query(source: SqlSource, window: Window, connection_uri: str | None) -> pd.DataFrame:
    import sqlalchemy
    from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

    name = f"connection '{source.connection}'"
    if not connection_uri:
        raise ConfigError([f"data.source.connection: {name} has no address; create it in Airflow (Admin, Connections)"])
    uri = connection_uri.replace("postgres://", "postgresql://", 1) if connection_uri.startswith("postgres://") else connection_uri
    parameters: dict[str, Any] = {"window_start": window.start, "window_end": window.end}
    try:
        engine = sqlalchemy.create_engine(uri)
        try:
            query = sqlalchemy.text(source.query)
            used = [key for key in parameters if f":{key}" in source.query]
            query = query.bindparams(
                *(sqlalchemy.bindparam(key, parameters[key], type_=sqlalchemy.DateTime(timezone=True)) for key in used)
            )
            with engine.connect() as connection:
                return pd.read_sql(query, connection)
        finally:
            engine.dispose()
    except OperationalError as exc:
        raise ServiceUnavailable(f"data.source: {name} does not answer: {str(exc.orig).splitlines()[0][:200]}") from exc
    except (DBAPIError, SQLAlchemyError, ImportError) as exc:
        text = str(getattr(exc, "orig", None) or type(exc).__name__)
        raise DataError(f"data.source.query: failed on {name}: {text.splitlines()[0][:200]}") from exc
