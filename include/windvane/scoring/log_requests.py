"""Logs every scored row to files that the monitor collects, without making a request wait for the disk.

A segment is an Arrow file `<time>-<pid>-<start>-<counter>.arrow`. It is written under a hidden name, synced and renamed, so that a
reader sees all of it or nothing, and no name is ever used twice.
"""

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

log = logging.getLogger(__name__)

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
    ]
)


@dataclass(frozen=True)
class ScoredRequest:
    """The rows of one answered request.

    Attributes:
        frame: The input columns.
        predictions: A label or value per row.
        scores: Probability of the positive class, or the value of a regression; None where there is no such number.
        probabilities: Per row one probability for each class, kept for more than two classes only.
    """

    request_id: str
    received: datetime
    version: int
    digest: str
    frame: pd.DataFrame
    ids: list[str | None]
    times: list[datetime | None]
    predictions: list[Any]
    scores: list[float] | None
    probabilities: list[list[float]] | None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.predictions)


class RequestLog:
    """Writes scored requests in a background thread; when the disk cannot keep up, rows are dropped and counted."""

    def __init__(
        self,
        directory: Path,
        *,
        max_rows: int = 100_000,
        segment_rows: int = 5_000,
        segment_seconds: float = 1.0,
        retry_seconds: float = 5.0,
        on_written: Callable[[int], None] = lambda rows: None,
        on_dropped: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """Prepare the log; nothing is written before `start`.

        Args:
            directory: Where the segments of one model go; made when the first is written.
            max_rows: Rows that may wait in memory.
            segment_rows: Rows after which a segment is closed, give or take one request.
            segment_seconds: Seconds after which a segment is closed if it has rows.
            retry_seconds: Pause after a failed write.
            on_written: Told the rows of each segment.
            on_dropped: Told the rows of each request that was not logged.
        """
        self._directory = directory
        self._max_rows = max_rows
        self._segment_rows = segment_rows
        self._segment_seconds = segment_seconds
        self._retry_seconds = retry_seconds
        self._on_written = on_written
        self._on_dropped = on_dropped
        self._waiting: deque[ScoredRequest] = deque()
        self._waiting_rows = 0
        self._changed = threading.Condition()
        self._closing = False
        self._failing = False
        self._drop_warned = 0.0
        self._counter = 0
        self._start = os.urandom(4).hex()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    def put(self, request: ScoredRequest) -> bool:
        """Hand over an answered request; returns at once, False if its rows were dropped."""
        with self._changed:
            accepted = not self._closing and self._waiting_rows + request.rows <= self._max_rows
            if accepted:
                self._waiting.append(request)
                self._waiting_rows += request.rows
                if self._waiting_rows >= self._segment_rows:
                    self._changed.notify()
        if not accepted:
            self._drop(request.rows, "the log cannot keep up with the requests")
        return accepted

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write what waits and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        with self._changed:
            left, self._waiting_rows = self._waiting_rows, 0
            self._waiting.clear()
        if left:
            self._drop(left, "the service stopped before they could be written")

    def _run(self) -> None:
        while True:
            with self._changed:
                # while writing fails, a full buffer must not turn the pause into a busy loop
                self._changed.wait_for(
                    lambda: self._closing or (not self._failing and self._waiting_rows >= self._segment_rows),
                    timeout=self._retry_seconds if self._failing else self._segment_seconds,
                )
                closing = self._closing
                batch = self._take()
            if batch and not self._write(batch):
                with self._changed:
                    self._waiting.extendleft(reversed(batch))
                    self._waiting_rows += sum(request.rows for request in batch)
                if closing:
                    return
            elif closing and not batch:
                return

    def _take(self) -> list[ScoredRequest]:
        batch: list[ScoredRequest] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows <= self._segment_rows):
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self._waiting_rows -= rows
        return batch

    def _write(self, batch: list[ScoredRequest]) -> bool:
        self._counter += 1
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{os.getpid()}-{self._start}-{self._counter:06d}"
        hidden = self._directory / f".{name}.tmp"
        table = _as_table(batch, name)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with hidden.open("xb") as file:
                with pa.ipc.new_file(file, SCHEMA) as writer:
                    writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
            hidden.rename(self._directory / f"{name}.arrow")
            _sync(self._directory)
        except OSError as exc:
            if not self._failing:
                log.error(
                    "%s: the request log cannot be written: %s; rows wait in memory, free space or mend the permissions",
                    hidden,
                    exc.strerror,
                )
            self._failing = True
            _remove(hidden)
            return False
        if self._failing:
            log.info("%s: the request log is written again", self._directory)
        self._failing = False
        self._on_written(table.num_rows)
        return True

    def _drop(self, rows: int, reason: str) -> None:
        self._on_dropped(rows)
        now = time.monotonic()
        if now - self._drop_warned > 10 or not self._drop_warned:
            self._drop_warned = now
            log.error("request log %s: %d scored rows were not logged: %s; /metrics counts all", self._directory, rows, reason)


def _as_table(batch: list[ScoredRequest], segment: str) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for request in batch:
        rows = request.rows
        columns["segment"] += [segment] * rows
        columns["request_id"] += [request.request_id] * rows
        columns["row"] += range(rows)
        columns["received"] += [request.received] * rows
        columns["version"] += [request.version] * rows
        columns["digest"] += [request.digest] * rows
        columns["id"] += request.ids
        columns["time"] += request.times
        columns["features"] += _rows_as_json(request.frame)
        columns["prediction"] += map(str, request.predictions)
        columns["score"] += request.scores or [None] * rows
        columns["probabilities"] += map(json.dumps, request.probabilities) if request.probabilities else [None] * rows
    return pa.table(columns, schema=SCHEMA)


def _rows_as_json(frame: pd.DataFrame) -> list[str]:
    names = list(frame.columns)
    columns = []
    for name in names:
        column = frame[name]
        values = [m.isoformat() for m in column] if isinstance(column.dtype, pd.DatetimeTZDtype) else column.tolist()
        columns.append([None if null else value for value, null in zip(values, column.isna(), strict=True)])
    return (
        [json.dumps(dict(zip(names, row, strict=True)), allow_nan=False) for row in zip(*columns, strict=True)]
        if names
        else ["{}"] * len(frame)
    )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("%s: an unfinished segment cannot be removed: %s", path, exc.strerror)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
