"""Gathers rows to rehearse a candidate with: the newest requests, and held-out rows whose outcomes are known."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow.dataset import Dataset

from windvane.collect_predictions import list_segments, read_segment
from windvane.config import ModelConfig
from windvane.encode_rows import encode_rows
from windvane.errors import DataError, StorageError
from windvane.lake import Lake
from windvane.settings import Settings
from windvane.signature import Column, columns_from_json, conform
from windvane.windows import Window

if TYPE_CHECKING:
    from windvane.bundle import Bundle

log = logging.getLogger(__name__)

_HELD_OUT_ROWS = 4000
_SCANNED = 20
_COLUMNS = ["segment", "request_id", "id", "time", "received", "features"]


@dataclass(frozen=True)
class ReplayRows:
    """Rows to replay: first those of earlier requests, then held-out ones.

    Attributes:
        features: A JSON object for each row, as in the request log.
        outcomes: What came of each: a number, or the place of its label among the candidate's classes; None where it is not known.
        logged: How many are of earlier requests.
        held_out: How many are held-out rows of the candidate.
    """

    features: list[str]
    outcomes: list[float | None]
    logged: int
    held_out: int


def gather_replay(
    config: ModelConfig, settings: Settings, lake: Lake | None, *, champion: "Bundle | None", candidate: "Bundle", rows: int
) -> ReplayRows:
    """Gather the newest logged rows, with outcomes where the lake knows them, and held-out rows of the candidate with theirs.

    A logged row counts if it has all columns that the candidate reads. Values that do not fit are no reason to leave it out: the
    candidate would refuse such a request, and that is what a rehearsal is to find. But a row that was logged by a version without one
    of the columns says nothing: the log holds only what that version read, and clients may send the column already. So after the first
    version with a new column is promoted the log fills again, and until then held-out rows are the evidence; whether clients
    send the column is seen by the share of refused requests in a bake.

    Held-out rows come from the lake where it has them, so that there are enough, with the columns that only the champion reads; else
    from the candidate's own `reference.parquet`, which has fewer of them and the candidate's columns only.

    Args:
        lake: Without one, or with one that cannot be read, there are fewer rows and fewer outcomes.
        champion: The bundle that serves; None for a first version.
        candidate: The bundle to rehearse.
        rows: Most logged rows.
    """
    columns = columns_from_json(candidate.manifest["signature"])
    logged = _newest(config, settings, lake, rows, names={column.name for column in columns})
    known = _outcomes(config, lake, logged)
    classes = _places(candidate)
    key = "id" if config.data.id else "request_id"
    outcomes = [_outcome(known.get(row[key]), classes) for row in logged]
    held_out, labels = _held_out(config, lake, champion, candidate, columns)
    return ReplayRows(
        features=[row["features"] for row in logged] + held_out,
        outcomes=outcomes + [_outcome(label, classes) for label in labels],
        logged=len(logged),
        held_out=len(held_out),
    )


def write_replay(path: Path, replay: ReplayRows) -> None:
    """Write the rows for `windvane.scoring.rehearse`; another user, such as that of a container, can read the file.

    Raises:
        StorageError: If the disk is full or not writable.
    """
    table = pa.table({"features": pa.array(replay.features, pa.string())})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            os.chmod(name, 0o644)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as exc:
        raise StorageError(f"{path}: the rows to replay cannot be written: {exc.strerror}; free space or permissions are needed") from exc


def open_table(lake: Lake | None, model: str, table: str) -> DeltaTable | None:
    """A table of the lake; None if there is none, or it cannot be read, which the log says."""
    if lake is None:
        return None
    try:
        return DeltaTable(lake.uri(model, table))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as exc:
        log.warning("%s: cannot be read, so its rows are no evidence: %s", lake.uri(model, table), str(exc)[:200])
        return None


def _newest(config: ModelConfig, settings: Settings, lake: Lake | None, rows: int, *, names: set[str]) -> list[dict[str, Any]]:
    """The newest logged rows that have these columns, oldest first; bounded in memory, and in what is looked at.

    A row that was asked about again and again, as by what watches an endpoint, is one row: it is no more evidence than once.
    """
    if rows <= 0:
        return []
    found: dict[Any, dict[str, Any]] = {}
    seen: list[str] = []
    scanned = 0
    for path in reversed(list_segments(config, settings)):
        try:
            table = read_segment(path)
        except DataError as exc:
            log.warning("%s; it is not replayed", exc)
            continue
        if table is None:
            continue
        seen.append(path.stem)
        _add(found, _fitting(table.select(_COLUMNS), names))
        scanned += table.num_rows
        if len(found) >= rows or scanned >= _SCANNED * rows:
            break
    if len(found) < rows and scanned < _SCANNED * rows:
        collected = _newest_collected(open_table(lake, config.model, "predictions"), _SCANNED * rows, without=seen)
        _add(found, _fitting(collected, names))
    return sorted(found.values(), key=lambda row: row["received"])[-rows:]


def _add(found: dict[Any, dict[str, Any]], rows: Iterable[dict[str, Any]]) -> None:
    """Add rows, of each the newest; without an id nobody knows which are the same."""
    for row in rows:
        key = (row["id"], row["features"]) if row["id"] is not None else (len(found),)
        if key not in found or found[key]["received"] < row["received"]:
            found[key] = row


def _fitting(table: pa.Table, names: set[str]) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["received"] is not None and row["features"] and names <= _keys(row["features"])]


def _keys(text: str) -> set[str]:
    try:
        value = json.loads(text)
    except ValueError:
        return set()
    return set(value) if isinstance(value, dict) else set()


def _newest_collected(table: DeltaTable | None, rows: int, *, without: Sequence[str]) -> pa.Table:
    """The newest rows of the table `predictions`, read in batches."""
    empty = pa.table({name: [] for name in _COLUMNS})
    if table is None:
        return empty
    kept: pa.Table | None = None
    try:
        since = _moment_with_rows(table, rows)
        chosen = ~pc.field("segment").isin(pa.array(without, pa.string()))
        chosen = chosen if since is None else chosen & (pc.field("received") >= pa.scalar(since, pa.timestamp("us", tz="UTC")))
        for batch in table.to_pyarrow_dataset().to_batches(columns=_COLUMNS, filter=chosen, batch_size=10_000):
            if batch.num_rows:
                part = pa.Table.from_batches([batch])
                joined = part if kept is None else pa.concat_tables([kept, part])
                kept = joined.take(pc.sort_indices(joined, [("received", "descending")])[:rows])
    except (DeltaError, pa.ArrowException, OSError) as exc:
        log.warning("the table predictions cannot be read, so its rows are no evidence: %s", str(exc)[:200])
    return empty if kept is None else kept


def _moment_with_rows(table: DeltaTable, rows: int) -> datetime | None:
    """A moment since which the table has at least so many rows, by the statistics of its files; None if they do not say."""
    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    if not all(isinstance(one.get(name), datetime) for one in files for name in ("min.received", "max.received")):
        return None
    total, since = 0, None
    for one in sorted(files, key=lambda one: one["max.received"], reverse=True):
        if total >= rows:
            break
        total += one["num_records"] or 0
        since = one["min.received"] if since is None else min(since, one["min.received"])
    return since


def _outcomes(config: ModelConfig, lake: Lake | None, logged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The labels of logged rows by id, or by request id where the model has none."""
    source = config.data.id or "request_id"
    keys = {row["id" if config.data.id else "request_id"] for row in logged} - {None}
    table = open_table(lake, config.model, "raw") if keys else None
    if table is None:
        return {}
    try:
        schema = pa.schema(table.schema())
        if not {source, config.data.label} <= set(schema.names):
            return {}
        chosen = pc.field(source).isin(_typed(keys, schema.field(source).type))
        times = [row["time"] for row in logged]
        if config.data.time in schema.names and None not in times:
            kind = schema.field(config.data.time).type
            chosen &= (pc.field(config.data.time) >= pa.scalar(min(times), kind)) & (
                pc.field(config.data.time) <= pa.scalar(max(times), kind)
            )
        known = table.to_pyarrow_dataset().to_table(columns=[source, config.data.label], filter=chosen)
    except (DeltaError, pa.ArrowException, OSError) as exc:
        log.warning("the outcomes of logged rows cannot be read, so they count as unknown: %s", str(exc)[:200])
        return {}
    return {str(key): label for key, label in zip(known[source].to_pylist(), known[config.data.label].to_pylist(), strict=True)}


