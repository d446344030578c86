"""The gate on probabilities: do events that are given 30 % happen in 30 of 100 cases?

Expected calibration error over bins of about equally many rows (Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities
Using Bayesian Binning, 2015); in multiclass that of the predicted class (Guo, Pleiss, Sun and Weinberger, 2017). Chance alone makes it
larger than 0, the more the fewer rows, so it is compared with what chance makes of a model that is wrong by just what is allowed
(consistency resampling: Broecker and Smith, Increasing the Reliability of Reliability Diagrams, 2007).
"""

import math

import numpy as np

from windvane.config import Calibration
from windvane.verdict import Gate

_NAME = "calibration"
_FEWEST_ROWS = 20
_ROWS_PER_BIN = 50
_BINS = (5, 10)
_DRAWS = 2000


def judge_calibration(rule: Calibration, *, outcomes: np.ndarray, scores: np.ndarray, confidence: float, seed: int) -> Gate:
    """Pass a classifier whose expected calibration error is surely at most what is allowed.

    Of all ways to be wrong by that much, being wrong by it in every bin gives the smallest measured error: that one must be ruled out.

    Args:
        rule: `gates.calibration`.
        outcomes: Shape (n,), from `compare_models.outcomes_of`.
        scores: From `compare_models.scores_of`: shape (n,) or (n, k).
        confidence: One-sided.
        seed: Seed of the draws.
    """
    chances, happened = _events(outcomes, scores)
    n = len(chances)
    if n < _FEWEST_ROWS or not (np.isfinite(chances).all() and np.isfinite(happened).all()):
        return Gate(_NAME, False, f"The expected calibration error is not defined on these {n} rows.", math.nan, rule.at_most)
    if chances.min() < 0 or chances.max() > 1:
        return Gate(_NAME, False, "The scores are no probabilities; calibration is judged for classifiers only.", math.nan, rule.at_most)
    bins = _bins(chances)
    sizes, error = np.bincount(bins), calibration_error(outcomes, scores)
    means = np.bincount(bins, weights=chances) / sizes
    wrong = np.clip(np.where(means < 0.5, means + rule.at_most, means - rule.at_most), 0, 1)
    drawn = np.random.default_rng(seed).binomial(sizes, wrong, size=(_DRAWS, len(sizes))) / sizes
    low, high = np.quantile(np.abs(drawn - means) @ sizes / n, [1 - confidence, confidence])
    told = "surely kept" if error <= low else "surely exceeded" if error > high else "inconclusive, and that never promotes"
    reason = (
        f"The expected calibration error is {error:.4f} on {n} rows in {len(sizes)} bins, at most {rule.at_most:g} is allowed: {told} "
        f"(a model that is wrong by just that would show {low:.4f} to {high:.4f})."
    )
    return Gate(_NAME, bool(error <= low), reason, error, rule.at_most)


def calibration_error(outcomes: np.ndarray, scores: np.ndarray) -> float:
    """The expected calibration error: how far, on average over the rows, a bin's mean probability lies from how often it happened.

    Args:
        outcomes: Shape (n,), from `compare_models.outcomes_of`.
        scores: From `compare_models.scores_of`: shape (n,) or (n, k).

    Returns:
        A number from 0 to 1; NaN without rows.
    """
    chances, happened = _events(outcomes, scores)
    if not len(chances):
        return math.nan
    bins = _bins(chances)
    return float(np.abs(np.bincount(bins, weights=chances - happened)).sum() / len(chances))


def _events(outcomes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and whether what they are of happened, each of shape (n,)."""
    if scores.ndim == 1:
        return scores, np.asarray(outcomes, dtype=float)
    if not len(scores):
        return np.zeros(0), np.zeros(0)
    return scores.max(axis=1), (scores.argmax(axis=1) == outcomes).astype(float)


def _bins(chances: np.ndarray) -> np.ndarray:
    """The number of each row's bin, from 0 without gaps; equal probabilities share one."""
    bins = min(max(len(chances) // _ROWS_PER_BIN, _BINS[0]), _BINS[1])
    edges = np.unique(np.quantile(chances, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, chances, side="left"), return_inverse=True)[1].reshape(-1)
