"""Estimates the metric of a model on rows whose outcomes have not arrived, and tracks how right such estimates were.

Classifiers: confidence-based performance estimation. Scores are calibrated on rows that the model was not trained on, and every outcome
that a row may have counts with its chance (Kivimäki, Białek, Kuberski and Nurminen, Performance Estimation in Binary Classification Using
Calibrated Confidence, 2025, arXiv:2505.05295). Regressions: direct loss estimation. A second model says from the inputs and the
prediction how large a loss is to be expected (the idea of NannyML's DLE).

Both are right while the outcomes depend on the inputs as they did, whatever the inputs do. They cannot see that this dependence
changed: that shows once outcomes arrive, and then `judge_trust` says that the estimates are not to be relied on.

The band is for the realised metric of the same rows, 95 % two-sided and normal. It adds three variances: the outcomes' own, by the
delta method; the reference's, by a bootstrap of blocks of consecutive rows (Künsch, 1989) or, for regressions, a delete-a-group
jackknife; and what the metric's error varied within the reference beyond both.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from windvane.calibrate_scores import CALIBRATIONS, Calibrated, calibrate, logit, make_grid, resample
from windvane.compare_models import score_outcomes
from windvane.encode_inputs import Encoding
from windvane.expect_metric import can_expect, expect_metric, expectable
from windvane.row_losses import ROBUST, row_losses

_Z = 1.96
_FEWEST_ROWS = 20
_FEWEST_REFERENCE = 50
_BLOCKS = 10
_GROUPS = 4
_FEWEST_FOR_INPUTS = 500
_MOST_ROWS = 50_000
_STEPS = (0.4, 0.55, 0.7, 0.85, 1.0)
_LOSSES = {
    "neg_mean_absolute_error": "absolute",
    "neg_mean_squared_error": "squared",
    "neg_root_mean_squared_error": "squared",
    "r2": "squared",
}
_BOUNDS = {"neg_log_loss": (-math.inf, 0.0), "neg_brier_score": (-1.0, 0.0), "matthews_corrcoef": (-1.0, 1.0), "r2": (-math.inf, 1.0)}
_RECENT = 6
_MOST_OUTSIDE = 2
_FAR = 2.0
_LARGEST_ERROR = 1.8


@dataclass(frozen=True)
class Estimate:
    """What a metric is thought to be on some rows.

    Attributes:
        metric: Name of the scikit-learn scorer; greater is better.
        value: The estimate; NaN where there is a problem.
        low: Lower end of the band in which the realised metric of these rows lies 95 times in 100.
        high: Upper end.
        rows: Number of rows with a score.
        expected: What is estimated for the reference: luck of its outcomes does not look like a change.
        problem: Why there is no estimate, or empty.
    """

    metric: str
    value: float
    low: float
    high: float
    rows: int
    expected: float
    problem: str = ""


@dataclass(frozen=True)
class Trust:
    """Whether estimates can be relied on.

    Attributes:
        reason: One sentence.
        error: Mean absolute error of the recent estimates, in the metric's unit; None if none could be compared.
    """

    trusted: bool
    reason: str
    error: float | None


class _Model(Protocol):
    def expect(self, metric: str, scores: np.ndarray, inputs: pd.DataFrame | None) -> tuple[float, float]:
        """The metric of some rows and the variance of the realised one around it."""


@dataclass(frozen=True)
class Estimator:
    """Estimates one metric of one model.

    Attributes:
        metric: Name of the scikit-learn scorer.
        expected: What is estimated for the reference.
        problem: Why nothing can be estimated, or empty.
        spread: Standard deviation of the error within the reference that chance does not explain.
    """

    metric: str
    expected: float
    problem: str = ""
    spread: float = 0.0
    model: _Model | None = None

    def estimate(self, scores: np.ndarray, inputs: pd.DataFrame | None = None) -> Estimate:
        """Estimate the metric of rows without outcomes.

        Args:
            scores: From `compare_models.scores_of`; rows with a score that is not finite do not count.
            inputs: The raw input columns of the same rows, for a regression; a column that is not there counts as missing values.

        Returns:
            An estimate with a `problem` where there are fewer than 20 rows or the metric is not defined.
        """
        scores = np.asarray(scores, dtype=float)
        known = _finite(scores)
        rows = int(known.sum())
        if self.model is None:
            return self._none(rows, self.problem)
        if rows < _FEWEST_ROWS:
            return self._none(rows, f"{rows} rows with a score, at least {_FEWEST_ROWS} are needed")
        if rows < len(known):
            scores = scores[known]
            inputs = None if inputs is None else inputs[known]
        value, variance = self.model.expect(self.metric, scores, inputs)
        if not (math.isfinite(value) and math.isfinite(variance)):
            return self._none(rows, f"{self.metric} is not defined on these rows")
        half = _Z * math.sqrt(variance + self.spread**2)
        smallest, greatest = _bounds(self.metric)
        return Estimate(self.metric, value, max(value - half, smallest), min(value + half, greatest), rows, self.expected)

    def _none(self, rows: int, problem: str) -> Estimate:
        return Estimate(self.metric, math.nan, math.nan, math.nan, rows, self.expected, problem)


def fit_estimator(task: str, metric: str, *, outcomes: np.ndarray, scores: np.ndarray, inputs: pd.DataFrame | None, seed: int) -> Estimator:
    """Learn how right a model is, from rows that it was not trained on.

    Args:
        task: The task of the config.
        metric: Name of a scikit-learn scorer; for one that cannot be estimated, the estimator says so.
        outcomes: Shape (m,), in time order, from `compare_models.outcomes_of`.
        scores: The model's on the same rows, from `compare_models.scores_of`.
        inputs: The raw input columns of the same rows, which a regression's estimate is made from; None: from the prediction alone.
        seed: Seed of the bootstrap and of the second model.
    """
    outcomes, scores = np.asarray(outcomes, dtype=float), np.asarray(scores, dtype=float)
    known = np.isfinite(outcomes) & _finite(scores)
    if not known.all():
        outcomes, scores = outcomes[known], scores[known]
        inputs = None if inputs is None else inputs[known]
    problem = _find_problem(task, metric, outcomes, scores)
    if problem:
        return Estimator(metric, math.nan, problem)
    if not math.isfinite(score_outcomes(metric, outcomes, scores)):
        return Estimator(metric, math.nan, f"{metric} is not defined on the reference")
    if task == "regression":
        estimator = _fit_regression(metric, outcomes, scores, inputs, seed)
    else:
        estimator = _fit_classifier(task, metric, outcomes.astype(int), scores, inputs, seed)
    return replace(estimator, expected=estimator.estimate(scores, inputs).value)


def judge_trust(pairs: Sequence[tuple[Estimate | Mapping[str, Any], float]]) -> Trust:
    """Whether estimates can be relied on, by what was realised later in the same windows.

    Only the last six windows count, so that estimates are trusted again after they were right for a while. They are not trusted when
    the realised metric was outside the band in three of them, in the last two, or in the last one by as much again as the band is
    wide; or when the errors, in the band's standard deviations, have a root mean square above 1.8. Each of these comes about once in
    several hundred windows as long as the estimates are right.

    Args:
        pairs: Estimates, or their JSON, and what was realised, in time order; what is not finite is left out.
    """
    compared = [pair for pair in (_compare(estimate, realised) for estimate, realised in pairs) if pair is not None][-_RECENT:]
    if not compared:
        return Trust(True, "no estimate could be compared with outcomes yet", None)
    sizes = np.array([size for size, _ in compared])
    error = float(np.mean([difference for _, difference in compared]))
    outside, n = int((sizes > 1).sum()), len(compared)
    root = float(np.sqrt(np.mean((_Z * sizes) ** 2)))
    seen = f"the realised metric was outside the estimate's band in {outside} of the last {n} windows, mean error {error:.4f}"
    if outside > _MOST_OUTSIDE:
        return Trust(False, seen, error)
    if n > 1 and (sizes[-2:] > 1).all():
        return Trust(False, f"{seen}: in both of the last two", error)
    if sizes[-1] > _FAR:
        return Trust(False, f"{seen}: far outside in the last one", error)
    if n > 1 and root > _LARGEST_ERROR:
        return Trust(False, f"{seen}: {root:.1f} times what chance and the reference explain", error)
    return Trust(True, seen, error)


def _compare(estimate: Estimate | Mapping[str, Any], realised: float) -> tuple[float, float] | None:
    """The error as a share of the band's half on its side, and as it is."""
    told = estimate if isinstance(estimate, Mapping) else vars(estimate)
    value, low, high = (_number(told.get(name)) for name in ("value", "low", "high"))
    if not all(map(math.isfinite, (value, low, high, realised))):
        return None
    difference = abs(realised - value)
    half = value - low if realised < value else high - value
    return (difference / half if half > 0 else (0.0 if difference < 1e-9 else math.inf)), difference


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _finite(scores: np.ndarray) -> np.ndarray:
    finite: np.ndarray = np.isfinite(scores) if scores.ndim == 1 else np.isfinite(scores).all(axis=1)
    return finite


