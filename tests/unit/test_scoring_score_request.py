"""No answer ever holds NaN, and an error of the model's code is told without its data."""

import dataclasses
import json
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from test_scoring_bundles import make_bundle

from windvane.predictor import Predictions
from windvane.scoring.request_error import RequestError
from windvane.scoring.score_request import score_request
from windvane.scoring.serve_version import Wanted, load_version

ROW = {"carrier": "UA", "distance": 500.0, "seats": 180, "night": None, "at": "2013-02-01T06:00:00Z"}


@pytest.fixture
def load(tmp_path):
    def make(**options):
        made = make_bundle(tmp_path / "bundles", **options)
        return load_version(tmp_path / "bundles", Wanted(1, made.digest), model="tiny")

    return make


def ask(served, **changes):
    body = json.dumps({"instances": [ROW, ROW | changes]}).encode()
    return score_request(served, body, "application/json", request_id="r", received=datetime.now(UTC))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_prediction_that_is_not_finite_is_refused_and_names_the_row(load, bad, probabilities):
    served = load()
    values = np.array([1.0, 1.0 if probabilities else bad])
    found = Predictions(values, np.array([[0.5, 0.5], [bad, 0.5]]) if probabilities else None)
    fake = SimpleNamespace(predict=lambda frame: found, classes=served.predictor.classes)

    with pytest.raises(RequestError, match="row 1: the model's answer is not a finite number") as caught:
        ask(dataclasses.replace(served, predictor=fake))

    assert caught.value.status == 422


def test_an_error_of_the_model_is_422_and_quotes_nothing(load):
    with pytest.raises(RequestError) as caught:
        ask(load(), distance=-13)

    assert caught.value.status == 422
    assert "SECRET" not in f"{caught.value} {caught.value.__cause__}"


def test_two_classes_log_the_probability_of_the_second(load):
    answer = ask(load(classes=("early", "late")))
    said = json.loads(answer.body)

    assert set(said["predictions"]) <= {"early", "late"}
    assert answer.scored.scores == [p[1] for p in said["probabilities"]]
    assert answer.scored.probabilities is None


def test_more_classes_log_all_probabilities(load):
    answer = ask(load(task="multiclass_classification", classes=("a", "b", "c")))

    assert answer.scored.scores is None
    assert answer.scored.probabilities == json.loads(answer.body)["probabilities"]


def test_a_regression_answers_values_only(load):
    answer = ask(load(task="regression"))

    assert json.loads(answer.body) == {"predictions": answer.scored.scores}
    assert answer.scored.scores == pytest.approx([361.0, 361.0])