def _typed(keys: Iterable[str], kind: pa.DataType) -> pa.Array:
    """Ids of the log, which are texts, in the type of the lake's column."""
    if not pa.types.is_integer(kind):
        return pa.array(sorted(keys), pa.string()).cast(kind)
    return pa.array(sorted(int(key) for key in keys if key.lstrip("-").isascii() and key.lstrip("-").isdigit()), kind)


def _held_out(
    config: ModelConfig, lake: Lake | None, champion: "Bundle | None", candidate: "Bundle", columns: Sequence[Column]
) -> tuple[list[str], list[Any]]:
    """Held-out rows of the candidate as JSON, and their labels: from the lake, which has more of them and all columns, or its bundle."""
    found = _held_out_of_lake(config, lake, candidate, [*columns, *_more_columns(champion, columns)])
    if found is not None:
        return found
    label = str(candidate.manifest.get("label"))
    rows = pq.read_table(candidate.path / "reference.parquet")
    if "holdout" not in rows.column_names or label not in rows.column_names:
        return [], []
    rows = rows.filter(pc.field("holdout"))
    rows = rows.take(pa.array(_evenly(rows.num_rows)))
    return encode_rows(rows, columns), rows[label].to_pylist()


def _more_columns(champion: "Bundle | None", columns: Sequence[Column]) -> list[Column]:
    names = {column.name for column in columns}
    return [column for column in columns_from_json(champion.manifest["signature"]) if column.name not in names] if champion else []