def _bounds(metric: str) -> tuple[float, float]:
    return _BOUNDS.get(metric, (-math.inf, 0.0) if metric.startswith("neg_") else (0.0, 1.0))


def _find_problem(task: str, metric: str, outcomes: np.ndarray, scores: np.ndarray) -> str:
    classes = scores.shape[1] if scores.ndim == 2 else 2
    if not (metric in _LOSSES if task == "regression" else can_expect(metric, classes=classes)):
        names = ", ".join(_LOSSES if task == "regression" else expectable(classes=classes))
        return f"{metric} of task {task} cannot be estimated without outcomes; this can: {names}"
    if len(outcomes) < _FEWEST_REFERENCE:
        return f"the reference has {len(outcomes)} rows that the model was not trained on, at least {_FEWEST_REFERENCE} are needed"
    return ""


def _thin(scores: np.ndarray, inputs: pd.DataFrame | None) -> tuple[np.ndarray, Any]:
    """At most 50,000 rows, evenly: more would take longer and tell no more."""
    step = -(-len(scores) // _MOST_ROWS)
    return scores[::step], None if inputs is None else inputs.iloc[::step]


def _edges(rows: int) -> np.ndarray:
    return np.linspace(0, rows, _BLOCKS + 1).astype(int)


def _unexplained(errors: Sequence[float], variances: Sequence[float]) -> float:
    """Standard deviation by which errors of blocks exceed what chance allows; 0 unless that is sure."""
    from scipy.special import chdtri

    pairs = [(e, v) for e, v in zip(errors, variances, strict=True) if math.isfinite(e) and math.isfinite(v)]
    if len(pairs) < _BLOCKS // 2:
        return 0.0
    squares, chance = np.mean([e**2 for e, _ in pairs]), np.mean([v for _, v in pairs])
    surely = float(chdtri(len(pairs), 0.05)) / len(pairs)
    return math.sqrt(max(0.0, float(squares) / surely - float(chance)))


@dataclass(frozen=True)
class _Confidence:
    """Expects what the calibrated scores say."""

    calibrated: Calibrated

    def expect(self, metric: str, scores: np.ndarray, inputs: pd.DataFrame | None) -> tuple[float, float]:
        chances = self.calibrated.chances(scores)
        expected = expect_metric(metric, chances, scores)
        variance = _variance_of_outcomes(chances, expected.slope, self.calibrated.least)
        return expected.value, variance + self.calibrated.variance(scores, chances, expected.slope)


@dataclass(frozen=True)
class _Corrected:
    """Expects what the calibrated scores say, corrected by what the inputs tell beyond them. Two classes only.

    Attributes:
        plain: For rows without inputs.
        bases: Curves that were each fitted without one group of the reference.
        models: Regressors, fitted without the same group, that add to the logit.
        step: Share of what they say that is added.
    """

    plain: _Confidence
    bases: tuple[Calibrated, ...]
    models: tuple[Any, ...]
    encoding: Encoding
    step: float

    def expect(self, metric: str, scores: np.ndarray, inputs: pd.DataFrame | None) -> tuple[float, float]:
        if inputs is None:
            return self.plain.expect(metric, scores, None)
        scores, inputs = _thin(scores, inputs)
        encoded = self.encoding.encode(logit(scores), inputs)
        fitted = zip(self.bases, self.models, strict=True)
        each = np.stack([_correct(base, scores, self.step * model.predict(encoded)) for base, model in fitted])
        chances = each.mean(axis=0)
        expected = expect_metric(metric, chances, scores)
        moved = ((each - chances) * expected.slope).sum(axis=(1, 2))
        variance = _variance_of_outcomes(chances, expected.slope, self.plain.calibrated.least)
        return expected.value, variance + (len(each) - 1) / len(each) * float((moved**2).sum())


def _correct(base: Calibrated, scores: np.ndarray, added: np.ndarray) -> np.ndarray:
    positive = 1 / (1 + np.exp(-np.clip(logit(base.chances(scores)[:, 1]) + added, -30, 30)))
    return np.column_stack([1 - positive, positive])


def _variance_of_outcomes(chances: np.ndarray, slope: np.ndarray, least: float) -> float:
    """Of a metric with this slope, if outcomes are drawn with these chances.

    Args:
        least: Chances are kept so far above 0, because a reference of a few rows cannot show that something never happens.
    """
    sure = np.clip(chances, least, None)
    sure /= sure.sum(axis=1, keepdims=True)
    centre = (sure * slope).sum(axis=1, keepdims=True)
    return float((sure * (slope - centre) ** 2).sum())


def _fit_classifier(task: str, metric: str, outcomes: np.ndarray, scores: np.ndarray, inputs: pd.DataFrame | None, seed: int) -> Estimator:
    m, edges = len(outcomes), _edges(len(outcomes))
    grid = make_grid(scores)
    block = np.repeat(np.arange(_BLOCKS), np.diff(edges))
    kind, said, losses = "", np.empty(0), np.empty(0)
    for tried in CALIBRATIONS:
        fits = [calibrate(tried, outcomes, scores, (block != b).astype(float), grid) for b in range(_BLOCKS)]
        chances = np.concatenate([fit.chances(scores[block == b]) for b, fit in enumerate(fits)])
        found = row_losses(task, outcomes, chances, smallest=ROBUST)
        # the later ones bend more, and of few rows they make the model look better than it is
        if not kind or _is_surely_less(found, losses, by=1.0):
            kind, said, losses = tried, chances, found
    calibrated = calibrate(kind, outcomes, scores, np.ones(m), grid)
    calibrated = replace(calibrated, shifts=resample(kind, outcomes, scores, grid, seed))
    model: _Model = _Confidence(calibrated)
    if scores.ndim == 1 and inputs is not None and m >= _FEWEST_FOR_INPUTS:
        corrected, said_with_inputs = _fit_correction(_Confidence(calibrated), outcomes, scores, inputs, grid, seed)
        found = row_losses(task, outcomes, said_with_inputs, smallest=ROBUST)
        if _is_surely_less(found, losses, by=2.0):
            model, said = corrected, said_with_inputs
    errors, variances = [], []
    for b in range(_BLOCKS):
        part = block == b
        thought = expect_metric(metric, said[part], scores[part])
        errors.append(score_outcomes(metric, outcomes[part], scores[part]) - thought.value)
        of_reference = calibrated.variance(scores[part], said[part], thought.slope)
        variances.append(_variance_of_outcomes(said[part], thought.slope, calibrated.least) + of_reference)
    return Estimator(metric, math.nan, spread=_unexplained(errors, variances), model=model)


def _is_surely_less(losses: np.ndarray, others: np.ndarray, *, by: float) -> bool:
    """Whether the mean over the same rows is less by so many standard errors of the difference."""
    gain = others - losses
    return bool(gain.mean() > by * gain.std() / math.sqrt(len(gain)))


def _fit_correction(
    plain: _Confidence, outcomes: np.ndarray, scores: np.ndarray, inputs: pd.DataFrame, grid: np.ndarray, seed: int
) -> tuple[_Corrected, np.ndarray]:
    """Boosting of the logit from the calibrated score on, by one Newton step; with the chances of rows that were left out."""
    encoding = Encoding.of(inputs, outcomes)
    encoded = encoding.encode(logit(scores), inputs)
    group = np.arange(len(scores)) * _GROUPS // len(scores)
    bases, models, added = [], [], np.empty(len(scores))
    for g in range(_GROUPS):
        kept = group != g
        base = calibrate("platt", outcomes, scores, kept.astype(float), grid)
        chance = np.clip(base.chances(scores[kept])[:, 1], 0.02, 0.98)
        curvature = chance * (1 - chance)
        model = _boost(encoded[kept], (outcomes[kept] - chance) / curvature, seed, weights=curvature, trees=20, rate=0.18, leaves=6)
        added[~kept] = model.predict(encoded[~kept])
        bases.append(base)
        models.append(model)
    tried = {}
    for step in _STEPS:
        parts = [_correct(base, scores[group == g], step * added[group == g]) for g, base in enumerate(bases)]
        said = np.concatenate(parts)
        tried[step] = (float(row_losses("binary_classification", outcomes, said, smallest=ROBUST).mean()), said)
    # a full Newton step goes too far where it is long
    step = min(tried, key=lambda s: tried[s][0])
    return _Corrected(plain, tuple(bases), tuple(models), encoding, step), tried[step][1]


@dataclass(frozen=True)
class _Losses:
    """Expected losses of rows, by models that were each fitted without one group of the reference.

    Attributes:
        models: Fitted regressors, from `encoding`'s columns to a loss.
        scale: What makes their mean over the reference right.
        noise: Variance of a row's loss as a multiple of its squared expected loss.
        bias: Intercept and slope by the prediction of the signed error.
    """

    models: tuple[Any, ...]
    encoding: Encoding
    scale: float
    noise: float
    bias: tuple[float, float]

    def expect(self, metric: str, scores: np.ndarray, inputs: pd.DataFrame | None) -> tuple[float, float]:
        scores, inputs = _thin(scores, inputs)
        encoded = self.encoding.encode(scores, inputs)
        each = np.stack([_positive(model.predict(encoded)) for model in self.models]) * self.scale
        losses = each.mean(axis=0)
        n, value = len(losses), float(losses.mean())
        of_reference = (_GROUPS - 1) / _GROUPS * float(((each.mean(axis=1) - value) ** 2).sum())
        variance = self.noise * float((losses**2).sum()) / n**2 + of_reference
        if metric == "neg_root_mean_squared_error":
            root = math.sqrt(value)
            return -root, variance / (4 * value) if value > 0 else 0.0
        if metric != "r2":
            return -value, variance
        offset, slope = self.bias
        total = float(np.var(scores)) * (1 + 2 * slope) + value - (offset + slope * float(np.mean(scores))) ** 2
        if not total > value * 1e-9:
            return math.nan, math.nan
        share = value / total
        # a large loss also widens the outcomes
        return 1 - share, variance * (max(1 - share, 0.05) / total) ** 2


def _fit_regression(metric: str, outcomes: np.ndarray, scores: np.ndarray, inputs: pd.DataFrame | None, seed: int) -> Estimator:
    error = outcomes - scores
    losses = np.abs(error) if _LOSSES[metric] == "absolute" else error**2
    encoding = Encoding.of(inputs, losses)
    encoded = encoding.encode(scores, inputs)
    group = np.arange(len(losses)) * _GROUPS // len(losses)
    # the unit of the losses must not decide how strongly the second model is regularised
    unit = float(losses.mean()) or 1.0
    models = tuple(_boost(encoded[group != g], losses[group != g] / unit, seed, trees=80, rate=0.08, leaves=8) for g in range(_GROUPS))
    said = np.concatenate([_positive(model.predict(encoded[group == g])) for g, model in enumerate(models)])
    scale = float(losses.mean() / said.mean()) if said.mean() > 0 else 1.0
    said = said * scale
    noise = float(((losses - said) ** 2).sum() / (said**2).sum()) if said.any() else 0.0
    slope = float(np.cov(scores, error)[0, 1] / np.var(scores, ddof=1)) if np.var(scores) > 0 else 0.0
    model = _Losses(models, encoding, scale, noise, (float(error.mean() - slope * scores.mean()), slope))
    spread = 0.0
    if metric != "r2":
        edges = _edges(len(losses))
        parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
        missed = [float(losses[p].mean() - said[p].mean()) for p in parts]
        spread = _unexplained(missed, [noise * float((said[p] ** 2).sum()) / len(said[p]) ** 2 for p in parts])
        if metric == "neg_root_mean_squared_error":
            spread = spread / (2 * math.sqrt(losses.mean())) if losses.any() else 0.0
    return Estimator(metric, math.nan, spread=spread, model=model)


def _boost(
    encoded: np.ndarray, target: np.ndarray, seed: int, *, trees: int, rate: float, leaves: int, weights: np.ndarray | None = None
) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        max_iter=trees,
        learning_rate=rate,
        max_leaf_nodes=leaves,
        # binning with weights takes long
        max_bins=255 if weights is None else 48,
        min_samples_leaf=10 if weights is None else max(10, len(target) // 50),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    ).fit(encoded, target, sample_weight=weights)


def _positive(values: np.ndarray) -> np.ndarray:
    positive: np.ndarray = np.maximum(values, 0.0)
    return positive
