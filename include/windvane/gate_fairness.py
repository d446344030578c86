"""The gate on groups of people: Fairlearn's difference between the best and the worst treated group, with its uncertainty."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd

from windvane.compare_models import finite_or_none
from windvane.config import Fairness
from windvane.verdict import Disparity, Gate

_NAME = "fairness"
_RESAMPLES = 1000
_FEWEST_VALID_RESAMPLES = 0.9
_ANY_CLASSES = ("accuracy_score_difference", "zero_one_loss_difference")
# the outcomes that each group must have for its rates to be defined
_NEEDS = {
    "equal_opportunity_difference": (1,),
    "true_positive_rate_difference": (1,),
    "false_negative_rate_difference": (1,),
    "false_positive_rate_difference": (0,),
    "true_negative_rate_difference": (0,),
    "equalized_odds_difference": (0, 1),
}


def judge_fairness(
    rule: Fairness, *, task: str, rows: pd.DataFrame, outcomes: np.ndarray, scores: np.ndarray, confidence: float, seed: int
) -> Gate:
    """Pass a classifier whose groups surely differ by at most what is allowed; each sensitive column is judged on its own.

    The upper end of the difference is that of a bootstrap of rows, less the bootstrap's own bias: chance alone sets groups apart
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 10).

    Args:
        rule: `gates.fairness`.
        task: The task of the config.
        rows: n rows with the sensitive columns.
        outcomes: Shape (n,), from `compare_models.outcomes_of`; in a binary classification 1 is the selected class.
        scores: From `compare_models.scores_of`: shape (n,) or (n, k).
        confidence: One-sided.
        seed: Seed of the resampling.
    """
    if not _is_defined(rule, task):
        allowed = "a classifier" if task == "regression" else f"a binary classification; of several classes judge {_ANY_CLASSES[0]}"
        return Gate(_NAME, False, f"{rule.measure} is defined for {allowed}.", math.nan, rule.at_most)
    lost = [name for name in rule.sensitive if name not in rows.columns]
    if lost:
        reason = f"The data has no column {', '.join(lost)}; mend gates.fairness.sensitive."
        return Gate(_NAME, False, reason, math.nan, rule.at_most)
    if not _are_finite(outcomes, scores):
        return Gate(_NAME, False, f"{rule.measure} is not defined on these {len(outcomes)} rows.", math.nan, rule.at_most)
    predicted = _predicted(scores)
    found = [_judge_column(rule, name, rows[name], outcomes.astype(int), predicted, confidence, seed) for name in rule.sensitive]
    values = [value for _, value, _ in found]
    worst = max(values) if all(map(math.isfinite, values)) else math.nan
    told = "; ".join(text for _, _, text in found)
    return Gate(_NAME, all(passed for passed, _, _ in found), f"{rule.measure}, at most {rule.at_most:g}: {told}.", worst, rule.at_most)


def find_disparities(
    rule: Fairness, *, task: str, rows: pd.DataFrame, outcomes: np.ndarray, challenger: np.ndarray, champion: np.ndarray | None
) -> tuple[Disparity, ...]:
    """The measure of both models for each sensitive column, on the groups that are large enough to be judged.

    Args:
        rule: `gates.fairness`.
        task: The task of the config.
        rows: n rows with the sensitive columns.
        outcomes: Shape (n,), from `compare_models.outcomes_of`.
        challenger: From `compare_models.scores_of`: shape (n,) or (n, k).
        champion: The same; None when there is none.
    """

    def value(column: str, scores: np.ndarray | None) -> float | None:
        if scores is None or column not in rows.columns or not _is_defined(rule, task) or not _are_finite(outcomes, scores):
            return None
        groups = _find_groups(rule, column, rows[column], outcomes)
        if groups.problem:
            return None
        kept = groups.kept
        return finite_or_none(_ask_fairlearn(rule.measure, groups.of_row[kept], outcomes[kept].astype(int), _predicted(scores)[kept]))

    return tuple(Disparity(name, rule.measure, value(name, challenger), value(name, champion), rule.at_most) for name in rule.sensitive)


class _Groups(NamedTuple):
    """The groups of a column: the group of each row, how many there are, which are judged, which rows are in those, and why none are."""

    of_row: np.ndarray
    total: int
    large: np.ndarray
    kept: np.ndarray
    problem: str


def _find_groups(rule: Fairness, column: str, values: "pd.Series", outcomes: np.ndarray) -> _Groups:
    of_row, names = pd.factorize(values, use_na_sentinel=False)
    large = np.flatnonzero(np.bincount(of_row, minlength=len(names)) >= rule.min_rows)
    kept = np.isin(of_row, large)
    problem = ""
    if len(large) < 2:
        problem = f"{column} has {len(large)} groups of at least {rule.min_rows} rows, two are needed"
    for outcome in _NEEDS.get(rule.measure, ()) if not problem else ():
        counts = np.bincount(of_row[kept & (outcomes == outcome)], minlength=len(names))
        empty = [str(names[group])[:40] for group in large.tolist() if not counts[group]]
        if empty:
            problem = f"{column}={empty[0]} has no row with the outcome {outcome}, so its rate is not defined"
            break
    return _Groups(of_row, len(names), large, kept, problem)


def _is_defined(rule: Fairness, task: str) -> bool:
    return task == "binary_classification" or (task != "regression" and rule.measure in _ANY_CLASSES)


def _are_finite(outcomes: np.ndarray, scores: np.ndarray) -> bool:
    return bool(len(outcomes)) and bool(np.isfinite(outcomes).all() and np.isfinite(scores).all())


def _predicted(scores: np.ndarray) -> np.ndarray:
    predicted: np.ndarray = (scores > 0.5).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
    return predicted


def _judge_column(
    rule: Fairness, column: str, values: "pd.Series", outcomes: np.ndarray, predicted: np.ndarray, confidence: float, seed: int
) -> tuple[bool, float, str]:
    """Whether it is surely kept, the difference, and both in words."""
    groups, total, large, kept, problem = _find_groups(rule, column, values, outcomes)
    if problem:
        return False, math.nan, problem
    few = total - len(large)
    left_out = f", {few} with fewer than {rule.min_rows} rows are not judged" if few else ""
    value = _ask_fairlearn(rule.measure, groups[kept], outcomes[kept], predicted[kept])
    counts = _count(rule.measure, np.searchsorted(large, groups[kept]), outcomes[kept], predicted[kept])
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=_RESAMPLES).reshape(_RESAMPLES, *counts.shape)
    drawn = difference_of(rule.measure, draws)
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or len(drawn) < _FEWEST_VALID_RESAMPLES * _RESAMPLES:
        return False, math.nan, f"{column}: not defined on {n} rows"
    low, high = np.quantile(drawn, [1 - confidence, confidence]) - (drawn.mean() - value)
    told = "surely kept" if high <= rule.at_most else "surely exceeded" if low > rule.at_most else "inconclusive, and that never promotes"
    text = (
        f"{column} differs by {value:.4f} over {len(large)} groups{left_out}, at {confidence:.0%} confidence by at most {max(high, 0):.4f}"
    )
    return bool(high <= rule.at_most), value, f"{text}: {told}"


def _ask_fairlearn(name: str, groups: np.ndarray, outcomes: np.ndarray, predicted: np.ndarray) -> float:
    import fairlearn.metrics  # type: ignore[import-untyped]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(getattr(fairlearn.metrics, name)(outcomes, predicted, sensitive_features=groups))
    except (ValueError, ZeroDivisionError):
        return math.nan


def _count(name: str, groups: np.ndarray, outcomes: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Rows by group, outcome and prediction, shape (groups, 2, 2); of several classes only right (1, 1) and wrong (1, 0) count."""
    if name in _ANY_CLASSES:
        outcomes, predicted = np.ones(len(outcomes), dtype=int), (outcomes == predicted).astype(int)
    return np.bincount(groups * 4 + outcomes * 2 + predicted, minlength=4 * (int(groups.max()) + 1)).reshape(-1, 2, 2)


def difference_of(name: str, counts: np.ndarray) -> np.ndarray:
    """Fairlearn's measures from counts, for many draws at once; a share and its complement differ alike.

    Args:
        name: Of the measure.
        counts: Rows by draw, group, outcome and prediction, shape (d, g, 2, 2).

    Returns:
        Shape (d,); NaN where a group has no row that its rate is about.
    """
    if name in _ANY_CLASSES or name in ("demographic_parity_difference", "selection_rate_difference"):
        selected, of = [counts.sum(axis=2)[..., 1]], [counts.sum(axis=(2, 3))]
    else:
        selected, of = [counts[..., o, 1] for o in _NEEDS[name]], [counts[..., o, :].sum(axis=-1) for o in _NEEDS[name]]
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = [some / all_ for some, all_ in zip(selected, of, strict=True)]
    found: np.ndarray = np.max([rate.max(axis=1) - rate.min(axis=1) for rate in rates], axis=0)
    return found
