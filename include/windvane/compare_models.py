"""Scores models by any scikit-learn scorer and compares two of them on the same rows by a paired bootstrap.

The bootstrap draws rows with replacement and scores both models on each draw, so that what is hard for both cancels out
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16). Accuracy needs no draws: which of the rows that one
model has right and the other wrong are whose is a coin's throw for equal models (McNemar, 1947; with the mid-p value, which is nearer
to its level than the exact one: Fagerland, Lydersen and Laake, The McNemar test for binary matched-pairs data, 2013).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from windvane.errors import DataError
from windvane.predictor import Predictions
from windvane.score_rows import weighted_score

ComparisonVerdict = Literal["better", "not_worse", "worse", "inconclusive"]

_FEWEST_ROWS = 20
_FEWEST_VALID_RESAMPLES = 0.9


@dataclass(frozen=True)
class Comparison:
    """How model A differs from model B on the same rows; in the metric's unit, greater is better for A.

    Attributes:
        difference: Metric of A minus metric of B.
        low: Lower end of the one-sided interval of the difference; NaN when it cannot be told.
        high: Upper end.
        n: Rows.
        verdict: `better` if low is above the margin and zero, `not_worse` if it is above a negative margin, `worse` if
            high is below zero, else `inconclusive`.
    """

    difference: float
    low: float
    high: float
    n: int
    verdict: ComparisonVerdict

    def as_json(self) -> dict[str, Any]:
        """The form for evidence; what is not finite becomes null."""
        return {
            "difference": finite_or_none(self.difference),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "n": self.n,
            "verdict": self.verdict,
        }


def finite_or_none(value: float | None) -> float | None:
    """The number, or None if it is NaN or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def scores_of(predictions: Predictions, task: str) -> np.ndarray:
    """What metrics are computed from: P(positive) of a binary classifier, P (n, k) of a multiclass one, values of a regression."""
    if task == "regression":
        return np.asarray(predictions.values, dtype=float)
    if predictions.probabilities is None:
        raise DataError(
            f"predictions of task {task} have no probabilities; use a classifier with predict_proba, such as CalibratedClassifierCV"
        )
    return predictions.probabilities[:, 1] if task == "binary_classification" else predictions.probabilities


def outcomes_of(labels: Any, task: str, classes: Sequence[Any] | None) -> np.ndarray:
    """Labels as metrics need them: numbers of a regression, or each label's place in `classes`.

    Raises:
        DataError: If a label is not one of the classes.
    """
    values = np.asarray(labels)
    if task == "regression" or classes is None:
        return values.astype(float)
    codes = np.full(len(values), -1)
    for place, label in enumerate(classes):
        codes[values == label] = place
    if (codes < 0).any():
        raise DataError(f"labels: {int((codes < 0).sum())} of {len(codes)} rows have a label that the model never saw; train on newer data")
    return codes


def align_classes(predictions: Predictions, own: Sequence[Any] | None, classes: Sequence[Any] | None) -> Predictions:
    """The probabilities with a column for each of `classes`; a class that the model never saw has probability 0."""
    if predictions.probabilities is None or own is None or classes is None or list(own) == list(classes):
        return predictions
    places = {label: place for place, label in enumerate(own)}
    never = np.zeros(len(predictions.values))
    columns = [predictions.probabilities[:, places[label]] if label in places else never for label in classes]
    return Predictions(predictions.values, np.column_stack(columns))


def score_metric(metric_name: str, task: str, y: Any, predictions: Predictions, classes: Sequence[Any] | None) -> float:
    """Score predictions against labels; greater is better, as with every scikit-learn scorer.

    Returns:
        NaN where the metric is not defined, such as an AUC of one class.

    Raises:
        ConfigError: If scikit-learn has no such scorer or it does not suit the task.
        DataError: If a label is not one of the classes.
    """
    return score_outcomes(metric_name, outcomes_of(y, task, classes), scores_of(predictions, task))


def score_outcomes(metric_name: str, y: Any, scores: np.ndarray) -> float:
    """Score what `outcomes_of` and `scores_of` return; NaN where the metric is not defined."""
    outcomes = np.asarray(y, dtype=float)
    if not len(outcomes) or not np.isfinite(outcomes).all() or not np.isfinite(scores).all():
        return math.nan
    return weighted_score(metric_name, outcomes, scores)(np.ones(len(outcomes)))


