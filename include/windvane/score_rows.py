"""Metrics as functions of row weights, so that a bootstrap needs milliseconds: exact fast paths for the usual ones, and
any other scikit-learn scorer through `sample_weight`.
"""

import difflib
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from windvane.errors import ConfigError

Score = Callable[[np.ndarray], float]


def weighted_score(metric_name: str, outcomes: np.ndarray, scores: np.ndarray) -> Score:
    """Prepare a metric on some rows; the result maps weights of the rows to the metric, greater is better.

    Args:
        metric_name: Name of a scikit-learn scorer.
        outcomes: Shape (n,): numbers of a regression, or class numbers 0 to k - 1.
        scores: Shape (n,): P(class 1) or predicted values; shape (n, k): P of each class.

    Raises:
        ConfigError: If scikit-learn has no such scorer.
    """
    fast = _FAST.get((metric_name, scores.ndim))
    return fast(outcomes, scores) if fast else _by_scikit_learn(metric_name, outcomes, scores)


def _roc_auc(outcomes: np.ndarray, scores: np.ndarray) -> Score:
    order = np.argsort(scores, kind="stable")
    positive = outcomes[order] == 1
    ends = np.flatnonzero(np.diff(scores[order], append=np.inf))

    def score(weights: np.ndarray) -> float:
        drawn = weights[order]
        above = np.cumsum(np.where(positive, drawn, 0.0))[ends]
        below = np.cumsum(np.where(positive, 0.0, drawn))[ends]
        if not (above[-1] and below[-1]):
            return math.nan
        # the area under the curve by trapezoids; rows of equal score share one step
        steps = np.diff(above, prepend=0.0)
        between = below - np.diff(below, prepend=0.0) / 2
        return float(steps @ between / (above[-1] * below[-1]))

    return score


def _average_precision(outcomes: np.ndarray, scores: np.ndarray) -> Score:
    order = np.argsort(-scores, kind="stable")
    positive = outcomes[order] == 1
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))

    def score(weights: np.ndarray) -> float:
        drawn = weights[order]
        found = np.cumsum(np.where(positive, drawn, 0.0))[ends]
        seen = np.cumsum(drawn)[ends]
        if not found[-1]:
            return math.nan
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        return float(np.diff(found, prepend=0.0) @ precision / found[-1])

    return score


def _roc_auc_one_versus_rest(weighted: bool) -> Callable[[np.ndarray, np.ndarray], Score]:
    def prepare(outcomes: np.ndarray, scores: np.ndarray) -> Score:
        classes = range(scores.shape[1])
        each = [_roc_auc((outcomes == c).astype(float), scores[:, c]) for c in classes]

        def score(weights: np.ndarray) -> float:
            sizes = np.array([weights[outcomes == c].sum() for c in classes]) if weighted else np.ones(len(each))
            return float(np.average([one(weights) for one in each], weights=sizes))

        return score

    return prepare


def _mean_of(
    row: Callable[[np.ndarray, np.ndarray], np.ndarray], after: Callable[[float], float] = lambda mean: mean
) -> Callable[[np.ndarray, np.ndarray], Score]:
    """A metric that is the weighted mean of something that each row has."""

    def prepare(outcomes: np.ndarray, scores: np.ndarray) -> Score:
        values = row(outcomes, scores)
        return lambda weights: after(float(weights @ values / weights.sum()))

    return prepare


def _r2(outcomes: np.ndarray, scores: np.ndarray) -> Score:
    errors = (outcomes - scores) ** 2

    def score(weights: np.ndarray) -> float:
        spread = weights @ (outcomes - np.average(outcomes, weights=weights)) ** 2
        return float(1 - weights @ errors / spread) if spread > 0 else math.nan

    return score


def _right(outcomes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    right: np.ndarray = (_labels(scores) == outcomes).astype(float)
    return right


def _log_likelihood(outcomes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    chances = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    of_outcome = chances[np.arange(len(chances)), outcomes.astype(int)]
    smallest = np.finfo(float).eps
    logarithms: np.ndarray = np.log(np.clip(of_outcome, smallest, 1 - smallest))
    return logarithms


def _labels(scores: np.ndarray) -> np.ndarray:
    labels: np.ndarray = (scores > 0.5).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
    return labels


_Prepare = Callable[[np.ndarray, np.ndarray], Score]
_FAST: dict[tuple[str, int], _Prepare] = {
    ("roc_auc", 1): _roc_auc,
    ("average_precision", 1): _average_precision,
    ("roc_auc_ovr", 2): _roc_auc_one_versus_rest(weighted=False),
    ("roc_auc_ovr_weighted", 2): _roc_auc_one_versus_rest(weighted=True),
    ("accuracy", 1): _mean_of(_right),
    ("accuracy", 2): _mean_of(_right),
    ("neg_log_loss", 1): _mean_of(_log_likelihood),
    ("neg_log_loss", 2): _mean_of(_log_likelihood),
    ("neg_brier_score", 1): _mean_of(lambda y, p: -((y - p) ** 2)),
    ("neg_mean_squared_error", 1): _mean_of(lambda y, p: -((y - p) ** 2)),
    ("neg_root_mean_squared_error", 1): _mean_of(lambda y, p: (y - p) ** 2, after=lambda mean: -math.sqrt(mean)),
    ("neg_mean_absolute_error", 1): _mean_of(lambda y, p: -np.abs(y - p)),
    ("r2", 1): _r2,
}


def _by_scikit_learn(metric_name: str, outcomes: np.ndarray, scores: np.ndarray) -> Score:
    scorer = find_scorer(metric_name)
    function, sign, options = scorer._score_func, scorer._sign, scorer._kwargs
    regression = function.__module__.startswith("sklearn.metrics._regression")
    truth = outcomes if regression else outcomes.astype(int)
    given: np.ndarray = scores if regression or scorer._response_method != "predict" else _labels(scores)
    rows = np.arange(len(truth))
    if not regression and scorer._response_method == "predict":
        # few distinct pairs of truth and prediction: score them once with their total weights
        pairs, rows = np.unique(np.column_stack([truth, given]), axis=0, return_inverse=True)
        truth, given = pairs[:, 0], pairs[:, 1]
    takes_weights = "sample_weight" in inspect.signature(function).parameters

    def score(weights: np.ndarray) -> float:
        totals = np.bincount(rows, weights=weights, minlength=len(truth))
        drawn = totals > 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if takes_weights:
                    value = function(truth[drawn], given[drawn], sample_weight=totals[drawn], **options)
                else:
                    times = totals.astype(int)
                    value = function(np.repeat(truth, times), np.repeat(given, times, axis=0), **options)
        except ValueError:
            # such as one class only: the metric is not defined on these rows
            return math.nan
        return float(sign * value)

    return score


def find_scorer(metric_name: str) -> Any:
    """The scikit-learn scorer of a name.

    Raises:
        ConfigError: If there is none.
    """
    from sklearn.metrics import get_scorer, get_scorer_names

    names = get_scorer_names()
    if metric_name not in names:
        close = difflib.get_close_matches(metric_name, names, n=1)
        hint = f" - did you mean '{close[0]}'?" if close else "; see sklearn.metrics.get_scorer_names()"
        raise ConfigError([f"gates.metric: scikit-learn has no scorer '{metric_name}'{hint}"])
    return get_scorer(metric_name)
