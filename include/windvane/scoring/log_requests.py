"""Logs every scored row to files that the monitor collects, without making a request wait for the disk.

A segment is an Arrow file `<time>-<pid>-<start>-<counter>.arrow`. It is written under a hidden name, synced and renamed, so that a
reader sees all of it or nothing, and no name is ever used twice. A segment is closed, and so synced to the disk, one second
after its first row or when it has 10,000 rows: what the machine loses in a power cut is what was answered since.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from windvane.scoring.encode_segment import SCHEMA, LoggedRequest, ScoredRows, encode_rows, join_batches

log = logging.getLogger(__name__)

__all__ = ["SCHEMA", "LoggedRequest", "RequestLog", "ScoredRows"]

_GATHER_SECONDS = 0.05
_HURRY_ROWS = 5_000
_ENCODED_ROWS = 2_000


@dataclass
class _Segment:
    """Rows that are encoded and not yet written; `began` is when the first came, as `time.monotonic`."""

    name: str = ""
    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    began: float = 0.0


class RequestLog:
    """Writes scored rows in a background thread; when the disk cannot keep up, rows are dropped and counted."""

    def __init__(
        self,
        directory: Path,
        *,
        max_rows: int = 100_000,
        max_bytes: int = 64_000_000,
        segment_rows: int = 10_000,
        segment_seconds: float = 1.0,
        retry_seconds: float = 5.0,
        on_written: Callable[[int], None] = lambda rows: None,
        on_dropped: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """Prepare the log; nothing is written before `start`.

        Args:
            directory: Where the segments of one model go; made when the first is written.
            max_rows: Rows that may wait in memory.
            max_bytes: Size of the requests whose rows may wait in memory.
            segment_rows: Rows after which a segment is closed, give or take what was scored together.
            segment_seconds: Seconds after which a segment is closed if it has rows.
            retry_seconds: Pause after a failed write.
            on_written: Told the rows of each segment.
            on_dropped: Told the rows that were not logged.
        """
        self._directory = directory
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._segment_rows = segment_rows
        self._segment_seconds = segment_seconds
        self._retry_seconds = retry_seconds
        self._on_written = on_written
        self._on_dropped = on_dropped
        self._waiting: deque[ScoredRows] = deque()
        self._held_rows = 0
        self._held_bytes = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._segment = _Segment()
        self._failing = False
        self._drop_warned = 0.0
        self._counter = 0
        self._start = os.urandom(4).hex()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def start(self) -> None:
        """Begin writing."""
        self._thread.start()

    def put(self, scored: ScoredRows) -> bool:
        """Hand over answered rows; returns at once, False if they were dropped."""
        with self._changed:
            fits = self._held_rows + scored.rows <= self._max_rows and self._held_bytes + scored.size <= self._max_bytes
            accepted = fits and not self._closing.is_set()
            if accepted:
                self._waiting.append(scored)
                self._held_rows += scored.rows
                self._held_bytes += scored.size
                if len(self._waiting) == 1:
                    self._changed.notify()
        if not accepted:
            self._drop(scored.rows, "the log cannot keep up with the requests")
        return accepted

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write what waits and stop."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        with self._changed:
            left, self._held_rows = self._held_rows, 0
            self._waiting.clear()
        if left:
            self._drop(left, "the service stopped before they could be written")

    def _run(self) -> None:
        while not (self._closing.is_set() and not self._waiting and not self._segment.rows):
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set(), timeout=self._seconds_left())
            # what comes within a moment is encoded at once, in small steps that no request notices
            if self._held_rows < _HURRY_ROWS:
                self._closing.wait(min(_GATHER_SECONDS, self._segment_seconds))
            if self._segment.rows < self._segment_rows:
                self._encode(self._take())
            full = self._segment.rows >= self._segment_rows or self._seconds_left() == 0 or self._closing.is_set()
            if self._segment.rows and full and not self._write():
                if self._closing.is_set():
                    return
                self._closing.wait(self._retry_seconds)

    def _seconds_left(self) -> float | None:
        """Seconds until the segment has to be closed; None while it has no rows."""
        return max(0.0, self._segment.began + self._segment_seconds - time.monotonic()) if self._segment.rows else None

    def _take(self) -> list[ScoredRows]:
        batch: list[ScoredRows] = []
        taken = 0
        with self._changed:
            while self._waiting and (not batch or taken < _ENCODED_ROWS):
                rows = self._segment.rows + taken
                if rows and rows + self._waiting[0].rows > self._segment_rows:
                    break
                batch.append(self._waiting.popleft())
                taken += batch[-1].rows
            # a segment into which the next rows do not fit is full
            if self._waiting and not batch:
                self._segment.began = -math.inf
        return batch

    def _encode(self, batch: list[ScoredRows]) -> None:
        if not batch:
            return
        segment = self._segment
        if not segment.rows:
            self._counter += 1
            segment.name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{os.getpid()}-{self._start}-{self._counter:06d}"
            segment.began = time.monotonic()
        segment.batches += encode_rows(batch)
        segment.rows += sum(scored.rows for scored in batch)
        segment.size += sum(scored.size for scored in batch)

    def _write(self) -> bool:
        segment = self._segment
        hidden = self._directory / f".{segment.name}.tmp"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with hidden.open("xb") as file:
                file.write(join_batches(segment.batches))
                file.flush()
                os.fsync(file.fileno())
            hidden.rename(self._directory / f"{segment.name}.arrow")
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
        with self._changed:
            self._held_rows -= segment.rows
            self._held_bytes -= segment.size
        self._segment = _Segment()
        self._on_written(segment.rows)
        return True

    def _drop(self, rows: int, reason: str) -> None:
        self._on_dropped(rows)
        now = time.monotonic()
        if now - self._drop_warned > 10 or not self._drop_warned:
            self._drop_warned = now
            log.error("request log %s: %d scored rows were not logged: %s; /metrics counts all", self._directory, rows, reason)


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
