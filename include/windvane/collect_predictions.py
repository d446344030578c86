"""Moves the closed request-log segments of the scoring service into the lake, and joins them with outcomes."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from windvane.config import ModelConfig
from windvane.draw_rows import AT_ONCE, Chosen, Drawn, draw_rows, read_named
from windvane.encode_rows import encode_logged
from windvane.errors import DataError, StorageError
from windvane.lake import Lake
from windvane.scoring.encode_segment import COLUMNAR, INPUTS, SCHEMA
from windvane.settings import Settings
from windvane.shipped_requests import ShippedSegment, list_shipped
from windvane.windows import Window

log = logging.getLogger(__name__)

Segment = Path | ShippedSegment

_SUFFIXES = (".arrow", ".parquet")
_SEGMENTS_PER_COMMIT = 500
_ROWS_PER_COMMIT = 200_000


def collect_predictions(config: ModelConfig, settings: Settings, lake: Lake) -> int:
    """Commit every closed segment to the `predictions` table, then delete its file.

    A segment is replaced by its name, so one that was committed but not yet deleted when a task died, or that two tasks
    collect at once, is there once. A file that is no segment is kept as `<name>.damaged` and named in the log.

    Returns:
        The number of rows that were committed.

    Raises:
        StorageError: If a segment cannot be read or deleted, or the table cannot be written.
    """
    paths = list_segments(config, settings)
    rows = 0
    for number, batch in enumerate(_batches(paths)):
        table = pa.concat_tables([content for _, content in batch], promote_options="default")
        lake.replace_rows(config.model, "predictions", table, key="segment", values=[path.stem for path, _ in batch])
        for path, _ in batch:
            _delete(path)
        rows += table.num_rows
        log.info("%s: collected %d scored rows from %d segments (commit %d)", config.model, table.num_rows, len(batch), number + 1)
    return rows


def list_segments(config: ModelConfig, settings: Settings) -> list[Segment]:
    """The closed segments that are not collected yet, oldest first: those of this host, and those that others moved into a store.

    Raises:
        StorageError: If the store does not answer.
    """
    directory = settings.requests / config.model
    local = [p for p in directory.glob("*") if p.suffix in _SUFFIXES and not p.name.startswith(".")] if directory.is_dir() else []
    return sorted([*local, *list_shipped(config.model)], key=lambda segment: segment.name)


def read_segment(path: Segment) -> pa.Table | None:
    """The rows of a segment with all columns of the log; None if it was collected meanwhile.

    Whoever reads segments reads them here: a file holds its rows in another form, older files in that of the log.

    Raises:
        DataError: If it is no segment.
        StorageError: If it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StorageError(f"{path}: the request log cannot be read: {exc.strerror}; mend it, then run again") from exc
    buffer = pa.BufferReader(content)
    try:
        if content[:4] == b"PAR1":
            return _with_schema(pq.read_table(buffer), segment=path.stem)
        reader = pa.ipc.open_file(buffer)
        if reader.schema.metadata != COLUMNAR:
            return _with_schema(reader.read_all(), segment=path.stem)
        batches = [_as_rows(reader.get_batch(number), segment=path.stem) for number in range(reader.num_record_batches)]
        return pa.Table.from_batches(batches, schema=SCHEMA)
    # pyarrow reports cut files as OSError; the bytes were already read, so it can only be about their meaning
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise DataError(f"{path}: not a request-log segment: {str(exc)[:200]}") from exc


