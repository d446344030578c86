"""Turns the scores of a classifier into chances that are right, learned from rows that it was not trained on.

The curves are kept on a grid of scores, so that many of them, from resampled references, cost no more than one.
"""

from dataclasses import dataclass

import numpy as np

_RESAMPLES = 40


@dataclass(frozen=True)
class Calibrated:
    """Chances of each class by its score.

    Attributes:
        grid: Shape (g,): scores from 0 to 1, ascending.
        curves: Shape (k, g): the chance at each of them; one row, that of class 1, for two classes.
        shifts: Shape (r, k, g): how far the curves of resampled references are off; None where the band is not needed.
        least: How far chances are kept off 0 and 1 where it is asked how sure they are.
    """

    grid: np.ndarray
    curves: np.ndarray
    shifts: np.ndarray | None
    least: float

    def chances(self, scores: np.ndarray) -> np.ndarray:
        """Shape (n, k)."""
        if scores.ndim == 1:
            positive = np.interp(scores, self.grid, self.curves[0])
            return np.column_stack([1 - positive, positive])
        each = np.column_stack([np.interp(scores[:, c], self.grid, curve) for c, curve in enumerate(self.curves)])
        total = each.sum(axis=1, keepdims=True)
        chances: np.ndarray = np.divide(each, total, out=np.full_like(each, 1 / each.shape[1]), where=total > 0)
        return chances

    def variance(self, scores: np.ndarray, chances: np.ndarray, slope: np.ndarray) -> float:
        """What not knowing the curves exactly adds to the variance of an expected metric with this slope."""
        if self.shifts is None:
            return 0.0
        if scores.ndim == 1:
            weights = self._on_grid(scores, slope[:, 1] - slope[:, 0])[None]
        else:
            # chances are divided by their sum: a class gains what all others lose
            centred = slope - (chances * slope).sum(axis=1, keepdims=True)
            weights = np.stack([self._on_grid(scores[:, c], centred[:, c]) for c in range(scores.shape[1])])
        moved = np.einsum("rkg,kg->r", self.shifts, weights)
        return float(np.mean(moved**2))

    def _on_grid(self, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sums of weights at the places of the grid, each shared by the two places next to its score."""
        place = np.clip(np.searchsorted(self.grid, scores, side="right") - 1, 0, len(self.grid) - 2)
        part = np.clip((scores - self.grid[place]) / (self.grid[place + 1] - self.grid[place]), 0, 1)
        g = len(self.grid)
        return np.bincount(place, weights * (1 - part), minlength=g) + np.bincount(place + 1, weights * part, minlength=g)


def make_grid(scores: np.ndarray) -> np.ndarray:
    """Scores to keep curves at: dense where there are scores, and towards 0 and 1."""
    logits = np.linspace(-12, 12, 97)
    return np.unique(np.concatenate([[0.0, 1.0], 1 / (1 + np.exp(-logits)), np.quantile(scores, np.linspace(0, 1, 301)).clip(0, 1)]))


def calibrate(kind: str, outcomes: np.ndarray, scores: np.ndarray, weights: np.ndarray, grid: np.ndarray) -> Calibrated:
    """Fit the curve of each class, one against the rest.

    Args:
        kind: A name of `CALIBRATIONS`.
        outcomes: Shape (m,): class numbers.
        scores: Shape (m,) or (m, k).
        weights: Shape (m,): how often each row counts.
    """
    columns = [(scores, 1)] if scores.ndim == 1 else [(scores[:, c], c) for c in range(scores.shape[1])]
    fit = CALIBRATIONS[kind]
    curves = np.stack([fit(of, (outcomes == c).astype(float), weights, grid) for of, c in columns])
    return Calibrated(grid, curves, None, 1 / (weights.sum() + 2))


def resample(kind: str, outcomes: np.ndarray, scores: np.ndarray, grid: np.ndarray, seed: int) -> np.ndarray:
    """How far the curves of references move that are made of randomly drawn blocks of this one: shape (r, k, g)."""
    centre = calibrate(kind, outcomes, scores, np.ones(len(outcomes)), grid).curves
    random = np.random.default_rng(seed)
    length = max(1, len(outcomes) // 100)
    places = np.arange(len(outcomes)) // length
    blocks = int(places[-1]) + 1
    drawn = (np.bincount(random.integers(0, blocks, blocks), minlength=blocks)[places] for _ in range(_RESAMPLES))
    return np.stack([calibrate(kind, outcomes, scores, weights.astype(float), grid).curves - centre for weights in drawn])


def _platt(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Logistic regression on the logit of the score, drawn towards no change (Platt, 1999; Kull et al., Beta Calibration, 2017)."""
    x, offset, slope = logit(scores), 0.0, 1.0
    design = np.column_stack([np.ones(len(x)), x])
    prior = np.diag([1e-3, 10.0])
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(offset + slope * x, -30, 30)))
        gradient = design.T @ (weights * (positive - p)) - prior @ np.array([offset, slope - 1])
        curvature = (design * (weights * p * (1 - p))[:, None]).T @ design + prior
        step = np.clip(np.linalg.solve(curvature, gradient), -2, 2)
        offset, slope = offset + float(step[0]), max(slope + float(step[1]), 0.0)
        if np.abs(step).max() < 1e-6:
            break
    curve: np.ndarray = 1 / (1 + np.exp(-np.clip(offset + slope * logit(grid), -30, 30)))
    return curve


def _isotonic(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Isotonic regression, linear between the scores that were seen (Zadrozny and Elkan, 2002)."""
    from scipy.optimize import isotonic_regression

    seen, place = np.unique(scores[weights > 0], return_inverse=True)
    total = np.bincount(place, weights[weights > 0])
    rate = np.bincount(place, (weights * positive)[weights > 0]) / total
    curve: np.ndarray = np.interp(grid, seen, isotonic_regression(rate, weights=total).x)
    return curve


def logit(scores: np.ndarray) -> np.ndarray:
    """Finite also for scores of 0 and 1."""
    p = np.clip(scores, 1e-6, 1 - 1e-6)
    logits: np.ndarray = np.log(p / (1 - p))
    return logits


CALIBRATIONS = {"platt": _platt, "isotonic": _isotonic}
