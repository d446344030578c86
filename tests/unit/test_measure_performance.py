"""The realised metric is over rows with a known outcome only, with an interval, and honest when there is none."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.measure_performance import measure_performance


def config(task="binary_classification", **gates):
    return ModelConfig.model_validate({"model": "tiny", "task": task, "data": {"time": "at", "label": "y"}, "gates": gates})


def joined(n=400, seed=1):
    random = np.random.default_rng(seed)
    label = (random.random(n) < 0.3).astype(float)
    return pd.DataFrame(
        {"version": np.repeat([1, 2], n // 2), "score": random.random(n) * 0.5 + 0.3 * label, "probabilities": None, "label": label}
    )


def test_metric_of_rows_with_an_outcome_with_its_interval_and_per_version():
    frame = joined()
    frame.loc[:9, "label"] = np.nan

    found = measure_performance(config(), frame, classes=[0, 1], min_rows=195)

    known = frame[10:]
    assert found.value == pytest.approx(roc_auc_score(known["label"], known["score"]))
    assert found.low < found.value < found.high
    assert (found.scored, found.rows) == (400, 390)
    assert found.versions == {"2": pytest.approx(roc_auc_score(frame["label"][200:], frame["score"][200:]))}


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        pytest.param(joined()[:0], "no request", id="nothing was scored"),
        pytest.param(joined().assign(label=np.nan), "none of 400 scored rows", id="no outcome yet"),
        pytest.param(joined().assign(score=np.nan), "none of 400 scored rows", id="no score"),
        pytest.param(joined().assign(label=1.0), "not defined", id="one class"),
    ],
)
def test_without_a_number_there_is_a_reason(frame, problem):
    found = measure_performance(config(), frame, classes=[0, 1], min_rows=10)

    assert problem in found.problem
    assert math.isnan(found.value)


def test_regression_and_multiclass():
    values = pd.DataFrame({"version": 1, "score": np.arange(100.0), "probabilities": None, "label": np.arange(100.0) + 1})
    classes = pd.DataFrame(
        {
            "version": 1,
            "score": np.nan,
            "probabilities": [json.dumps([0.8, 0.1, 0.1]), json.dumps([0.1, 0.8, 0.1]), json.dumps([0.1, 0.1, 0.8]), "[0.5, 0.5]"] * 30,
            "label": ["a", "b", "c", "a"] * 30,
        }
    )

    assert measure_performance(config("regression"), values, classes=None, min_rows=10).value == pytest.approx(0.9988, abs=1e-4)
    found = measure_performance(config("multiclass_classification"), classes, classes=["a", "b", "c"], min_rows=10)
    assert (found.value, found.rows) == (1.0, 90)


def test_unknown_metric_is_named():
    with pytest.raises(ConfigError, match="roc_auk"):
        measure_performance(config(metric="roc_auk"), joined(), classes=[0, 1], min_rows=10)