def interval(
    metric_name: str, y: Any, scores: np.ndarray, *, confidence: float, seed: int, resamples: int = 500
) -> tuple[float, float, float]:
    """The metric of one model with the ends of its one-sided bootstrap intervals: (value, low, high), NaN where undefined."""
    outcomes = np.asarray(y, dtype=float)
    value = score_outcomes(metric_name, outcomes, scores)
    if len(outcomes) < _FEWEST_ROWS or not math.isfinite(value):
        return value, math.nan, math.nan
    score = weighted_score(metric_name, outcomes, scores)
    return (value, *_ends(np.array([score(w) for w in _weights(len(outcomes), resamples, seed)]), confidence))


def paired_bootstrap(
    metric_name: str,
    y: Any,
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    *,
    confidence: float,
    seed: int,
    resamples: int = 1000,
    margin: float = 0.0,
) -> Comparison:
    """Compare model A with model B on the same rows.

    Args:
        metric_name: Name of a scikit-learn scorer.
        y: Shape (n,), from `outcomes_of`.
        scores_a: From `scores_of`: shape (n,), or (n, k) for multiclass.
        scores_b: The same rows in the same order.
        confidence: One-sided: the chance that a pair of equal models is called `better` is at most 1 - confidence.
        seed: Seed of the resampling.
        resamples: Number of draws.
        margin: By how much A must be better; negative allows A to be that much worse.
    """
    outcomes, a, b = np.asarray(y, dtype=float), np.asarray(scores_a, dtype=float), np.asarray(scores_b, dtype=float)
    n = len(outcomes)
    if not (len(a) == len(b) == n):
        raise DataError(f"a paired comparison needs the same rows, got {len(a)} and {len(b)} predictions for {n} labels")
    difference = score_outcomes(metric_name, outcomes, a) - score_outcomes(metric_name, outcomes, b)
    if n < _FEWEST_ROWS or not math.isfinite(difference):
        return Comparison(difference, math.nan, math.nan, n, "inconclusive")
    if np.array_equal(a, b):
        return Comparison(0.0, 0.0, 0.0, n, "not_worse" if margin < 0 else "inconclusive")
    if metric_name == "accuracy":
        low, high = _mcnemar(_labels(a) == outcomes, _labels(b) == outcomes, confidence)
        return Comparison(difference, low, high, n, _verdict(low, high, margin))
    score_a, score_b = weighted_score(metric_name, outcomes, a), weighted_score(metric_name, outcomes, b)
    low, high = _ends(np.array([score_a(w) - score_b(w) for w in _weights(n, resamples, seed)]), confidence)
    return Comparison(difference, low, high, n, _verdict(low, high, margin))


def _mcnemar(right_a: np.ndarray, right_b: np.ndarray, confidence: float) -> tuple[float, float]:
    """One-sided ends of the difference of two shares of right answers, given the number of rows where only one is right."""
    wins, losses = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n, uneven = len(right_a), wins + losses
    if not uneven:
        return 0.0, 0.0
    low, high = _least_share(wins, uneven, 1 - confidence), 1 - _least_share(losses, uneven, 1 - confidence)
    return (2 * low - 1) * uneven / n, (2 * high - 1) * uneven / n


def _labels(scores: np.ndarray) -> np.ndarray:
    labels: np.ndarray = (scores > 0.5).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
    return labels


def _least_share(hits: int, n: int, level: float) -> float:
    """The lower one-sided end of a share of n by the mid-p value: at it, `hits` or more have that chance, with half of equality's."""
    from scipy.optimize import brentq
    from scipy.stats import binom

    if not hits:
        return 0.0
    found: float = brentq(lambda p: binom.sf(hits, n, p) + binom.pmf(hits, n, p) / 2 - level, 0.0, 1.0, xtol=1e-12)
    return found


def _verdict(low: float, high: float, margin: float) -> ComparisonVerdict:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "inconclusive"
    if low > max(margin, 0.0):
        return "better"
    if margin < 0 and low > margin:
        return "not_worse"
    return "worse" if high < 0 else "inconclusive"


def _weights(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row was drawn, one array per resample."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, n, n), minlength=n).astype(float)


def _ends(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The lower and the upper one-sided end; NaN if too many resamples were undefined to trust the rest."""
    valid = values[np.isfinite(values)]
    if len(valid) < _FEWEST_VALID_RESAMPLES * len(values):
        return math.nan, math.nan
    low, high = np.quantile(valid, [1 - confidence, confidence])
    return float(low), float(high)
