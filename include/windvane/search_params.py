"""Searches hyperparameters with several workers at once: each tries what is left to try, and the training takes the best."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from windvane.bundle import find_bundle
from windvane.config import ModelConfig
from windvane.errors import ModelCodeError, WindvaneError
from windvane.lake import Lake
from windvane.model_code import ModelCode
from windvane.predictor import make_features
from windvane.settings import Settings
from windvane.share_search import SharedSearch, forget
from windvane.signature import conform, describe_columns
from windvane.snapshot import Snapshot, read_snapshot
from windvane.store_trials import TrialStore, quietly
from windvane.tune_model import best_trial, make_judge, tune_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What one worker came to.

    Attributes:
        trials: How many it tried itself.
        complete: How many are complete by now, whoever tried them.
        best: The best value so far; None if there is none.
        skipped: Why nothing was searched; empty if something was.
    """

    trials: int = 0
    complete: int = 0
    best: float | None = None
    skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        """The form for XCom."""
        return asdict(self)


def is_shared(config: ModelConfig, code: ModelCode, snapshot: Snapshot) -> bool:
    """Whether the training of a snapshot shares its search among workers."""
    search = config.train.search
    # as the DAG: no more workers than trials
    several = search is not None and min(search.workers, search.trials) > 1
    return several and code.search_space is not None and snapshot.recalibrates is None


def search_params(config: ModelConfig, code: ModelCode, settings: Settings, lake: Lake, snapshot: Snapshot, *, worker: int) -> SearchResult:
    """Try params on the train window of a snapshot until `train.search.trials` are tried in all, or the time is over.

    Args:
        worker: Which of the workers this is, from 0. A worker that is started again goes on.

    Raises:
        NotEnoughData: If there are too few labelled rows.
        ModelCodeError: If the search cannot be shared.
        StorageError, ServiceUnavailable: If the trials cannot be stored.
    """
    search, space = config.train.search, code.search_space
    if search is None or space is None or not is_shared(config, code, snapshot):
        return SearchResult(skipped="there is nothing to search, or the task `train` does it")
    if find_bundle(settings.bundles, snapshot.training_key) is not None:
        return SearchResult(skipped="the bundle of this snapshot is made already")
    _require_plain_choices(code)
    train, holdout = read_snapshot(config, code, lake, snapshot)
    made = make_features(code, conform(train, describe_columns(pd.concat([train, holdout]), exclude=(config.data.id, config.data.label))))
    judge = make_judge(config, code, made, train[config.data.label])
    if judge is None:
        return SearchResult(skipped="too few rows to search on")
    with _open(config, settings, snapshot) as shared:
        tried = shared.work(space, judge, worker=worker, timeout_seconds=search.timeout.total_seconds())
        values = [trial.value for trial in shared.trials() if trial.state.name == "COMPLETE"]
    log.info("%s: worker %d of %d tried %d; %d of %d are complete", config.model, worker + 1,
             min(search.workers, search.trials), tried, len(values), search.trials)  # fmt: skip
    return SearchResult(trials=tried, complete=len(values), best=max(values, default=None))


def found_params(
    config: ModelConfig, code: ModelCode, settings: Settings, snapshot: Snapshot, made: pd.DataFrame, labels: "pd.Series[Any]"
) -> dict[str, Any]:
    """Return the best params that the workers found, or search here if they do not share this search.

    Args:
        made: Features of the train window, sorted by time.
        labels: Their labels.

    Raises:
        ModelCodeError: If every trial failed.
        StorageError, ServiceUnavailable: If the trials cannot be read.
    """
    if code.search_space is None or not is_shared(config, code, snapshot) or make_judge(config, code, made, labels) is None:
        return tune_model(config, code, made, labels)
    with _open(config, settings, snapshot) as shared:
        trials = [trial for trial in shared.trials() if trial.state.is_finished()]
    if not trials:
        log.warning("%s: no worker tried anything; searched by this task alone", config.model)
        return tune_model(config, code, made, labels)
    # a trial that is over gives the params that it was given
    return dict(code.search_space(best_trial(config, code, trials)))


def forget_search(config: ModelConfig, code: ModelCode, settings: Settings, snapshot: Snapshot) -> None:
    """Delete the trials of a training whose bundle is made; the bundle and MLflow have the params."""
    if not is_shared(config, code, snapshot):
        return
    try:
        with _store(settings) as store:
            forget(store, snapshot.training_key)
    except WindvaneError as exc:
        # the model's next search deletes them
        log.warning("%s: the trials of the search are not deleted: %s", config.model, exc)


@contextmanager
def _store(settings: Settings) -> Iterator[TrialStore]:
    store = TrialStore(settings.database)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _open(config: ModelConfig, settings: Settings, snapshot: Snapshot) -> Iterator[SharedSearch]:
    trials = config.train.search.trials if config.train.search else 0
    with _store(settings) as store:
        yield SharedSearch(store, snapshot.training_key, model=config.model, trials=trials, seed=config.train.seed)


def _require_plain_choices(code: ModelCode) -> None:
    """Refuse choices that do not survive JSON: the workers would not agree on what there is to choose from.

    Raises:
        ModelCodeError: With the param and the choice.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    with quietly(), suppress(optuna.TrialPruned):
        code.search_space(trial)  # type: ignore[misc]
    for name, drawn in trial.distributions.items():
        odd = [choice for choice in getattr(drawn, "choices", ()) if not isinstance(choice, str | float | int | None)]
        if odd:
            raise ModelCodeError(
                f"{code.path}: search_space() chooses '{name}' from {type(odd[0]).__name__}s, allowed with train.search.workers above 1 "
                "are text, numbers, true, false and None; choose from names, and look the values up by name"
            )
