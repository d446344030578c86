"""Asks what would repair the champion: tries candidates on the newest labelled rows, which none of them was fitted on.

Candidates are the champion with a new calibration, and its recipe fitted on the rows since the change, on the usual training window, and on
all rows. Which window is better matters as much as whether to train at all.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from windvane.compare_means import block_mean, chance_of_excess
from windvane.compare_models import align_classes, outcomes_of, paired_bootstrap, score_outcomes, scores_of
from windvane.config import ModelConfig
from windvane.decision_evidence import RECALIBRATED
from windvane.fit_pipeline import fit_pipeline
from windvane.model_code import ModelCode
from windvane.predictor import Predictions, make_features, predict_features
from windvane.recalibrate import fit_recalibration
from windvane.row_losses import ROBUST, row_losses
from windvane.signature import conform, describe_columns

if TYPE_CHECKING:
    from windvane.watched_champion import Champion

log = logging.getLogger(__name__)

NEWEST = "newest rows"
_SURER = 0.1
_LEAST_GAIN = 0.002
_UNSURE = 0.05
TRIED_ROWS = 50_000
"""A trial need not be as good as a training: it reads at most so many rows, evenly over their time."""
_RESAMPLES = 400


@dataclass(frozen=True)
class Candidate:
    """One way to repair the champion, and what it is worth on the judged rows.

    Attributes:
        name: `recalibrated`, or the training window: `since the change`, `usual window`, `all history`.
        train_start: First moment of the rows that it was fitted on.
        train_rows: Their number.
        loss: Mean loss on the judged rows.
        gain: Mean loss of the champion minus that of the candidate.
        p: One-sided p-value of the gain.
        metric: The gates' metric on the judged rows; more is better.
        metric_low: Lower end of the paired interval of the metric's difference to the champion.
        better: Whether the gain is beyond noise and, unless it only recalibrates, the metric's as well.
    """

    name: str
    train_start: datetime
    train_rows: int
    loss: float
    gain: float
    p: float
    metric: float
    metric_low: float
    better: bool


@dataclass(frozen=True)
class Trial:
    """What was tried for a champion.

    Attributes:
        why: What led to the trial.
        rows: Judged rows: the newest ones with an outcome.
        since: Start of the rows that the trial was about.
        rows_since: Rows with an outcome since then.
        metric: scikit-learn scorer name; more is better.
        champion_loss: Mean loss of the champion on the judged rows.
        champion_metric: Its metric there.
        candidates: What was tried, the best loss first.
        chosen: Name of the candidate that would repair the champion; empty when none would.
        problem: Why nothing could be tried; empty when something was.
        judged_start: Start of the judged rows; a challenger is judged on the same.
    """

    why: str
    rows: int
    since: datetime
    rows_since: int
    metric: str
    champion_loss: float = math.nan
    champion_metric: float = math.nan
    candidates: tuple[Candidate, ...] = ()
    chosen: str = ""
    problem: str = ""
    judged_start: datetime | None = None

    @property
    def is_unsure(self) -> bool:
        """Whether nothing was chosen, though something may well be better."""
        return not self.chosen and any(c.p < _UNSURE for c in self.candidates)

    @property
    def choice(self) -> Candidate | None:
        """The candidate that would repair the champion."""
        return next((c for c in self.candidates if c.name == self.chosen), None)


def try_refit(
    config: ModelConfig,
    code: ModelCode,
    champion: "Champion",
    *,
    trains: Mapping[str, pd.DataFrame],
    judged: pd.DataFrame,
    asked: Trial,
    chance: float,
    least_gain: float,
) -> Trial:
    """Fit every candidate and compare it with the champion on `judged`, paired row by row.

    Neither the champion nor a candidate was trained on `judged`; the caller sees to that.

    Args:
        config: The model's config: metric, seed and confidence.
        code: The model file as it is now.
        champion: What serves.
        trains: Name of a candidate -> labelled rows before `judged`, sorted by time; a new calibration is fitted on those of the
            newest, or else of the first, that the champion did not see.
        judged: The newest labelled rows.
        asked: The trial as it was asked for; its results are filled in.
        chance: The chance with which any candidate may be called better though none is.
        least_gain: Share of the champion's loss that a candidate must gain at least.

    Returns:
        The trial with its candidates, or with the reason why there are none.

    Raises:
        ModelCodeError: If the model's own code fails.
    """
    label, started = config.data.label, time.perf_counter()
    usable = {name: rows for name, rows in trains.items() if not _too_little(config, rows, judged)}
    if not usable:
        return replace(
            asked, problem=next((_too_little(config, rows, judged) for rows in trains.values()), "there are no rows to train on")
        )
    fitted = {name: _fit(config, code, champion, rows, judged) for name, rows in usable.items()}
    classes = _all_classes(champion.classes, [own for _, own in fitted.values()]) if config.is_classifier else None
    served = scores_of(align_classes(champion.predict(judged), champion.classes, classes), config.task)
    known = judged[label].isin(classes).to_numpy() if classes else np.ones(len(judged), dtype=bool)
    outcomes, served = outcomes_of(judged[label][known], config.task, classes), served[known]
    tried = {name: scores_of(align_classes(p, own, classes), config.task)[known] for name, (p, own) in fitted.items()}
    first = usable[NEWEST] if NEWEST in usable else next(iter(usable.values()))
    # where nothing was harmed there is nothing to calibrate: only what is learned from newer rows counts
    recalibrated = _recalibrate(config, champion, first, judged, classes) if asked.why != "renewed" else None
    if recalibrated is not None:
        tried[RECALIBRATED] = recalibrated[known]
    compare = _Comparison(config, outcomes, served, chance / len(tried), least_gain)
    candidates = [compare.judge(name, scores, usable.get(name, first)) for name, scores in tried.items()]
    trial = replace(
        asked,
        rows=len(outcomes),
        champion_loss=float(np.mean(compare.losses)),
        champion_metric=score_outcomes(config.metric, outcomes, served),
        candidates=tuple(sorted(candidates, key=lambda c: c.loss)),
        chosen=_choose(config, candidates, tried, outcomes),
    )
    found = ", ".join(f"{c.name} {c.gain:+.4f} (p {c.p:.2g})" for c in trial.candidates)
    log.info("%s: tried on %d rows in %.1f s: %s", config.model, trial.rows, time.perf_counter() - started, found)
    return trial


class _Comparison:
    """The champion on the judged rows, to which candidates are compared."""

    def __init__(self, config: ModelConfig, outcomes: np.ndarray, served: np.ndarray, chance: float, least_gain: float) -> None:
        self.config, self.outcomes, self.served = config, outcomes, served
        self.chance, self.least_gain = chance, least_gain
        self.losses = row_losses(config.task, outcomes, served, smallest=ROBUST)

    def judge(self, name: str, scores: np.ndarray, rows: pd.DataFrame) -> Candidate:
        config = self.config
        losses = row_losses(config.task, self.outcomes, scores, smallest=ROBUST)
        gains = block_mean(self.losses - losses)
        p = chance_of_excess(gains)
        least = self.least_gain * float(np.mean(self.losses)) + (_LEAST_GAIN if config.is_classifier else 0.0)
        better = p < self.chance and gains.value >= least
        metric, metric_low = score_outcomes(config.metric, self.outcomes, scores), math.nan
        if better and name != RECALIBRATED:
            rule = config.gates.versus_champion
            found = paired_bootstrap(
                config.metric,
                self.outcomes,
                scores,
                self.served,
                confidence=rule.confidence,
                seed=config.train.seed,
                resamples=_RESAMPLES,
                margin=rule.margin,
            )
            metric_low, better = found.low, found.verdict in ("better", "not_worse")
        return Candidate(
            name=name,
            train_start=rows[config.data.time].iloc[0].to_pydatetime(),
            train_rows=len(rows),
            loss=float(np.mean(losses)),
            gain=gains.value,
            p=p,
            metric=metric,
            metric_low=metric_low,
            better=bool(better),
        )


def _choose(config: ModelConfig, candidates: Sequence[Candidate], scores: Mapping[str, np.ndarray], outcomes: np.ndarray) -> str:
    """The best of the better ones; but a new calibration, which is cheap, where no refit is surely better than that."""
    better = sorted((c for c in candidates if c.better), key=lambda c: c.loss)
    cheap = next((c for c in better if c.name == RECALIBRATED), None)
    if not better or cheap is None or better[0] is cheap:
        return better[0].name if better else ""
    losses = {c.name: row_losses(config.task, outcomes, scores[c.name], smallest=ROBUST) for c in (better[0], cheap)}
    surely = chance_of_excess(block_mean(losses[cheap.name] - losses[better[0].name])) < _SURER
    return better[0].name if surely else cheap.name


def _fit(
    config: ModelConfig, code: ModelCode, champion: "Champion", train: pd.DataFrame, judged: pd.DataFrame
) -> tuple[Predictions, Sequence[Any] | None]:
    """Predictions of the champion's recipe, fitted on other rows, and its classes."""
    label = config.data.label
    columns = describe_columns(pd.concat([train, judged]), exclude=(config.data.id, label, *champion.hidden))
    made = make_features(code, conform(train, columns))
    pipeline = fit_pipeline(code, champion.params, made, train[label], seed=config.train.seed)
    newer = make_features(code, conform(judged, columns))
    predicted = predict_features(pipeline, newer, where=str(code.path), classifier=config.is_classifier)
    return predicted, pipeline.classes_.tolist() if config.is_classifier else None


