"""Tests on means that hold for rows which depend on their neighbours: blocks of consecutive rows are the observations.

Batch means with Student's t (Law and Carson, A Sequential Procedure for Determining the Length of a Steady-State Simulation, 1979);
two samples as in Welch, The Generalization of Student's Problem when Several Different Population Variances are Involved, 1947.
"""

import math
from dataclasses import dataclass

import numpy as np

_MOST_BLOCKS = 20
_FEWEST_BLOCKS = 5
_FEWEST_ROWS = 10


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error, in the unit of the values.

    Attributes:
        error: Standard error of the mean; NaN where there are too few rows to tell.
        freedom: Degrees of freedom of the standard error.
        rows: Number of values.
    """

    value: float
    error: float
    freedom: int
    rows: int


def block_mean(values: np.ndarray) -> Mean:
    """The mean of values in time order, with a standard error that counts neighbours as related.

    Args:
        values: Shape (n,); values that are not finite make the mean unknown.
    """
    n = len(values)
    blocks = min(_MOST_BLOCKS, n // _FEWEST_ROWS)
    value = float(np.mean(values)) if n else math.nan
    if blocks < _FEWEST_BLOCKS or not math.isfinite(value):
        return Mean(value, math.nan, 0, n)
    edges = np.linspace(0, n, blocks + 1).astype(int)
    means = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return Mean(value, float(np.std(means, ddof=1)) / math.sqrt(blocks), blocks - 1, n)


def chance_of_excess(mean: Mean, other: Mean | float = 0.0, *, spread: float = 0.0) -> float:
    """The chance of a mean this far above another if their true values are equal: the one-sided p-value.

    Args:
        other: Another mean, or a number that is known.
        spread: Standard deviation by which true means differ anyway.

    Returns:
        A number from 0 to 1; 1 where it cannot be told.
    """
    from scipy.special import stdtr

    theirs = other if isinstance(other, Mean) else Mean(other, 0.0, 0, 0)
    difference = mean.value - theirs.value
    variance = mean.error**2 + theirs.error**2 + spread**2
    if not (math.isfinite(difference) and math.isfinite(variance)):
        return 1.0
    if variance == 0:
        return 0.0 if difference > 0 else 1.0
    parts = [(m.error**4 / m.freedom) for m in (mean, theirs) if m.freedom]
    freedom = variance**2 / sum(parts) if sum(parts) > 0 else math.inf
    return float(1 - stdtr(min(freedom, 1e6), difference / math.sqrt(variance)))
