"""The value that a metric of a classifier is expected to have when only each row's chances of its outcomes are known.

Every outcome that a row may have counts with its chance, in the confusion matrix and along the curves: confidence-based performance
estimation (Kivimäki, Białek, Kuberski and Nurminen, Performance Estimation in Binary Classification Using Calibrated Confidence, 2025,
arXiv:2505.05295). Sums are replaced by their expectations, so a ratio is right up to terms of 1 / rows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Expected:
    """An expected metric and how it depends on the chances.

    Attributes:
        value: Greater is better, as with scikit-learn scorers; NaN where the metric is not defined.
        slope: Shape (n, k): by how much the value grows per unit of each chance. Only differences within a row count.
    """

    value: float
    slope: np.ndarray


def can_expect(metric: str, *, classes: int) -> bool:
    """Whether there is a formula for this scikit-learn scorer with so many classes."""
    return (metric, min(classes, 3) - 1) in _METRICS


def expectable(*, classes: int) -> list[str]:
    """Names of the scorers that there is a formula for."""
    return sorted(name for name, ndim in _METRICS if ndim == min(classes, 3) - 1)


def expect_metric(metric: str, chances: np.ndarray, scores: np.ndarray) -> Expected:
    """The expected metric of some predictions.

    Args:
        metric: A name for which `can_expect` is true.
        chances: Shape (n, k): the chance of each class, rows sum to 1.
        scores: What is judged: shape (n,), P(class 1); or (n, k), P of each class.
    """
    return _METRICS[metric, scores.ndim](chances, scores)


_Expect = Callable[[np.ndarray, np.ndarray], Expected]
_OfMatrix = Callable[[np.ndarray], np.ndarray]
_STEP = 1e-6


def _mean_of(row: Callable[[np.ndarray], np.ndarray]) -> _Expect:
    """A metric that is the mean of something that each row has, given its outcome: shape (n, k)."""

    def expect(chances: np.ndarray, scores: np.ndarray) -> Expected:
        values = row(scores)
        return Expected(float((chances * values).sum() / len(scores)), values / len(scores))

    return expect


def _log_likelihood(scores: np.ndarray) -> np.ndarray:
    said = _both(scores) if scores.ndim == 1 else scores
    smallest = np.finfo(float).eps
    logarithms: np.ndarray = np.log(np.clip(said, smallest, 1 - smallest))
    return logarithms


def _both(scores: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - scores, scores])


def _of_matrix(function: _OfMatrix) -> _Expect:
    """A metric of the confusion matrix: `function` takes matrices of shape (m, k, k), true class by predicted class, and returns (m,)."""

    def expect(chances: np.ndarray, scores: np.ndarray) -> Expected:
        n, k = chances.shape
        predicted = (scores > 0.5).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        matrix = np.stack([np.bincount(predicted, weights=chances[:, c], minlength=k) for c in range(k)]) / n
        slope = np.stack([_slope(function, matrix, c) for c in range(k)])
        return Expected(float(function(matrix[None])[0]), slope[:, predicted].T / n)

    return expect


def _slope(function: _OfMatrix, matrix: np.ndarray, true: int) -> np.ndarray:
    """By central differences: shape (k,), of the cells of one true class."""
    k = len(matrix)
    steps = np.zeros((k, k, k))
    steps[np.arange(k), true, np.arange(k)] = _STEP
    lower = np.maximum(matrix - steps, 0)
    taken = _STEP + np.minimum(matrix[true], _STEP)
    slope: np.ndarray = (function(matrix + steps) - function(lower)) / taken
    return slope


def _ratio(above: np.ndarray, below: np.ndarray, *, empty: float = 0.0) -> np.ndarray:
    result: np.ndarray = np.divide(above, below, out=np.full(np.broadcast(above, below).shape, empty), where=below > 0)
    return result


def _diagonal(matrices: np.ndarray) -> np.ndarray:
    return np.diagonal(matrices, axis1=1, axis2=2)


def _recalls(matrices: np.ndarray) -> np.ndarray:
    return _ratio(_diagonal(matrices), matrices.sum(axis=2))


def _precisions(matrices: np.ndarray) -> np.ndarray:
    return _ratio(_diagonal(matrices), matrices.sum(axis=1))


def _f1s(matrices: np.ndarray) -> np.ndarray:
    return _ratio(2 * _diagonal(matrices), matrices.sum(axis=1) + matrices.sum(axis=2))


def _accuracy(matrices: np.ndarray) -> np.ndarray:
    return _ratio(_diagonal(matrices).sum(axis=1), matrices.sum(axis=(1, 2)))


def _balanced_accuracy(matrices: np.ndarray) -> np.ndarray:
    there = matrices.sum(axis=2) > 0
    return _ratio((_recalls(matrices) * there).sum(axis=1), there.sum(axis=1))


def _matthews(matrices: np.ndarray) -> np.ndarray:
    # Gorodkin, Comparing Two K-category Assignments by a K-category Correlation Coefficient, 2004
    true, said, total = matrices.sum(axis=2), matrices.sum(axis=1), matrices.sum(axis=(1, 2))
    shared = _diagonal(matrices).sum(axis=1) * total - (true * said).sum(axis=1)
    return _ratio(shared, np.sqrt((total**2 - (true**2).sum(axis=1)) * (total**2 - (said**2).sum(axis=1))))


def _of_class_1(each: _OfMatrix) -> _Expect:
    return _of_matrix(lambda matrices: each(matrices)[:, 1])


def _macro(each: _OfMatrix) -> _Expect:
    return _of_matrix(lambda matrices: each(matrices).mean(axis=1))


def _weighted(each: _OfMatrix) -> _Expect:
    return _of_matrix(lambda matrices: _ratio((each(matrices) * matrices.sum(axis=2)).sum(axis=1), matrices.sum(axis=(1, 2))))


def _area(positive: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """The area under the ROC curve of one class against the rest, and its slope by each row's chance to be of it."""
    starts, ends, order = _ties(scores)
    drawn = positive[order]
    ups = np.add.reduceat(drawn, starts)
    downs = (ends - starts) - ups
    total, rest = float(ups.sum()), float(downs.sum())
    if not (total > 0 and rest > 0):
        return math.nan, np.zeros(len(scores))
    below = np.cumsum(downs) - downs / 2
    above = total - np.cumsum(ups) + ups / 2
    area = float(ups @ below) / (total * rest)
    slope = np.empty(len(scores))
    slope[order] = np.repeat((below - above) / (total * rest) - area / total + area / rest, ends - starts)
    return area, slope


