"""Asks whether a retraining would help: fits the champion's recipe on newer rows and compares both on still newer ones."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from windvane.compare_models import outcomes_of, paired_bootstrap, score_outcomes, scores_of
from windvane.config import ModelConfig
from windvane.decide_retrain import Refit
from windvane.fit_pipeline import fit_pipeline
from windvane.model_code import ModelCode
from windvane.predictor import Predictions, Predictor, make_features, predict_features
from windvane.signature import conform, describe_columns

log = logging.getLogger(__name__)

_RESAMPLES = 400


def try_refit(config: ModelConfig, code: ModelCode, champion: Predictor, *, train: pd.DataFrame, judged: pd.DataFrame) -> Refit:
    """Fit the champion's params with today's code on `train`, and compare it with the champion on `judged`, paired row by row.

    Neither model was trained on `judged`; the caller sees to that.

    Args:
        config: The model's config: metric, seed and confidence.
        code: The model file as it is now.
        champion: The version that serves, with its own code.
        train: Labelled rows before `judged`, sorted by time.
        judged: The newest labelled rows.

    Returns:
        The comparison, or the reason why there is none.

    Raises:
        ModelCodeError: If the model's own code fails.
    """
    label = config.data.label
    problem = _too_little(config, train, judged)
    if problem:
        return Refit(config.metric, rows=len(judged), train_rows=len(train), problem=problem)
    started = time.perf_counter()
    columns = describe_columns(pd.concat([train, judged]), exclude=(config.data.id, label))
    pipeline = fit_pipeline(
        code, champion.bundle.manifest["params"], make_features(code, conform(train, columns)), train[label], seed=config.train.seed
    )
    made = make_features(code, conform(judged, columns))
    predicted = predict_features(pipeline, made, where=str(code.path), classifier=config.is_classifier)
    classes = _all_classes(champion.classes, getattr(pipeline, "classes_", None)) if config.is_classifier else None
    new = scores_of(_aligned(predicted, getattr(pipeline, "classes_", None), classes), config.task)
    served = scores_of(_aligned(champion.predict(judged), champion.classes, classes), config.task)
    known = judged[label].isin(classes).to_numpy() if classes else np.ones(len(judged), dtype=bool)
    outcomes = outcomes_of(judged[label][known], config.task, classes)
    comparison = paired_bootstrap(
        config.metric,
        outcomes,
        new[known],
        served[known],
        confidence=config.gates.versus_champion.confidence,
        seed=config.train.seed,
        resamples=_RESAMPLES,
    )
    refit = Refit(
        config.metric,
        champion=score_outcomes(config.metric, outcomes, served[known]),
        refit=score_outcomes(config.metric, outcomes, new[known]),
        difference=comparison.difference,
        low=comparison.low,
        high=comparison.high,
        rows=comparison.n,
        train_rows=len(train),
    )
    seconds, (low, high) = time.perf_counter() - started, (refit.low, refit.high)
    log.info("%s: trial refit on %d rows: %+.4f (%+.4f to %+.4f), %.1f s", config.model, len(train), refit.difference, low, high, seconds)
    return refit


def _too_little(config: ModelConfig, train: pd.DataFrame, judged: pd.DataFrame) -> str:
    if len(train) < config.gates.min_rows:
        return f"only {len(train)} labelled rows lie before the newest ones, gates.min_rows asks for {config.gates.min_rows}"
    for name, rows in (("rows to train on", train), ("newest rows", judged)):
        if config.is_classifier and rows[config.data.label].nunique() < 2:
            return f"the {len(rows)} {name} have a single class"
    return ""


def _all_classes(champion: Sequence[Any] | None, refit: Any) -> tuple[Any, ...]:
    return tuple(sorted({*(champion or ()), *(refit.tolist() if refit is not None else ())}))


def _aligned(predictions: Predictions, own: Any, classes: Sequence[Any] | None) -> Predictions:
    """Probabilities with a column for every class that either model knows; a class that one never saw has probability 0."""
    if predictions.probabilities is None or classes is None or own is None:
        return predictions
    places = {label: place for place, label in enumerate(np.asarray(own).tolist())}
    zeros = np.zeros(len(predictions.values))
    aligned = np.column_stack([predictions.probabilities[:, places[c]] if c in places else zeros for c in classes])
    return Predictions(predictions.values, aligned)
