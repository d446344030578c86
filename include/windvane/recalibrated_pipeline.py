"""A fitted pipeline with a `Recalibration` behind it: what a bundle stores when only the calibration of a model is new."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin  # noqa: TID253 - imported only where scikit-learn is in use

from windvane.recalibrate import Recalibration


class _Recalibrated(BaseEstimator):  # type: ignore[misc]
    """Keeps the parts in a form that skops stores.

    Args:
        pipeline: Fitted; stays as it is.
        slope: From the `Recalibration`.
        offsets: From the `Recalibration`.
    """

    def __init__(self, pipeline: Any, slope: float, offsets: list[float]) -> None:
        self.pipeline = pipeline
        self.slope = slope
        self.offsets = offsets

    def fit(self, x: Any, y: Any) -> Any:
        """Refused: a new pipeline would need another calibration."""
        raise NotImplementedError("a recalibrated pipeline is made from a fitted one; fit a new pipeline and recalibrate that")

    def __sklearn_is_fitted__(self) -> bool:
        return True


class RecalibratedClassifier(ClassifierMixin, _Recalibrated):  # type: ignore[misc]
    """Predicts the class of the largest recalibrated probability."""

    @property
    def classes_(self) -> np.ndarray:
        """The pipeline's classes, shape (k,)."""
        return np.asarray(self.pipeline.classes_)

    def predict_proba(self, x: Any) -> np.ndarray:
        """Recalibrated probabilities, shape (n, k)."""
        chances = np.asarray(self.pipeline.predict_proba(x), dtype=float)
        calibration = recalibration_of(self)
        if calibration.task == "multiclass_classification":
            return calibration.apply(chances)
        positive = calibration.apply(chances[:, 1])
        return np.column_stack([1 - positive, positive])

    def predict(self, x: Any) -> np.ndarray:
        """Classes, shape (n,)."""
        classes: np.ndarray = self.classes_[self.predict_proba(x).argmax(axis=1)]
        return classes


class RecalibratedRegressor(RegressorMixin, _Recalibrated):  # type: ignore[misc]
    """Predicts recalibrated values."""

    def predict(self, x: Any) -> np.ndarray:
        """Values, shape (n,)."""
        values = np.asarray(self.pipeline.predict(x), dtype=float)
        return recalibration_of(self).apply(values.reshape(len(values), -1)[:, 0])


def recalibrate_pipeline(pipeline: Any, calibration: Recalibration) -> Any:
    """The pipeline with a calibration behind it; one that has some already gets both in one.

    Args:
        pipeline: Fitted, with or without a calibration behind it.
        calibration: Fitted on the scores of `pipeline` as it is given.
    """
    if isinstance(pipeline, _Recalibrated):
        calibration, pipeline = calibration.after(recalibration_of(pipeline)), pipeline.pipeline
    kind = RecalibratedRegressor if calibration.task == "regression" else RecalibratedClassifier
    return kind(pipeline, float(calibration.slope), [float(offset) for offset in calibration.offsets])


def recalibration_of(pipeline: Any) -> Recalibration:
    """The calibration behind a pipeline that `recalibrate_pipeline` made."""
    if isinstance(pipeline, RecalibratedRegressor):
        task = "regression"
    else:
        task = "binary_classification" if len(pipeline.offsets) == 1 else "multiclass_classification"
    return Recalibration(task, pipeline.slope, tuple(pipeline.offsets))


def is_recalibrated(pipeline: Any) -> bool:
    """Whether `recalibrate_pipeline` made it."""
    return isinstance(pipeline, _Recalibrated)