def join_outcomes(config: ModelConfig, lake: Lake, window: Window, *, most: int = AT_ONCE) -> Drawn:
    """Join the scored rows of a window of data time with their outcomes, by `data.id`, else by the request id.

    Of several scorings of one id the latest counts. Rows that were scored without an id have no outcome.

    Args:
        most: Of more scored rows than this an even sample is joined, with `data.id` all scorings of each id that is in it.

    Returns:
        Columns id, time, version, score, prediction, probabilities, label (null where the outcome is not known); and the number of
        rows in the log that they are of.
    """
    kept = ["id", "time", "version", "score", "prediction", "probabilities", "label"]
    columns = ["request_id", "row", "received", *kept[:-1]]
    key = "id" if config.data.id else "request_id"
    # without ids nothing must stay together: a row of any request finds its outcome by the request's name
    names = ["id", "request_id"] if config.data.id else []
    logged = draw_rows(lake, config.model, "predictions", Chosen(window, "time"), most=most, key=names, columns=columns)
    scored = logged.rows
    if scored.empty:
        return Drawn(pd.DataFrame(columns=kept), logged.of)
    scored = scored.sort_values(["received", "row"], kind="stable")
    if key == "id":
        scored = scored[scored["id"].isna() | ~scored["id"].duplicated(keep="last")]
    labels = _labels(config, lake, window, wanted=pd.Index(scored[key].dropna().unique()), most=most)
    joined = scored.assign(label=scored[key].map(labels))[kept].reset_index(drop=True)
    return Drawn(joined, logged.of if logged.is_sampled else len(joined))


def _labels(config: ModelConfig, lake: Lake, window: Window, *, wanted: "pd.Index[Any]", most: int) -> "pd.Series[Any]":
    """The outcomes of a window by the text of the id, of at least these ids where they are known."""
    source, label = config.data.id or "request_id", config.data.label
    known = read_named(
        lake,
        config.model,
        "raw",
        Chosen(window, config.data.time, known=label),
        name=source,
        wanted=wanted,
        at_once=most,
        columns=[source, label],
    )
    known = known[known[source].notna()]
    labels = known.set_index(known[source].astype(str))[label]
    return labels[~labels.index.duplicated(keep="last")]


def _batches(paths: list[Segment]) -> Iterator[list[tuple[Segment, pa.Table]]]:
    """Readable segments in groups that fit into one commit and into memory."""
    batch: list[tuple[Segment, pa.Table]] = []
    for path in paths:
        content = _read(path)
        if content is None:
            continue
        batch.append((path, content))
        if len(batch) >= _SEGMENTS_PER_COMMIT or sum(table.num_rows for _, table in batch) >= _ROWS_PER_COMMIT:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(path: Segment) -> pa.Table | None:
    """The rows of a segment; None if another task took it first, or it is damaged."""
    try:
        return read_segment(path)
    except DataError as exc:
        log.error("%s, kept as %s.damaged and not collected", exc, path.name)
        aside: Any = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        return None


def _with_schema(table: pa.Table, *, segment: str) -> pa.Table:
    known, n = set(table.column_names), table.num_rows
    columns = {field.name: table[field.name].cast(field.type) if field.name in known else pa.nulls(n, field.type) for field in SCHEMA}
    columns["segment"] = pa.repeat(pa.scalar(segment), n)
    return pa.table(columns, schema=SCHEMA)


def _as_rows(batch: pa.RecordBatch, *, segment: str) -> pa.RecordBatch:
    """The rows of a columnar segment in the form of the log."""
    batch.validate(full=True)
    n = batch.num_rows
    ends = batch["request_id"].run_ends.to_numpy()
    starts = np.concatenate([[0], ends[:-1]])
    structs = [batch[name] for name in batch.schema.names if name.startswith(INPUTS)]
    # the rows of a batch are of one layout: the structs of the others are null, and a model without inputs has none
    features = next((encode_logged(inputs) for inputs in structs if inputs.null_count < n), [b"{}"] * n)
    predictions, chances = batch["prediction"], batch["probabilities"]
    columns = {
        "segment": pa.repeat(pa.scalar(segment), n),
        "row": pa.array(np.arange(n) - np.repeat(starts, ends - starts), pa.int64()),
        "features": pa.array(features, pa.binary()).cast(pa.string()),
        "prediction": predictions
        if pa.types.is_string(predictions.type)
        else pa.array(list(map(str, predictions.to_pylist())), pa.string()),
        "probabilities": pa.array([None if row is None else orjson.dumps(row) for row in chances.to_pylist()], pa.binary()).cast(
            pa.string()
        ),
    }
    for name in ("request_id", "received", "version", "digest", "milliseconds"):
        columns[name] = pc.run_end_decode(batch[name])
    for name in ("id", "time", "score"):
        columns[name] = batch[name].cast(SCHEMA.field(name).type)
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _delete(path: Segment) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise StorageError(f"{path}: cannot be deleted after it was collected: {exc.strerror}; mend this, then run again") from exc
