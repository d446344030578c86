"""Makes versions of a model in memory, as a training does, without a bundle."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from windvane.compare_models import scores_of
from windvane.config import ModelConfig
from windvane.errors import DataError
from windvane.fit_pipeline import fit_pipeline
from windvane.model_code import ModelCode
from windvane.predictor import Predictions, make_features, predict_features, predict_rows
from windvane.recalibrate import Recalibration, fit_recalibration
from windvane.signature import Column, conform, describe_columns, keep_used_columns
from windvane.tune_model import tune_model
from windvane.watched_champion import Champion
from windvane.windows import Window

_REFERENCE_ROWS = 5_000


class Trainer:
    """Makes versions from spans of the history, each once."""

    def __init__(self, config: ModelConfig, code: ModelCode) -> None:
        self.config, self.code = config, code
        self._made: dict[tuple[Any, ...], Champion] = {}

    def fit(self, rows: pd.DataFrame, *, cut: datetime | None, hidden: tuple[str, ...], version: int = 1) -> Champion:
        """Tune and fit the pipeline on labelled rows in time order; those from `cut` on are not fitted on.

        Raises:
            DataError: If there are no rows to fit on, or of one class only.
            ModelCodeError: If the model's own code fails.
        """
        config, time, label = self.config, self.config.data.time, self.config.data.label
        if len(rows) < 2:
            raise DataError(f"{len(rows)} labelled rows are too few to train on")
        start, end = rows[time].iloc[0].to_pydatetime(), rows[time].iloc[-1].to_pydatetime() + timedelta(microseconds=1)
        cut = cut or end
        key = (start, end, len(rows), cut)
        if key in self._made:
            return replace(self._made[key], version=version)
        newer = (rows[time] >= cut).to_numpy()
        train, held = rows[~newer].reset_index(drop=True), rows[newer].reset_index(drop=True)
        if config.is_classifier and train[label].nunique() < 2:
            raise DataError(f"the {len(train)} rows to train on have a single class")
        every = describe_columns(rows, exclude=(config.data.id, label, *hidden))
        inputs = conform(train, every)
        made = make_features(self.code, inputs)
        params = tune_model(config, self.code, made, train[label])
        pipeline = fit_pipeline(self.code, params, made, train[label], seed=config.train.seed)

        def predict(features: pd.DataFrame) -> np.ndarray:
            found = predict_features(pipeline, features, where=str(self.code.path), classifier=config.is_classifier)
            return found.values if found.probabilities is None else found.probabilities

        columns = keep_used_columns(every, inputs, features=self.code.features, predict=predict)
        both = pd.concat([train.assign(holdout=False), held.assign(holdout=True)], ignore_index=True)
        champion = Champion(
            version=version,
            predict=lambda frame: predict_rows(pipeline, self.code, conform(frame, columns), classifier=config.is_classifier),
            classes=pipeline.classes_.tolist() if config.is_classifier else None,
            signature=columns,
            params=params,
            reference=_reference(both, columns, label),
            train=Window(start, max(cut, start + timedelta(microseconds=1))),
            train_rows=len(train),
            holdout_end=end,
            holdout_rows=len(held),
            label=label,
            task=config.task,
            metric=config.metric,
            seed=config.train.seed,
            time=time,
            hidden=hidden,
        )
        self._made[key] = champion
        return champion

    def recalibrate(self, champion: Champion, rows: pd.DataFrame, *, cut: datetime, version: int) -> Champion:
        """The champion with a calibration that fits labelled rows; those from `cut` on are not fitted on."""
        time = self.config.data.time
        end = rows[time].iloc[-1].to_pydatetime() + timedelta(microseconds=1)
        newer = (rows[time] >= cut).to_numpy()
        train = rows[~newer]
        outcomes, scores = champion.score(train)
        calibration = fit_recalibration(self.config.task, outcomes, scores)
        both = pd.concat([train.assign(holdout=False), rows[newer].assign(holdout=True)], ignore_index=True)
        return replace(
            champion,
            version=version,
            predict=lambda frame: _recalibrated(champion, calibration, frame),
            reference=_reference(both, champion.signature, self.config.data.label),
            train=Window(train[time].iloc[0].to_pydatetime(), cut),
            train_rows=len(train),
            holdout_end=end,
            holdout_rows=int(newer.sum()),
        )


def _recalibrated(champion: Champion, calibration: Recalibration, frame: pd.DataFrame) -> Predictions:
    found = champion.predict(frame)
    scores = calibration.apply(scores_of(found, champion.task))
    if champion.task == "regression":
        return Predictions(scores, None)
    chances = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    return Predictions(np.asarray(champion.classes)[chances.argmax(axis=1)], chances)


def _reference(both: pd.DataFrame, columns: Sequence[Column], label: str) -> pd.DataFrame:
    sample = both.iloc[np.linspace(0, len(both) - 1, min(_REFERENCE_ROWS, len(both))).astype(int)].reset_index(drop=True)
    return conform(sample, columns).assign(**{label: sample[label], "holdout": sample["holdout"]})