def _recalibrate(
    config: ModelConfig, champion: "Champion", train: pd.DataFrame, judged: pd.DataFrame, classes: Sequence[Any] | None
) -> np.ndarray | None:
    """Scores of the champion with a calibration that fits `train`; None where the classes are not the champion's own."""
    label = config.data.label
    train = train[train[config.data.time] >= champion.train.end]
    if len(train) < config.gates.min_rows or (config.is_classifier and list(classes or ()) != list(champion.classes or ())):
        return None
    outcomes = outcomes_of(train[label], config.task, champion.classes)
    calibration = fit_recalibration(config.task, outcomes, scores_of(champion.predict(train), config.task))
    scores: np.ndarray = calibration.apply(scores_of(champion.predict(judged), config.task))
    return scores


def _too_little(config: ModelConfig, train: pd.DataFrame, judged: pd.DataFrame) -> str:
    few = config.gates.min_rows
    for name, rows in (("rows to train on", train), ("newest rows", judged)):
        if len(rows) < few:
            return f"there are {len(rows)} labelled {name}, gates.min_rows asks for {few}"
        if config.is_classifier and rows[config.data.label].nunique() < 2:
            return f"the {len(rows)} {name} have a single class"
    return ""


def _all_classes(champion: Sequence[Any] | None, others: Sequence[Sequence[Any] | None]) -> list[Any]:
    return sorted({*(champion or ()), *(label for own in others for label in own or ())})
