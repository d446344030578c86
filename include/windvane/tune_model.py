"""Searches hyperparameters with Optuna on the train window alone: fit on its older part, judged on its newest."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Judge:
    """Says how good params are: fits the older rows and scores the newest.

    Attributes:
        older: Features to fit on.
        newest: Features to judge on.
        labels: Of both, by their index.
    """

    config: ModelConfig
    code: ModelCode
    older: pd.DataFrame
    newest: pd.DataFrame
    labels: "pd.Series[Any]"

    def __call__(self, params: Mapping[str, Any]) -> float:
        """Return the metric, where more is better.

        Raises:
            ModelCodeError: If the model's own code fails.
        """
        config, code = self.config, self.code
        try:
            pipeline = fit_pipeline(code, params, self.older, self.labels[self.older.index], seed=config.train.seed)
            predictions = predict_features(pipeline, self.newest, where=str(code.path), classifier=config.is_classifier)
        except ModelCodeError:
            log.warning("%s: a trial failed with %s", config.model, dict(params), exc_info=True)
            raise
        classes = pipeline.classes_.tolist() if config.is_classifier else None
        labels = self.labels[self.newest.index]
        known = labels.isin(classes).to_numpy() if classes else slice(None)
        return score_metric(config.metric, config.task, labels[known], predictions[known], classes)


def make_judge(config: ModelConfig, code: ModelCode, made: pd.DataFrame, labels: "pd.Series[Any]") -> Judge | None:
    """Split the rows of a train window; None if they are too few to search on.

    Args:
        made: Features of the train window, sorted by time.
        labels: Their labels.
    """
    cut = int(len(made) * (1 - _NEWEST))
    older, newest = _thinned(made.iloc[:cut], _MOST_ROWS), _thinned(made.iloc[cut:], _MOST_ROWS // 2)
    if older.empty or newest.empty or (config.is_classifier and (labels[older.index].nunique() < 2 or labels[newest.index].nunique() < 2)):
        log.warning("%s: too few of %d rows to search on; build_pipeline() uses its own defaults", config.model, len(made))
        return None
    return Judge(config, code, older, newest, labels)


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
    judge = make_judge(config, code, made, labels)
    if judge is None:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search, space = config.train.search, code.search_space
    started, found = time.monotonic(), {}

    def objective(trial: Any) -> float:
        params = space(trial)
        value = judge(params)
        found[trial.number] = params
        log.info("%s: trial %d of %d after %.1f s: %s %.4f with %s", config.model, trial.number + 1, search.trials,
                 time.monotonic() - started, config.metric, value, params)  # fmt: skip
        return value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=config.train.seed))
    study.optimize(objective, n_trials=search.trials, timeout=search.timeout.total_seconds(), catch=(ModelCodeError,))
    return dict(found[best_trial(config, code, study.trials).number])


def best_trial(config: ModelConfig, code: ModelCode, trials: list[Any]) -> Any:
    """The complete trial with the largest value, the earliest of equals.

    Raises:
        ModelCodeError: If no trial is complete.
    """
    from optuna.trial import TrialState

    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise ModelCodeError(f"{code.path}: all {len(trials)} trials failed; the first params of search_space() that fail are in the log")
    best = max(complete, key=lambda trial: (trial.value, -trial.number))
    log.info("%s: best of %d trials: %s %.4f", config.model, len(complete), config.metric, best.value)
    return best


def _thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Every k-th row, so that the order in time and the span stay."""
    return rows.iloc[:: -(-len(rows) // most)] if len(rows) > most else rows
