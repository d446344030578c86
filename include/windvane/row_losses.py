"""The proper loss of each row: log loss of a classifier, squared error of a regression (Gneiting and Raftery, 2007)."""

import numpy as np

ROBUST = 1e-3
"""Probabilities are kept this far off 0 and 1 in tests, so that a single sure mistake does not outweigh all other rows."""


def row_losses(task: str, outcomes: np.ndarray, scores: np.ndarray, *, smallest: float = float(np.finfo(float).eps)) -> np.ndarray:
    """The loss of each row; smaller is better.

    Args:
        task: The task of the config.
        outcomes: Shape (n,), from `compare_models.outcomes_of`.
        scores: Shape (n,) or (n, k), from `compare_models.scores_of`.
        smallest: How far probabilities are kept off 0 and 1.

    Returns:
        Shape (n,).
    """
    if task == "regression":
        errors: np.ndarray = (outcomes - scores) ** 2
        return errors
    chances = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    losses: np.ndarray = -np.log(np.clip(chances[np.arange(len(chances)), outcomes.astype(int)], smallest, 1 - smallest))
    return losses
