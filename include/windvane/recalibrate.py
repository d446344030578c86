"""Moves the scores of a model so that they fit newer outcomes, with one slope for all rows: their order stays (nearly) what it was.

Binary: Platt scaling of the log odds (Platt, Probabilistic Outputs for Support Vector Machines, 1999). Multiclass: temperature
scaling with an offset for each class (Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017; the offsets
repair shifted base rates as in Saerens, Latinne and Decaestecker, Adjusting the Outputs of a Classifier to New a Priori
Probabilities, 2002). Regression: a line. Each is held near the identity by a normal prior, which counts where rows are few.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from windvane.compare_means import Mean, block_mean, chance_of_excess
from windvane.errors import DataError

SMALLEST = 1e-9
"""Probabilities are kept this far off 0 and 1 before their logarithm is taken."""
_LEAST_SLOPE = 0.01
_FEWEST_ROWS = 20
# one standard deviation of the priors, in units of log odds and of the slope; an offset is worth about as much as 16 even rows
_OFFSET_PRIOR, _SLOPE_PRIOR = 0.5, 0.25
_PRIOR_ROWS = 10
_SURE = 0.01


@dataclass(frozen=True)
class Recalibration:
    """A map from scores to scores.

    Binary: logit(p') = offset + slope logit(p). Multiclass: p' = softmax(offsets + slope log p). Regression: y' = offset + slope y.

    Attributes:
        task: The task of the config.
        slope: Above 0, so that the order of the scores stays.
        offsets: One number; one for each class in multiclass.
        rows: Rows that it was fitted on.
    """

    task: str
    slope: float
    offsets: tuple[float, ...]
    rows: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.slope == 1.0 and not any(self.offsets)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Move scores; what is not finite stays so.

        Args:
            scores: From `compare_models.scores_of`: shape (n,), or (n, k) for multiclass.

        Returns:
            The same shape.

        Raises:
            DataError: If the scores have another number of classes.
        """
        scores = np.asarray(scores, dtype=float)
        _require_shape(self.task, scores, len(self.offsets))
        if self.is_identity:
            return scores
        if self.task == "regression":
            moved: np.ndarray = self.offsets[0] + self.slope * scores
            return moved
        if self.task == "binary_classification":
            chances: np.ndarray = _expit(self.offsets[0] + self.slope * _logit(scores))
            return chances
        return _softmax(np.asarray(self.offsets) + self.slope * np.log(np.maximum(scores, SMALLEST)))

    def after(self, first: "Recalibration") -> "Recalibration":
        """One map that does what `first` and then this one do."""
        offsets = [own + self.slope * theirs for own, theirs in zip(self.offsets, first.offsets, strict=True)]
        return Recalibration(self.task, self.slope * first.slope, tuple(offsets), self.rows)

    def as_json(self) -> dict[str, Any]:
        """The form for the bundle's manifest and evidence."""
        return {"task": self.task, "slope": self.slope, "offsets": list(self.offsets), "rows": self.rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Recalibration":
        """Read what `as_json` wrote.

        Raises:
            DataError: If it is not a map: no number, or a slope that is not above 0.
        """
        try:
            slope, offsets = float(value["slope"]), tuple(float(offset) for offset in value["offsets"])
            found = cls(str(value["task"]), slope, offsets, int(value.get("rows", 0)))
        except (KeyError, TypeError, ValueError) as exc:
            raise DataError(f"recalibration: is incomplete: {type(exc).__name__}; train again") from exc
        if not (offsets and all(map(math.isfinite, (slope, *offsets))) and slope > 0):
            raise DataError(f"recalibration: got slope {slope} and offsets {offsets}, allowed are finite numbers and a slope above 0")
        return found


def identity(task: str, classes: int = 1) -> Recalibration:
    """The map that changes nothing.

    Args:
        classes: Number of classes in multiclass; 1 otherwise.
    """
    return Recalibration(task, 1.0, (0.0,) * classes)


def fit_recalibration(task: str, outcomes: np.ndarray, scores: np.ndarray) -> Recalibration:
    """Fit the map to rows that the model was not trained on, in time order.

    Args:
        task: The task of the config.
        outcomes: Shape (n,), from `compare_models.outcomes_of`.
        scores: From `compare_models.scores_of`: shape (n,), or (n, k) for multiclass.

    Returns:
        The map; the identity where fewer than 20 rows are finite, or their outcomes are all of one class.

    Raises:
        DataError: If the shapes do not fit each other.
    """
    outcomes, scores = np.asarray(outcomes, dtype=float), np.asarray(scores, dtype=float)
    classes = scores.shape[1] if scores.ndim == 2 else 1
    _require_shape(task, scores, classes)
    if len(outcomes) != len(scores):
        raise DataError(f"recalibration: got {len(outcomes)} outcomes and {len(scores)} scores, they must be as many")
    finite = np.isfinite(outcomes) & (np.isfinite(scores) if scores.ndim == 1 else np.isfinite(scores).all(axis=1))
    outcomes, scores = outcomes[finite], scores[finite]
    if len(outcomes) < _FEWEST_ROWS:
        return identity(task, classes)
    if task == "regression":
        with np.errstate(over="ignore", invalid="ignore"):
            return _fit_line(outcomes, scores)
    if outcomes.min() == outcomes.max():
        return identity(task, classes)
    if task == "binary_classification":
        return _fit_binary(outcomes, _logit(scores))
    return _fit_multiclass(outcomes.astype(int), np.log(np.maximum(scores, SMALLEST)))


def _fit_line(outcomes: np.ndarray, scores: np.ndarray) -> Recalibration:
    """Least squares; the slope stays 1 unless another is surely better, the offset is drawn to 0 as by a few rows without error."""
    n, errors = len(outcomes), outcomes - scores
    centred, slope = scores - scores.mean(), 1.0
    variance = float(np.mean(centred**2))
    if variance > np.finfo(float).tiny and math.isfinite(variance):
        tilt = float(np.mean(centred * errors)) / variance
        residual = errors - errors.mean() - tilt * centred
        # each row's share in the slope: their mean is the slope's, their spread its error (Huber, 1967)
        mean = block_mean(tilt + centred * residual / variance)
        if 2 * chance_of_excess(Mean(abs(mean.value), mean.error, mean.freedom, mean.rows)) < _SURE:
            slope = max(1 + tilt, _LEAST_SLOPE)
    offset = float(np.mean(outcomes - slope * scores))
    if slope == 1.0:
        offset *= n / (n + _PRIOR_ROWS)
    return Recalibration("regression", slope, (offset,), n) if math.isfinite(offset) else identity("regression")


def _fit_binary(outcomes: np.ndarray, odds: np.ndarray) -> Recalibration:
    n = len(outcomes)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        offset, slope = parameters
        logits = offset + slope * odds
        error = _expit(logits) - outcomes
        loss = float(np.sum(np.logaddexp(0.0, logits) - outcomes * logits)) + _penalty(offset, slope)
        gradient = [np.sum(error) + offset / _OFFSET_PRIOR**2, error @ odds + (slope - 1) / _SLOPE_PRIOR**2]
        return loss / n, np.array(gradient) / n

    offset, slope = _minimise(objective, 1)
    return Recalibration("binary_classification", slope, (float(offset[0]),), n)


def _fit_multiclass(outcomes: np.ndarray, logs: np.ndarray) -> Recalibration:
    n, classes = logs.shape
    hot = np.zeros((n, classes))
    hot[np.arange(n), outcomes] = 1.0

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        offsets, slope = parameters[:-1], parameters[-1]
        logits = offsets + slope * logs
        largest = logits.max(axis=1)
        totals = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
        error = np.exp(logits - totals[:, None]) - hot
        loss = float(np.sum(totals - (hot * logits).sum(axis=1))) + _penalty(offsets, slope)
        gradient = [*(error.sum(axis=0) + offsets / _OFFSET_PRIOR**2), np.sum(error * logs) + (slope - 1) / _SLOPE_PRIOR**2]
        return loss / n, np.array(gradient) / n

    offsets, slope = _minimise(objective, classes)
    return Recalibration("multiclass_classification", slope, tuple(float(offset) for offset in offsets), n)


def _penalty(offsets: Any, slope: float) -> float:
    """Minus the logarithm of the priors."""
    return float(np.sum(np.square(offsets))) / (2 * _OFFSET_PRIOR**2) + (slope - 1) ** 2 / (2 * _SLOPE_PRIOR**2)


def _minimise(objective: Any, offsets: int) -> tuple[np.ndarray, float]:
    """Offsets and slope, from the identity on."""
    from scipy.optimize import minimize

    bounds = [(None, None)] * offsets + [(_LEAST_SLOPE, None)]
    found = minimize(objective, np.array([0.0] * offsets + [1.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:-1], float(found[-1])


def _require_shape(task: str, scores: np.ndarray, classes: int) -> None:
    wanted = (len(scores), classes) if task == "multiclass_classification" else (len(scores),)
    if scores.shape != wanted:
        raise DataError(f"recalibration of {task}: got scores of shape {scores.shape}, allowed is {wanted}")


def _logit(chances: np.ndarray) -> np.ndarray:
    kept = np.clip(chances, SMALLEST, 1 - SMALLEST)
    odds: np.ndarray = np.log(kept) - np.log1p(-kept)
    return odds


def _expit(odds: np.ndarray) -> np.ndarray:
    # of a negative number only, so that nothing overflows
    small = np.exp(-np.abs(odds))
    chances: np.ndarray = np.where(odds >= 0, 1.0, small) / (1 + small)
    return chances


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return chances
