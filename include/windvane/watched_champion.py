"""What serves, as far as watching needs it: the same for a bundle and for a model in memory."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from windvane.compare_models import align_classes, outcomes_of, scores_of
from windvane.detect_drift import Drift, detect_drift
from windvane.errors import DataError, ModelCodeError
from windvane.estimate_performance import Estimator, fit_estimator
from windvane.find_harm import Errors
from windvane.predictor import Predictions
from windvane.profile_rows import Profile
from windvane.signature import Column
from windvane.windows import Window

log = logging.getLogger(__name__)

PREDICTION = "(prediction)"


@dataclass(frozen=True)
class Champion:
    """What serves, as far as watching needs it.

    Attributes:
        predict: From rows with the columns of the signature to predictions.
        classes: Labels in the order of the probabilities; None of a regression.
        params: The params that `build_pipeline` was called with.
        reference: At most 5,000 rows in time order, of the whole training: inputs, label and `holdout`.
        train: The span of the rows that it was fitted on.
        train_rows: Their number, also where a sample of them was taken.
        holdout_end: End of the newer rows that judged it.
        holdout_rows: Their number, likewise.
        hidden: Columns that no model may see.
    """

    version: int
    predict: Callable[[pd.DataFrame], Predictions]
    classes: Sequence[Any] | None
    signature: tuple[Column, ...]
    params: Mapping[str, Any]
    reference: pd.DataFrame
    train: Window
    train_rows: int
    holdout_end: datetime
    holdout_rows: int
    label: str
    task: str
    metric: str
    seed: int
    time: str
    hidden: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """The input columns of the reference, without the row's own time, which always moves on."""
        return [c.name for c in self.signature if c.name in self.reference.columns and c.name != self.time]

    @functools.cached_property
    def _scored(self) -> np.ndarray:
        return scores_of(self.predict(self.reference), self.task)

    @functools.cached_property
    def profile(self) -> Profile:
        """The distributions of inputs and predictions in the training."""
        rows = self.train_rows + self.holdout_rows
        return Profile.of(self._with_prediction(self.reference, self._scored), seed=self.seed, history_rows=rows or None)

    def drift(self, rows: pd.DataFrame, scores: np.ndarray | None, *, chance: float, thinned: float = 1.0) -> Drift:
        """How far the rows, and what it says of them, are from the training.

        Args:
            thinned: For how many rows of the window each of them stands: they last as long as all of them.
        """
        profile = self.profile if thinned == 1.0 else replace(self.profile, every=self.profile.every / thinned, thresholds={})
        return detect_drift(self._with_prediction(rows, scores), profile, false_alarm_rate=chance)

    def _with_prediction(self, rows: pd.DataFrame, scores: np.ndarray | None) -> pd.DataFrame:
        inputs = rows[[c for c in self.inputs if c in rows.columns]]
        if scores is None:
            return inputs
        return inputs.assign(**{PREDICTION: scores if scores.ndim == 1 else pd.Series(scores.argmax(axis=1), index=rows.index).astype(str)})

    def try_to_score(self, rows: pd.DataFrame) -> np.ndarray | None:
        """Scores as in `compare_models.scores_of`; None where the rows are such that it cannot."""
        try:
            return scores_of(self.predict(rows), self.task)
        except (DataError, ModelCodeError) as exc:
            log.warning("version %s cannot score the window: %s", self.version, exc)
            return None

    @functools.cached_property
    def _unseen(self) -> np.ndarray:
        """Places of the reference's rows that it was not fitted on and whose outcome it knows."""
        unseen = (
            self.reference["holdout"].to_numpy(dtype=bool) if "holdout" in self.reference.columns else np.zeros(len(self.reference), bool)
        )
        known = self.reference[self.label].notna().to_numpy()
        if self.classes is not None:
            known &= self.reference[self.label].isin(list(self.classes)).to_numpy()
        return np.flatnonzero(unseen & known)

    @functools.cached_property
    def _unseen_outcomes(self) -> np.ndarray:
        return outcomes_of(self.reference[self.label].iloc[self._unseen], self.task, self.classes)

    @functools.cached_property
    def holdout_errors(self) -> Errors:
        """Its errors on rows that it was not fitted on."""
        return Errors.of(self.task, self._unseen_outcomes, self._scored[self._unseen])

    @functools.cached_property
    def estimator(self) -> Estimator | None:
        """Estimates its metric where there are no outcomes; None without rows that it was not fitted on."""
        if not len(self._unseen):
            return None
        inputs = self.reference[self.inputs].iloc[self._unseen].reset_index(drop=True)
        return fit_estimator(
            self.task, self.metric, outcomes=self._unseen_outcomes, scores=self._scored[self._unseen], inputs=inputs, seed=self.seed
        )

    def score(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Outcomes and scores of labelled rows; a class that it never saw counts as its least likely one."""
        labels = rows[self.label]
        if self.classes is None:
            return outcomes_of(labels, self.task, None), scores_of(self.predict(rows), self.task)
        every = sorted({*self.classes, *labels.unique().tolist()}) if self.task == "multiclass_classification" else list(self.classes)
        known = rows[labels.isin(every)]
        scores = scores_of(align_classes(self.predict(known), self.classes, every), self.task)
        return outcomes_of(known[self.label], self.task, every), scores
