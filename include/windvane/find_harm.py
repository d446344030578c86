"""Tells whether what serves got worse: its loss and its bias on the newest outcomes against those on the holdout of its own training.

A loss alone misses a shifted base rate: when outcomes become rarer, a model that expects too many of them can still lose less than before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windvane.compare_means import Mean, block_mean, chance_of_excess
from windvane.row_losses import ROBUST, row_losses

_QUARTERS = 4
_MATERIAL = 0.02
_MATERIAL_LOSS = 0.002
_MATERIAL_BIAS = 0.01
_FEWEST_WINDOWS = 5
_FIRST_WINDOWS = 5


@dataclass(frozen=True)
class Harm:
    """The loss of the champion (log loss, or squared error of a regression), and whether it rose beyond noise.

    Attributes:
        loss: Mean loss on the newest outcomes; NaN when it cannot be told.
        expected: Mean loss on the holdout of the champion's training.
        p: Chance of a rise this large if nothing had changed; 1 when it cannot be told.
        bias: Mean of outcome minus prediction, of the class where it is surest; NaN when it cannot be told.
        expected_bias: The same in the training.
        bias_p: Chance of a bias this far off if nothing had changed.
        rose: Whether p is below what the false-alarm budget allows a window, and the rise is large enough to matter: 2 % of the loss.
        biased: The same of bias_p, and of a hundredth of a probability or a fiftieth of the usual error.
        lasting: Whether the loss is up, by half of its rise at least, in three quarters of the rows, the newest among them.
        rows: Rows with an outcome.
    """

    loss: float
    expected: float
    p: float
    bias: float
    expected_bias: float
    bias_p: float
    rose: bool
    biased: bool
    lasting: bool
    rows: int

    @property
    def signal(self) -> bool:
        """Whether either shows harm."""
        return self.rose or self.biased


@dataclass(frozen=True)
class Errors:
    """What the champion got wrong, row by row in time order.

    Attributes:
        losses: Shape (n,), log loss or squared error.
        residuals: Shape (n, k): outcome minus prediction, of each class or of the value.
    """

    losses: np.ndarray
    residuals: np.ndarray

    @classmethod
    def of(cls, task: str, outcomes: np.ndarray, scores: np.ndarray) -> "Errors":
        """The errors of scores as `compare_models.scores_of` returns them."""
        if scores.ndim == 1:
            residuals = (outcomes - scores)[:, None]
        else:
            residuals = (outcomes.astype(int)[:, None] == np.arange(scores.shape[1])) - scores
        return cls(row_losses(task, outcomes, scores, smallest=ROBUST), residuals)


@dataclass(frozen=True)
class Earlier:
    """What an earlier window of the same champion showed.

    Attributes:
        harmed: Whether it gave a signal.
    """

    loss: float
    bias: float
    rows: int
    harmed: bool


def find_harm(task: str, now: Errors, holdout: Errors, *, earlier: Sequence[Earlier], chance: float) -> Harm:
    """Test whether the champion's loss rose or its bias moved.

    One holdout is compared with many windows, so its luck would give signals again and again: the first windows after the training
    that gave none are added to it. Mean losses of windows differ more than their rows tell; by how much is estimated from the
    differences of successive windows, which a slow rise hardly touches (von Neumann and others, The Mean Square Successive Difference,
    1941).

    Args:
        now: On the newest outcomes.
        holdout: On rows that the champion was not trained on.
        task: The task of the config.
        earlier: Earlier windows of the champion, in time order.
        chance: The chance with which an unharmed window may give a signal.
    """
    losses = now.losses
    calm = [e for e in earlier if not e.harmed and math.isfinite(e.loss)][:_FIRST_WINDOWS]
    loss, expected = block_mean(losses), _add(block_mean(holdout.losses), [(e.loss, e.rows) for e in calm])
    p = chance_of_excess(loss, expected, spread=_spread([e.loss for e in earlier], loss.error))
    bias, expected_bias, bias_p = _bias(now.residuals, holdout.residuals, earlier, calm)
    regression = task == "regression"
    worse = loss.value - expected.value > _MATERIAL * expected.value + (0.0 if regression else _MATERIAL_LOSS)
    usual = math.sqrt(expected.value) if regression else 1.0
    biased = abs(bias - expected_bias) > (_MATERIAL if regression else _MATERIAL_BIAS) * usual
    quarters = [float(np.mean(part)) for part in np.array_split(losses, _QUARTERS)] if len(losses) >= _QUARTERS else []
    half = (loss.value + expected.value) / 2
    up = [value > half for value in quarters]
    return Harm(
        loss=loss.value,
        expected=expected.value,
        p=p,
        bias=bias,
        expected_bias=expected_bias,
        bias_p=bias_p,
        # the two share the chance
        rose=worse and p < chance / 2,
        biased=biased and bias_p < chance / 2,
        lasting=bool(up) and up[-1] and sum(up) >= _QUARTERS - 1,
        rows=loss.rows,
    )


def _add(mean: Mean, more: Sequence[tuple[float, int]]) -> Mean:
    """The mean with those of further rows, as if they were spread as its own."""
    rows = mean.rows + sum(n for _, n in more)
    if not rows or not math.isfinite(mean.value):
        return mean
    value = (mean.value * mean.rows + sum(v * n for v, n in more)) / rows
    return Mean(value, mean.error * math.sqrt(mean.rows / rows), mean.freedom, rows)


def _bias(now: np.ndarray, then: np.ndarray, earlier: Sequence[Earlier], calm: Sequence[Earlier]) -> tuple[float, float, float]:
    """(bias, expected bias, two-sided p-value) of the class whose bias moved most surely."""
    if not len(now) or not len(then) or now.shape[1] != then.shape[1]:
        return math.nan, math.nan, 1.0
    found, single = [], now.shape[1] == 1
    for here, there in zip(now.T, then.T, strict=True):
        one, other = block_mean(here), block_mean(there)
        # of several classes it is not kept which one an earlier bias was about
        other = _add(other, [(e.bias, e.rows) for e in calm]) if single else other
        spread = _spread([e.bias for e in earlier], one.error) if single else 0.0
        p = 2 * min(chance_of_excess(one, other, spread=spread), chance_of_excess(other, one, spread=spread))
        found.append((min(1.0, p * now.shape[1]), one.value, other.value))
    p, value, expected = min(found)
    return value, expected, p


def _spread(earlier: Sequence[float], error: float) -> float:
    """Standard deviation of windows' means beyond what the rows of a window explain."""
    known = np.array([value for value in earlier if math.isfinite(value)])
    if len(known) < _FEWEST_WINDOWS or not math.isfinite(error):
        return 0.0
    # the median, so that one real jump does not hide itself: for normal differences median(d^2) is 0.455 of the mean
    between = float(np.median(np.diff(known) ** 2)) / (2 * 0.455)
    return math.sqrt(max(0.0, between - error**2))
