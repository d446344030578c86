"""Searches hyperparameters with Optuna on the train window alone: fit on its older part, judged on its newest."""

import logging
import time
from typing import Any

import pandas as pd

from windvane.compare_models import score_metric
from windvane.config import ModelConfig
from windvane.errors import ModelCodeError
from windvane.fit_pipeline import fit_pipeline
from windvane.model_code import ModelCode
from windvane.predictor import predict_features

log = logging.getLogger(__name__)

_NEWEST = 0.2
_MOST_ROWS = 30_000


def tune_model(config: ModelConfig, code: ModelCode, made: pd.DataFrame, labels: "pd.Series[Any]") -> dict[str, Any]:
    """Return the best params of `search_space`, or {} when there is nothing to search.

    Args:
        made: Features of the train window, sorted by time.
        labels: Their labels.

    Raises:
        ModelCodeError: If every trial failed.
    """
    if config.train.search is None or code.search_space is None:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search, seed, space = config.train.search, config.train.seed, code.search_space
    cut = int(len(made) * (1 - _NEWEST))
    older, newest = _thinned(made.iloc[:cut], _MOST_ROWS), _thinned(made.iloc[cut:], _MOST_ROWS // 2)
    if older.empty or newest.empty or (config.is_classifier and (labels[older.index].nunique() < 2 or labels[newest.index].nunique() < 2)):
        log.warning("%s: too few of %d rows to search on; build_pipeline() uses its own defaults", config.model, len(made))
        return {}
    started, found = time.monotonic(), {}

    def objective(trial: Any) -> float:
        params = space(trial)
        pipeline = fit_pipeline(code, params, older, labels[older.index], seed=seed)
        predictions = predict_features(pipeline, newest, where=str(code.path), classifier=config.is_classifier)
        classes = pipeline.classes_.tolist() if config.is_classifier else None
        known = labels[newest.index].isin(classes).to_numpy() if classes else slice(None)
        value = score_metric(config.metric, config.task, labels[newest.index][known], predictions[known], classes)
        found[trial.number] = params
        log.info("%s: trial %d of %d after %.1f s: %s %.4f with %s", config.model, trial.number + 1, search.trials,
                 time.monotonic() - started, config.metric, value, params)  # fmt: skip
        return value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=search.trials, timeout=search.timeout.total_seconds(), catch=(ModelCodeError,))
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise ModelCodeError(
            f"{code.path}: all {len(study.trials)} trials failed; the first params of search_space() that fail are in the log"
        )
    best = max(complete, key=lambda t: (t.value, -t.number))
    log.info("%s: best of %d trials: %s %.4f", config.model, len(complete), config.metric, best.value)
    return dict(found[best.number])


def _thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Every k-th row, so that the order in time and the span stay."""
    return rows.iloc[:: -(-len(rows) // most)] if len(rows) > most else rows
