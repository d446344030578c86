"""Scores a window of committed rows in batch, with the version that serves when it starts."""

from dataclasses import dataclass

import pandas as pd

from windvane.bundle import open_bundle
from windvane.config import ModelConfig
from windvane.errors import BundleError, DataError
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.predictor import load_predictor
from windvane.settings import Settings
from windvane.windows import Window


@dataclass(frozen=True)
class Scored:
    """What a batch scoring wrote: the model's version, the number of rows, the version of the `scores` table."""

    version: int
    rows: int
    table_version: int


def score_window(config: ModelConfig, settings: Settings, lake: Lake, ledger: Ledger, *, window: Window) -> Scored:
    """Score the committed rows of a window into the `scores` table; doing it twice leaves the same table.

    Raises:
        BundleError: If nothing serves.
        DataError: If the window has no rows.
    """
    release = ledger.last(config.model)
    version = release.serving if release else None
    digest = ledger.digest_of(config.model, version) if version is not None else None
    if version is None or digest is None:
        raise BundleError(f"{config.model}: nothing serves yet, so nothing can score; run {config.model}__train first")
    predictor = load_predictor(open_bundle(settings.bundles, digest))
    rows = lake.read(config.model, "raw", window=window, time=config.data.time)
    if rows.empty:
        raise DataError(f"{config.model}: no rows are committed in {window}; ingest the window first")
    predictions = predictor.predict(rows)
    kept = [column for column in (config.data.id, config.data.time) if column]
    scores = rows[kept].assign(prediction=pd.Series(predictions.values, index=rows.index), version=version)
    if predictions.probabilities is not None:
        for position, label in enumerate(predictor.classes or ()):
            scores[f"probability_{label}"] = predictions.probabilities[:, position]
    table_version = lake.overwrite_window(config.model, "scores", scores, window=window, time=config.data.time, metadata={"digest": digest})
    return Scored(version=version, rows=len(scores), table_version=table_version)
