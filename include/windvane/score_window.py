"""Scores a window of committed rows in batch, with the version that is the champion when it starts."""

import logging
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from windvane.bundle import open_bundle
from windvane.column_types import stored_type
from windvane.config import ModelConfig
from windvane.conform_batch import conform_batch
from windvane.errors import BundleError, DataError
from windvane.lake import Lake
from windvane.ledger import Ledger, settled_row
from windvane.predictor import Predictions, Predictor, load_predictor
from windvane.scan_table import Scan
from windvane.settings import Settings
from windvane.windows import Window

_ROWS_AT_ONCE = 100_000
_FEW_ROWS = 1024
_PROGRESS_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """What a batch scoring wrote.

    Attributes:
        version: The model's version.
        digest: Digest of that version's bundle.
        rows: How many rows the window has.
        table_version: Version of the `scores` table that holds them.
    """

    version: int
    digest: str
    rows: int
    table_version: int


def score_window(config: ModelConfig, settings: Settings, lake: Lake, ledger: Ledger, *, window: Window) -> Scored:
    """Score the committed rows of a window into the `scores` table, in one commit and in memory that does not grow with the window.

    The champion is the version that holds for good in the ledger when the scoring begins: a canary is not asked. The same
    champion on the same rows leaves the table as it is.

    Raises:
        BundleError: If nothing serves, or the bundle is missing or damaged.
        DataError: If the window has no rows, they lack a column that the model needs, or a prediction is NaN or infinite;
            nothing is written then.
        ModelCodeError: If the model's own code fails on the rows.
        StorageError: If the scores could not be stored.
    """
    settled = settled_row(ledger.history(config.model))
    version = settled.serving if settled else None
    digest = ledger.digest_of(config.model, version) if version is not None else None
    if version is None or digest is None:
        raise BundleError(f"{config.model}: nothing serves yet, so nothing can score; run {config.model}__train first")
    scan = lake.scan(config.model, "raw", window=window, time=config.data.time)
    if scan is None or not scan.rows:
        raise DataError(f"{config.model}: no rows are committed in {window}; ingest the window first")
    predictor = load_predictor(open_bundle(settings.bundles, digest))
    scoring = _Scoring(config, predictor, version, scan, where=f"{lake.uri(config.model, 'raw')} version {scan.version}")
    table_version = lake.overwrite_window_by(
        config.model,
        "scores",
        scoring.batches,
        schema=scoring.schema,
        rows=scan.rows,
        window=window,
        time=config.data.time,
        metadata={"model_version": str(version), "digest": digest, "raw_version": str(scan.changed)},
    )
    return Scored(version=version, digest=digest, rows=scan.rows, table_version=table_version)


class _Scoring:
    """Turns the rows of a window into scores.

    Attributes:
        schema: Columns of the scores: id, time, prediction, the model's version, and a probability per class if the model has them.

    Raises:
        DataError: If the rows lack a column that is needed.
    """

    def __init__(self, config: ModelConfig, predictor: Predictor, version: int, scan: Scan, *, where: str) -> None:
        self._predictor, self._version, self._scan, self._where = predictor, version, scan, where
        self._kept = [column for column in (config.data.id, config.data.time) if column]
        needed = [column.name for column in predictor.signature]
        self._columns = list(dict.fromkeys([*self._kept, *needed]))
        missing = [name for name in self._columns if name not in scan.schema.names]
        if missing:
            raise DataError(
                f"{where}: lost columns {missing[:10]}, version {version} needs {needed[:50]}, there are {scan.schema.names[:50]}; "
                "restore them in read() and ingest the window again, or train"
            )
        one = self._score(next(self._read(rows_at_once=_FEW_ROWS)).slice(0, 1))
        self.schema = pa.schema([pa.field(name, stored_type(kind)) for name, kind in zip(one.schema.names, one.schema.types, strict=True)])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Score from the beginning, and say every few seconds how far it is."""
        began = told = clock.monotonic()
        done = 0
        for batch in self._read(rows_at_once=_ROWS_AT_ONCE):
            yield self._score(batch).cast(self.schema)
            done += batch.num_rows
            now = clock.monotonic()
            if now - told >= _PROGRESS_SECONDS or done == self._scan.rows:
                told, share, speed = now, done / self._scan.rows, done / max(now - began, 1e-6)
                _log.info("%s: scored %d of %d rows (%.0f %%), %d rows/s", self._where, done, self._scan.rows, 100 * share, speed)

    def _read(self, *, rows_at_once: int) -> Iterator[pa.RecordBatch]:
        known = self._scan.schema
        texts = [c.name for c in self._predictor.signature if c.type == "string" and known.field(c.name).type == pa.string()]
        yield from self._scan.batches(self._columns, texts=texts, rows_at_once=rows_at_once)

    def _score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            columns = conform_batch(batch, self._predictor.signature)
        except DataError as exc:
            raise DataError(f"{self._where}: {exc}") from exc
        predictions = self._predictor.predict_columns(columns)
        self._refuse_infinity(predictions)
        made = {name: batch[name] for name in self._kept}
        made |= {"prediction": pa.array(predictions.values), "version": pa.array(np.full(batch.num_rows, self._version))}
        if predictions.probabilities is not None:
            each = np.ascontiguousarray(predictions.probabilities.T)
            made |= {f"probability_{label}": pa.array(values) for label, values in zip(self._predictor.classes or (), each, strict=True)}
        return pa.record_batch(made)

    def _refuse_infinity(self, predictions: Predictions) -> None:
        if predictions.finite():
            return
        numbers = predictions.values[:, None] if predictions.probabilities is None else predictions.probabilities
        wrong = int((~np.isfinite(numbers).all(axis=1)).sum())
        raise DataError(
            f"{self._where}: version {self._version} ({self._predictor.digest[:12]}) predicts NaN or infinity for {wrong} of "
            f"{len(numbers)} rows, allowed are finite numbers; nothing was written: mend the rows, or roll back or train again"
        )