def _held_out_of_lake(
    config: ModelConfig, lake: Lake | None, candidate: "Bundle", columns: Sequence[Column]
) -> tuple[list[str], list[Any]] | None:
    """Evenly spaced held-out rows of the table `raw`; None if there are none, or not all of the columns."""
    window = Window.from_extra(candidate.manifest.get("snapshot", {}).get("holdout", {}))
    table = open_table(lake, config.model, "raw") if window else None
    if window is None or table is None:
        return None
    label, time = config.data.label, config.data.time
    names = [*dict.fromkeys([*(column.name for column in columns), label, time])]
    try:
        schema = pa.schema(table.schema())
        if not set(names) <= set(schema.names):
            return None
        kind = schema.field(time).type
        chosen = (
            pc.field(label).is_valid() & (pc.field(time) >= pa.scalar(window.start, kind)) & (pc.field(time) < pa.scalar(window.end, kind))
        )
        rows = _draw(table.to_pyarrow_dataset(), names, chosen)
        frame = rows.to_pandas()
        conformed = pa.Table.from_pandas(conform(frame, columns), preserve_index=False)
        return (encode_rows(conformed, columns), rows[label].to_pylist()) if rows.num_rows else None
    except (DataError, DeltaError, pa.ArrowException, OSError) as exc:
        log.warning("the held-out rows cannot be read from the lake, those of the bundle are replayed: %s", str(exc)[:200])
        return None


def _draw(rows: Dataset, names: list[str], chosen: pc.Expression) -> pa.Table:
    """Evenly spaced rows; they are read in batches, so that a window of any size needs little memory."""
    places = _evenly(rows.count_rows(filter=chosen))
    parts, start = [], 0
    for batch in rows.to_batches(columns=names, filter=chosen, batch_size=10_000):
        inside = places[(places >= start) & (places < start + batch.num_rows)] - start
        if len(inside):
            parts.append(batch.take(pa.array(inside)))
        start += batch.num_rows
    return pa.Table.from_batches(parts, schema=pa.schema([rows.schema.field(name) for name in names]))


def _evenly(count: int) -> np.ndarray:
    """Places of at most so many of the rows."""
    return np.linspace(0, count - 1, min(count, _HELD_OUT_ROWS)).astype(int)


def _places(candidate: "Bundle") -> dict[Any, float] | None:
    classes = candidate.manifest["classes"]
    return None if classes is None else {label: float(place) for place, label in enumerate(classes)}


def _outcome(label: Any, classes: Mapping[Any, float] | None) -> float | None:
    if label is None or (isinstance(label, float) and not math.isfinite(label)):
        return None
    if classes is not None:
        return classes.get(label)
    return float(label)
