"""Reads from the request log what each version did since a moment, while requests come and segments are collected."""

import json
import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from windvane.collect_predictions import Segment, list_segments, read_segment
from windvane.config import ModelConfig
from windvane.errors import DataError, StorageError
from windvane.lake import Lake
from windvane.measure_latency import measure_latency
from windvane.replay_requests import ReplayRows, open_table
from windvane.rollout_check import LiveFigures
from windvane.settings import Settings

log = logging.getLogger(__name__)

_KEPT_SCORES = 50_000
_SAMPLE_ROWS = 500
_COLUMNS = ["request_id", "row", "id", "version", "features", "score", "probabilities"]


@dataclass
class _Version:
    requests: int = 0
    rows: int = 0
    known: dict[int, None] = field(default_factory=dict)
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_SCORES))
    milliseconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_SCORES))
    newest: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=_SAMPLE_ROWS))

    def add(self, row_id: str | None, features: str, score: float) -> None:
        """Count a row. One that was asked about before, as by what watches an endpoint, has a score already; without an id nobody knows."""
        self.rows += 1
        self.newest.append((features, score))
        if row_id is not None:
            key = hash((row_id, features))
            if key in self.known:
                return
            self.known[key] = None
            if len(self.known) > _KEPT_SCORES:
                del self.known[next(iter(self.known))]
        self.scores.append(score)


class TrafficReader:
    """Counts what each version answered since a moment; every segment is read once, from its file or from the lake.

    Args:
        config: The model's config.
        settings: Where the request log is.
        lake: Where segments go when they are collected; without it, or while it cannot be read, only files count.
        since: Requests that were received before do not count.
    """

    def __init__(self, config: ModelConfig, settings: Settings, lake: Lake | None, *, since: datetime) -> None:
        self._config = config
        self._settings = settings
        self._lake = lake
        self._since = since.astimezone(UTC)
        self._seen: set[str] = set()
        self._versions: dict[int, _Version] = {}
        self._table: DeltaTable | None = None
        self._read_version: int | None = None

    def update(self) -> dict[int, LiveFigures]:
        """Read what is new and return the figures of each version; the newest 50,000 different rows of each are kept.

        The log has only rows that were answered: errors and refused requests are counted by what stands in front of the service.
        """
        for path in self._segments():
            if path.stem in self._seen:
                continue
            # a segment is named by the moment of its writing, after that of its rows
            if path.stem[:22] < f"{self._since:%Y%m%dT%H%M%S%fZ}" and path.stem[:8].isdigit():
                self._seen.add(path.stem)
                continue
            self._read_file(path)
        self._read_collected()
        return {version: _figures(found) for version, found in sorted(self._versions.items())}

    def sample(self, version: int) -> tuple[ReplayRows, list[float]]:
        """The newest rows, at most 500, that a version answered with a score, and these scores."""
        newest = list(self._versions[version].newest) if version in self._versions else []
        features, scores = [text for text, _ in newest], [score for _, score in newest]
        return ReplayRows(features, [None] * len(features), logged=len(features), held_out=0), scores

    def _segments(self) -> list[Segment]:
        try:
            return list_segments(self._config, self._settings)
        except StorageError as exc:
            # a store that is away for a moment is no reason to end a rollout
            log.warning("%s; its rows do not count yet", exc)
            return []

    def _read_file(self, path: Any) -> None:
        try:
            rows = read_segment(path)
        except (DataError, StorageError) as exc:
            log.warning("%s; its rows do not count", exc)
            self._seen.add(path.stem)
            return
        if rows is None:
            # it was collected just now: its rows are in the lake
            return
        self._seen.add(path.stem)
        self._count(rows.filter(pc.field("received") >= pa.scalar(self._since, pa.timestamp("us", tz="UTC"))))

    def _read_collected(self) -> None:
        """Rows of segments that were collected before they were seen as files."""
        if self._lake is None:
            return
        try:
            if self._table is None:
                self._table = open_table(self._lake, self._config.model, "predictions")
            else:
                self._table.update_incremental()
            if self._table is None or self._table.version() == self._read_version:
                return
            moment = pa.scalar(self._since, pa.timestamp("us", tz="UTC"))
            chosen = (pc.field("received") >= moment) & ~pc.field("segment").isin(pa.array(sorted(self._seen), pa.string()))
            names = set(pa.schema(self._table.schema()).names)
            columns = [name for name in ("segment", "milliseconds", *_COLUMNS) if name in names]
            rows = self._table.to_pyarrow_dataset().to_table(columns=columns, filter=chosen)
            self._read_version = self._table.version()
        except (DeltaError, pa.ArrowException, OSError) as exc:
            log.warning("%s: collected rows cannot be read, so they do not count: %s", self._config.model, str(exc)[:200])
            self._table = None
            return
        self._seen.update(rows["segment"].unique().to_pylist())
        self._count(rows)

    def _count(self, rows: pa.Table) -> None:
        for name, kind in (("milliseconds", pa.float64()), ("id", pa.string())):
            # an older log has neither
            rows = rows if name in rows.column_names else rows.append_column(name, pa.nulls(rows.num_rows, kind))
        requests: set[tuple[int, str]] = set()
        for row in rows.select([*_COLUMNS, "milliseconds"]).to_pylist():
            if row["version"] is None:
                continue
            found = self._versions.setdefault(row["version"], _Version())
            if (row["version"], row["request_id"]) not in requests:
                requests.add((row["version"], row["request_id"]))
                found.requests += 1
                if row["milliseconds"] is not None and math.isfinite(row["milliseconds"]):
                    found.milliseconds.append(row["milliseconds"])
            score = _score(row)
            if score is not None:
                found.add(row["id"], row["features"], score)


def scored_since(config: ModelConfig, settings: Settings, lake: Lake | None, *, since: datetime) -> dict[int, LiveFigures]:
    """What each version answered since a moment; to ask again and again, keep a `TrafficReader`."""
    return TrafficReader(config, settings, lake, since=since).update()


def _figures(found: _Version) -> LiveFigures:
    latency = measure_latency(found.milliseconds)
    return LiveFigures(
        requests=found.requests,
        server_errors=0,
        refused=0,
        scores=tuple(found.scores),
        rows=found.rows,
        p99_ms=latency.p99_ms if latency else None,
        p99_low_ms=latency.p99_low_ms if latency else None,
        timed=len(found.milliseconds),
        p50_ms=latency.p50_ms if latency else None,
    )


def _score(row: Mapping[str, Any]) -> float | None:
    """P(positive class), a value, or of more than two classes the place of the most probable one."""
    if row["score"] is not None:
        return float(row["score"]) if math.isfinite(row["score"]) else None
    if row["probabilities"] is None:
        return None
    chances = json.loads(row["probabilities"])
    return float(max(range(len(chances)), key=chances.__getitem__)) if isinstance(chances, list) and chances else None
