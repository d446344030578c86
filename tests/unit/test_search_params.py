import logging
from dataclasses import replace
from typing import Any

import pytest
from mlflow import MlflowClient
from training_project import MODEL_FILE, Project, make_project

from windvane.bundle import open_bundle
from windvane.errors import ModelCodeError
from windvane.search_params import SearchResult, found_params, search_params
from windvane.snapshot import Snapshot, plan_training
from windvane.store_trials import TrialStore
from windvane.train_model import train_model

SEARCH = {"search": {"trials": 4, "timeout": "1m", "workers": 2}}
RAISING = """
from sklearn.pipeline import Pipeline

def features(frame):
    return frame[["calls"]]

def build_pipeline(params):
    raise ValueError("no such layer")

def search_space(trial):
    return {"C": trial.suggest_float("C", 0.0, 1.0)}
"""


def project_of(tmp_path: Any, *, code: str | None = None, rows: int = 600, **search: Any) -> tuple[Project, Snapshot]:
    project = make_project(tmp_path, rows=rows, code=code, train={"search": {**SEARCH["search"], **search}})
    snapshot = plan_training(project.config, project.code, project.lake, window=None, settings=project.settings)
    return project, snapshot


def search(project: Project, snapshot: Snapshot, *, worker: int = 0) -> SearchResult:
    return search_params(project.config, project.code, project.settings, project.lake, snapshot, worker=worker)


def train(project: Project, snapshot: Snapshot) -> Any:
    return train_model(project.config, project.code, project.settings, project.lake, snapshot)


def searches(project: Project) -> list[str]:
    store = TrialStore(project.settings.database)
    found = [study.study_name for study in store.storage.get_all_studies()]
    store.close()
    return found


def test_the_training_takes_what_the_workers_found(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    project, snapshot = project_of(tmp_path)
    first, second = search(project, snapshot), search(project, snapshot, worker=1)
    assert (first.trials, first.complete, second.trials, second.best) == (4, 4, 0, first.best)
    assert searches(project) == [snapshot.training_key]
    expected = found_params(project.config, project.code, project.settings, snapshot, *rows_of(project, snapshot))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="windvane"):
        result = train(project, snapshot)
    assert sum("trial " in record.getMessage() for record in caplog.records) == 0
    bundle = open_bundle(project.settings.bundles, result.bundle_digest)
    assert bundle.manifest["params"] == expected
    run = MlflowClient(project.settings.mlflow_uri).get_run(result.run_id)
    assert run.data.params["model.max_depth"] == str(expected["max_depth"])
    assert searches(project) == []


def test_a_bundle_that_is_made_needs_no_search(tmp_path: Any) -> None:
    project, snapshot = project_of(tmp_path, trials=2)
    search(project, snapshot)
    train(project, snapshot)
    assert "made already" in search(project, snapshot).skipped
    assert searches(project) == []
    assert train(project, snapshot).adopted


def test_params_keep_their_python_types(tmp_path: Any) -> None:
    code = MODEL_FILE.format(task="binary_classification").replace(
        'return {"max_depth": trial.suggest_int("max_depth", 2, 5)}',
        'return {"max_depth": trial.suggest_int("max_depth", 2, 5), "shape": (trial.suggest_categorical("wide", [True, False]), 3)}',
    )
    project, snapshot = project_of(tmp_path, code=code, trials=2)
    search(project, snapshot)
    made, labels = rows_of(project, snapshot)
    found = found_params(project.config, project.code, project.settings, snapshot, made, labels)
    assert isinstance(found["shape"], tuple)
    assert isinstance(found["shape"][0], bool)
    assert isinstance(found["max_depth"], int)


def rows_of(project: Project, snapshot: Snapshot) -> Any:
    from windvane.predictor import make_features
    from windvane.signature import conform, describe_columns
    from windvane.snapshot import read_snapshot

    train, _ = read_snapshot(project.config, project.code, project.lake, snapshot)
    return make_features(project.code, conform(train, describe_columns(train, exclude=("customer", "left")))), train["left"]


def test_all_trials_failed(tmp_path: Any) -> None:
    project, snapshot = project_of(tmp_path, code=RAISING)
    assert search(project, snapshot) == SearchResult(trials=4, complete=0, best=None)
    with pytest.raises(ModelCodeError, match="all 4 trials failed"):
        found_params(project.config, project.code, project.settings, snapshot, *rows_of(project, snapshot))


def test_a_training_that_no_worker_searched_for_searches_itself(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    project, snapshot = project_of(tmp_path, trials=2)
    assert found_params(project.config, project.code, project.settings, snapshot, *rows_of(project, snapshot))["max_depth"] in range(2, 6)
    assert "no worker tried anything" in caplog.text


@pytest.mark.parametrize("kind", ["one worker", "one trial", "recalibration", "no search space"])
def test_what_has_nothing_to_share_does_nothing(tmp_path: Any, kind: str) -> None:
    code = MODEL_FILE.format(task="binary_classification").partition("def search_space")[0] if kind == "no search space" else None
    project, snapshot = project_of(tmp_path, code=code, workers=1 if kind == "one worker" else 2, trials=1 if kind == "one trial" else 4)
    if kind == "recalibration":
        snapshot = replace(snapshot, recalibrates="d" * 64)
    assert search(project, snapshot).skipped.startswith("there is nothing to search")
    assert not list(project.settings.var.glob("*.search.db"))


def test_too_few_rows_mean_the_pipelines_own_defaults(tmp_path: Any) -> None:
    project, snapshot = project_of(tmp_path)
    made, labels = rows_of(project, snapshot)
    few = made.iloc[:1]
    assert found_params(project.config, project.code, project.settings, snapshot, few, labels.iloc[:1]) == {}


def test_choices_that_json_does_not_keep_are_refused(tmp_path: Any) -> None:
    code = MODEL_FILE.format(task="binary_classification").replace(
        'trial.suggest_int("max_depth", 2, 5)', 'trial.suggest_categorical("layers", [(3,), (3, 3)])'
    )
    project, snapshot = project_of(tmp_path, code=code)
    with pytest.raises(ModelCodeError, match="search_space\\(\\) chooses 'layers' from tuples"):
        search(project, snapshot)


def test_the_number_of_workers_changes_no_training_key(tmp_path: Any) -> None:
    project, snapshot = project_of(tmp_path)
    fewer = make_project(tmp_path / "other", rows=600, train={"search": {**SEARCH["search"], "workers": 1}})
    assert fewer.config.digest() == project.config.digest() == snapshot.config_digest


def test_trials_that_cannot_be_deleted_do_not_fail_a_training(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from windvane import search_params as module
    from windvane.errors import ServiceUnavailable

    project, snapshot = project_of(tmp_path, trials=2)
    search(project, snapshot)

    def unavailable(store: TrialStore, key: str) -> None:
        raise ServiceUnavailable("search: no answer; start the database")

    monkeypatch.setattr(module, "forget", unavailable)
    assert train(project, snapshot).bundle_digest
    assert "are not deleted" in caplog.text
