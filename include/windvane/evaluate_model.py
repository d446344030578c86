"""Measures a model on rows that it was not trained on: metrics, and how much each input column matters."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from windvane.compare_models import outcomes_of, score_outcomes, scores_of
from windvane.config import ModelConfig
from windvane.model_code import ModelCode
from windvane.predictor import Predictions, predict_rows

log = logging.getLogger(__name__)

METRICS = {
    "binary_classification": ("roc_auc", "average_precision", "neg_log_loss", "neg_brier_score", "accuracy"),
    "multiclass_classification": ("roc_auc_ovr_weighted", "neg_log_loss", "accuracy", "f1_macro"),
    "regression": ("r2", "neg_mean_absolute_error", "neg_root_mean_squared_error"),
}
_MOST_ROWS = 2000
_REPEATS = 3


def evaluate_model(
    config: ModelConfig, labels: "pd.Series[Any]", predictions: Predictions, classes: Sequence[Any] | None
) -> dict[str, float]:
    """Compute the gate's metric and the usual ones of the task, by scikit-learn's scorer names; greater is better.

    What is not finite is left out with a warning, so that nothing downstream can mistake it for a score.
    """
    known = labels.isin(list(classes)).to_numpy() if classes else np.ones(len(labels), dtype=bool)
    if not known.all():
        log.warning(
            "%s: %d of %d holdout rows have a label that training never saw; they are not scored", config.model, (~known).sum(), len(known)
        )
    outcomes = outcomes_of(labels[known], config.task, classes)
    scores = scores_of(predictions, config.task)[known]
    metrics = {}
    for name in dict.fromkeys((config.metric, *METRICS[config.task])):
        value = score_outcomes(name, outcomes, scores)
        if math.isfinite(value):
            metrics[name] = value
        else:
            log.warning(
                "%s: the metric %s is %s on %d holdout rows: it is not recorded and cannot pass a gate",
                config.model,
                name,
                value,
                len(outcomes),
            )
    if config.task == "binary_classification" and len(outcomes):
        metrics["base_rate"] = float(outcomes.mean())
    return metrics


def measure_importance(
    config: ModelConfig, code: ModelCode, pipeline: Any, rows: pd.DataFrame, labels: "pd.Series[Any]", classes: Sequence[Any] | None
) -> dict[str, float]:
    """How much the metric falls when one input column is shuffled (Breiman, Random Forests, 2001), mean of a few shuffles.

    Args:
        rows: Conformed input rows.
        labels: Their labels.
    """
    step = -(-len(rows) // _MOST_ROWS)
    keep = np.arange(0, len(rows), step)
    if classes:
        keep = keep[labels.iloc[keep].isin(list(classes)).to_numpy()]
    sample, outcomes = rows.iloc[keep].reset_index(drop=True), outcomes_of(labels.iloc[keep], config.task, classes)
    random = np.random.default_rng(config.train.seed)

    def score(frame: pd.DataFrame) -> float:
        return score_outcomes(
            config.metric, outcomes, scores_of(predict_rows(pipeline, code, frame, classifier=config.is_classifier), config.task)
        )

    whole = score(sample)
    drops = {}
    for name in sample.columns:
        shuffled = [sample.assign(**{name: sample[name].to_numpy()[random.permutation(len(sample))]}) for _ in range(_REPEATS)]
        typed = [frame.astype({name: sample[name].dtype}) for frame in shuffled]
        drops[str(name)] = float(np.mean([whole - score(frame) for frame in typed]))
    return {name: drop for name, drop in sorted(drops.items(), key=lambda item: -item[1]) if math.isfinite(drop)}
