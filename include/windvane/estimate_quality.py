"""Estimates without outcomes what a candidate would lose of the champion's quality, from the champion's own confidence.

If the champion's probabilities are right, the expected metric of any other model on the same rows follows from them: this is
confidence-based performance estimation (Kivimäki, Białek, Kuberski and Nurminen, Performance Estimation in Binary Classification Using
Calibrated Confidence, 2025, arXiv:2505.05295; NannyML's CBPE) with the confidence of one model used for another. In the champion's
eyes no other model can be better; so what counts is how much is lost, as a share of the champion's own skill. Only the order of the
scores counts: a challenger that has learned a new base rate loses nothing.
"""

import math

import numpy as np

from windvane.score_rows import Score, weighted_score

_RESAMPLES = 300


def estimate_loss(task: str, champion: np.ndarray, candidate: np.ndarray) -> float:
    """The share of its own skill that the champion expects to be lost with the candidate.

    Binary: with outcomes drawn from the champion's probabilities, how much of the expected ROC AUC beyond 0.5 is lost. Multiclass: 1 -
    Cohen's kappa of the predicted classes (Cohen, A Coefficient of Agreement for Nominal Scales, 1960). Regression: 1 - Pearson's r.

    Args:
        task: The task of the config.
        champion: Shape (n,): P(positive class), the places of the predicted classes, or values.
        candidate: The same of the same rows.

    Returns:
        0 for a candidate that orders the rows as the champion does, about 1 for one that knows nothing of it; NaN if the champion
        says the same of all rows.
    """
    return _loss(task, champion, candidate)(np.ones(len(champion)))


def estimate_increase(
    task: str, before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray], *, confidence: float, seed: int
) -> tuple[float, float]:
    """How much more is lost on some rows than on others, with its lower one-sided bootstrap end.

    Args:
        before: Scores of champion and candidate on the rows to compare with.
        after: The same on the rows in question.

    Returns:
        (increase, low); NaN where it cannot be told.
    """
    lose_before, lose_after = _loss(task, *before), _loss(task, *after)
    increase = lose_after(np.ones(len(after[0]))) - lose_before(np.ones(len(before[0])))
    random = np.random.default_rng(seed)
    drawn = [lose_after(_draw(random, len(after[0]))) - lose_before(_draw(random, len(before[0]))) for _ in range(_RESAMPLES)]
    valid = [value for value in drawn if math.isfinite(value)]
    low = float(np.quantile(valid, 1 - confidence)) if len(valid) > 0.9 * _RESAMPLES else math.nan
    return increase, low


def _draw(random: np.random.Generator, n: int) -> np.ndarray:
    return np.bincount(random.integers(0, n, n), minlength=n).astype(float)


def _loss(task: str, champion: np.ndarray, candidate: np.ndarray) -> Score:
    return {"binary_classification": _of_auc, "multiclass_classification": _of_kappa, "regression": _of_correlation}[task](
        champion, candidate
    )


def _of_auc(champion: np.ndarray, candidate: np.ndarray) -> Score:
    # every row counts as a positive one with the weight p, and as a negative one with 1 - p
    outcomes = np.repeat([1.0, 0.0], len(champion))
    chances = np.concatenate([champion, 1 - champion])
    own = weighted_score("roc_auc", outcomes, np.tile(champion, 2))
    other = weighted_score("roc_auc", outcomes, np.tile(candidate, 2))

    def loss(weights: np.ndarray) -> float:
        soft = np.tile(weights, 2) * chances
        best = own(soft)
        return (best - other(soft)) / (best - 0.5) if best > 0.5 else math.nan

    return loss


def _of_kappa(champion: np.ndarray, candidate: np.ndarray) -> Score:
    classes = np.unique(np.concatenate([champion, candidate]))

    def loss(weights: np.ndarray) -> float:
        total = weights.sum()
        by_chance = sum((weights @ (champion == c)) * (weights @ (candidate == c)) for c in classes) / total**2
        agreed = weights @ (champion == candidate) / total
        return float((1 - agreed) / (1 - by_chance)) if by_chance < 1 else math.nan

    return loss


def _of_correlation(champion: np.ndarray, candidate: np.ndarray) -> Score:
    def loss(weights: np.ndarray) -> float:
        share = weights / weights.sum()
        a, b = champion - share @ champion, candidate - share @ candidate
        spread, other = share @ a**2, share @ b**2
        if not spread > 0:
            return math.nan
        return float(1 - (share @ (a * b)) / math.sqrt(spread * other)) if other > 0 else 1.0

    return loss