def _ties(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where runs of equal scores start and end in ascending order, and that order."""
    order = np.argsort(scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.inf)) + 1
    return np.concatenate([[0], ends[:-1]]), ends, order


def _roc_auc(chances: np.ndarray, scores: np.ndarray) -> Expected:
    area, slope = _area(chances[:, 1], scores)
    return Expected(area, np.column_stack([np.zeros(len(slope)), slope]))


def _average_precision(chances: np.ndarray, scores: np.ndarray) -> Expected:
    starts, ends, order = _ties(-scores)
    found = np.add.reduceat(chances[order, 1], starts)
    total = float(found.sum())
    if not total > 0:
        return Expected(math.nan, np.zeros_like(chances))
    precision = np.cumsum(found) / ends
    value = float(found @ precision) / total
    later = np.cumsum((found / ends)[::-1])[::-1]
    slope = np.zeros_like(chances)
    slope[order, 1] = np.repeat((precision + later - value) / total, ends - starts)
    return Expected(value, slope)


def _one_versus_rest(weighted: bool) -> _Expect:
    def expect(chances: np.ndarray, scores: np.ndarray) -> Expected:
        n, k = chances.shape
        areas, slopes = zip(*(_area(chances[:, c], scores[:, c]) for c in range(k)), strict=True)
        each, slope = np.array(areas), np.column_stack(slopes)
        if not weighted:
            return Expected(float(each.mean()), slope / k)
        sizes = chances.mean(axis=0)
        return Expected(float(each @ sizes), slope * sizes + each / n)

    return expect


_METRICS: dict[tuple[str, int], _Expect] = {
    ("roc_auc", 1): _roc_auc,
    ("average_precision", 1): _average_precision,
    ("roc_auc_ovr", 2): _one_versus_rest(weighted=False),
    ("roc_auc_ovr_weighted", 2): _one_versus_rest(weighted=True),
    ("neg_brier_score", 1): _mean_of(lambda p: -np.column_stack([p**2, (1 - p) ** 2])),
    ("precision", 1): _of_class_1(_precisions),
    ("recall", 1): _of_class_1(_recalls),
    ("f1", 1): _of_class_1(_f1s),
    **{("neg_log_loss", ndim): _mean_of(_log_likelihood) for ndim in (1, 2)},
    **{("accuracy", ndim): _of_matrix(_accuracy) for ndim in (1, 2)},
    **{("balanced_accuracy", ndim): _of_matrix(_balanced_accuracy) for ndim in (1, 2)},
    **{("matthews_corrcoef", ndim): _of_matrix(_matthews) for ndim in (1, 2)},
    **{(f"{name}_micro", 2): _of_matrix(_accuracy) for name in ("precision", "recall", "f1")},
    **{
        (f"{name}_macro", ndim): _macro(f)
        for name, f in (("precision", _precisions), ("recall", _recalls), ("f1", _f1s))
        for ndim in (1, 2)
    },
    **{
        (f"{name}_weighted", ndim): _weighted(f)
        for name, f in (("precision", _precisions), ("recall", _recalls), ("f1", _f1s))
        for ndim in (1, 2)
    },
}
