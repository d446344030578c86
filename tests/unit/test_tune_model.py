import logging

import pytest
from training_project import make_project

from windvane.errors import ModelCodeError
from windvane.predictor import make_features
from windvane.signature import conform, describe_columns
from windvane.snapshot import plan_training, read_snapshot
from windvane.tune_model import tune_model

BROKEN = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

def features(frame):
    return frame[["calls"]]

def build_pipeline(params):
    return Pipeline([("model", LogisticRegression(C=params["C"]))])

def search_space(trial):
    return {"C": trial.suggest_float("C", LOW, 1.0)}
"""


def prepared(project):
    snapshot = plan_training(project.config, project.code, project.lake, window=None, settings=project.settings)
    train, _ = read_snapshot(project.config, project.code, project.lake, snapshot)
    columns = describe_columns(train, exclude=("customer", "left"))
    return make_features(project.code, conform(train, columns)), train["left"]


def test_the_search_is_reproducible_and_logs_each_trial(tmp_path, caplog):
    project = make_project(tmp_path, rows=600, train={"search": {"trials": 3, "timeout": "1m"}})
    made, labels = prepared(project)
    with caplog.at_level(logging.INFO, logger="windvane.tune_model"):
        first = tune_model(project.config, project.code, made, labels)
    assert sum("trial " in r.getMessage() for r in caplog.records) == 3
    assert first == tune_model(project.config, project.code, made, labels)


def test_the_time_budget_ends_the_search(tmp_path, caplog):
    project = make_project(tmp_path, rows=600, train={"search": {"trials": 10_000, "timeout": "1s"}})
    with caplog.at_level(logging.INFO, logger="windvane.tune_model"):
        assert tune_model(project.config, project.code, *prepared(project))
    assert 1 <= sum("trial " in r.getMessage() for r in caplog.records) < 500


def test_no_search_means_the_pipelines_own_defaults(tmp_path):
    project = make_project(tmp_path, rows=600)
    assert tune_model(project.config, project.code, *prepared(project)) == {}


@pytest.mark.parametrize(("low", "all_fail"), [("-1.0", False), ("-1.0, 1) if False else trial.suggest_float('D', -2.0", True)])
def test_failing_trials_are_skipped_unless_all_fail(tmp_path, low, all_fail):
    code = BROKEN.replace("LOW", low)
    if all_fail:
        code = BROKEN.replace("LOW, 1.0", "-2.0, -1.0")
    project = make_project(tmp_path, rows=600, code=code, train={"search": {"trials": 8, "timeout": "1m"}})
    if all_fail:
        with pytest.raises(ModelCodeError, match="all 8 trials failed"):
            tune_model(project.config, project.code, *prepared(project))
    else:
        assert tune_model(project.config, project.code, *prepared(project))["C"] > 0
