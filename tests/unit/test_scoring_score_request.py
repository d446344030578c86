"""No answer ever holds NaN, and an error of the model's code is told without its data."""

import dataclasses
import json
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from test_scoring_bundles import make_bundle

from windvane.predictor import Predictions
from windvane.scoring.request_error import RequestError
from windvane.scoring.score_request import Job, score_batch, score_request
from windvane.scoring.serve_version import Wanted, load_version

ROW = {"carrier": "UA", "distance": 500.0, "seats": 180, "night": None, "at": "2013-02-01T06:00:00Z"}


TENSORS = {"carrier": "BYTES", "distance": "FP64", "seats": "INT64", "night": "BOOL", "at": "BYTES"}


@pytest.fixture
def load(tmp_path):
    def make(**options):
        made = make_bundle(tmp_path / "bundles", **options)
        return load_version(tmp_path / "bundles", Wanted(1, made.digest), model="tiny")

    return make


def body_of(*changes):
    return json.dumps({"instances": [ROW | change for change in changes]}).encode()


def ask(served, **changes):
    return json.loads(score_request(served, body_of({}, changes), "application/json", request_id="r", received=datetime.now(UTC)).body)


def job(body, protocol="mlflow", request_id="r"):
    return Job(protocol, body, "application/json" if protocol == "mlflow" else None, request_id, 0, time.perf_counter())


def batch(served, *jobs):
    found = score_batch(served, jobs)
    return [str(result) if isinstance(result, RequestError) else json.loads(result.body) for result in found.results], found.rows


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_prediction_that_is_not_finite_is_refused_and_names_the_row(load, bad, probabilities):
    served = load()
    values = np.array([1.0, 1.0 if probabilities else bad])
    found = Predictions(values, np.array([[0.5, 0.5], [bad, 0.5]]) if probabilities else None)
    fake = SimpleNamespace(predict_columns=lambda columns: found, classes=served.predictor.classes)

    with pytest.raises(RequestError, match="row 1: the model's answer is not a finite number") as caught:
        ask(dataclasses.replace(served, predictor=fake))

    assert caught.value.status == 422


def test_an_error_of_the_model_is_422_and_quotes_nothing(load):
    with pytest.raises(RequestError) as caught:
        ask(load(), distance=-13)

    assert caught.value.status == 422
    assert "SECRET" not in f"{caught.value} {caught.value.__cause__}"


def test_requests_that_are_scored_together_get_the_answers_that_they_get_alone(load):
    served = load()
    bodies = [body_of({"distance": float(n)}, {"seats": n}) for n in range(1, 20)]
    alone = [batch(served, job(body))[0][0] for body in bodies]

    together, (rows,) = batch(served, *[job(body, request_id=f"r{n}") for n, body in enumerate(bodies)])

    np.testing.assert_allclose([a["probabilities"] for a in together], [a["probabilities"] for a in alone], atol=1e-9)
    assert [a["predictions"] for a in together] == [a["predictions"] for a in alone]
    assert [(request.request_id, request.rows) for request in rows.requests] == [(f"r{n}", 2) for n in range(19)]
    assert all(0 < request.milliseconds < 60_000 for request in rows.requests)


def test_one_bad_request_among_many_fails_alone(load):
    served = load()
    good = body_of({})
    results, rows = batch(served, job(good), job(b"{"), job(body_of({}, {"distance": -13})), job(body_of({"seats": "x"})), job(good))

    assert results[0] == results[4] == batch(served, job(good))[0][0]
    assert "not valid JSON" in results[1]
    assert "cannot score them" in results[2]
    assert results[3].startswith("row 0: seats: got a text")
    assert sum(part.rows for part in rows) == 2


def test_one_answer_that_is_not_finite_among_many_fails_alone(load):
    served = load()

    def predict_columns(columns):
        chances = np.where(columns["seats"] == 13, np.nan, 0.5)
        return Predictions(np.zeros(len(chances)), np.column_stack([chances, 1 - chances]))

    fake = SimpleNamespace(predict_columns=predict_columns, classes=served.predictor.classes)
    results, _ = batch(dataclasses.replace(served, predictor=fake), job(body_of({})), job(body_of({}, {"seats": 13})), job(body_of({})))

    assert results[0] == results[2] == {"predictions": [0.0], "probabilities": [[0.5, 0.5]]}
    assert results[1].startswith("row 1: the model's answer is not a finite number")


def test_both_protocols_are_scored_together(load):
    served = load()
    infer = {"inputs": [{"name": n, "shape": [1], "datatype": TENSORS[n], "data": [v]} for n, v in ROW.items()]}
    (mlflow, tensors), (rows,) = batch(served, job(body_of({})), job(json.dumps(infer).encode(), "infer"))

    assert rows.rows == 2
    assert [output["data"] for output in tensors["outputs"]] == [mlflow["predictions"], mlflow["probabilities"][0]]


def test_two_classes_log_the_probability_of_the_second(load):
    ((answer,), (rows,)) = batch(load(classes=("early", "late")), job(body_of({}, {})))

    assert set(answer["predictions"]) <= {"early", "late"}
    assert rows.scores == [p[1] for p in answer["probabilities"]]
    assert rows.probabilities is None


def test_more_classes_log_all_probabilities(load):
    ((answer,), (rows,)) = batch(load(task="multiclass_classification", classes=("a", "b", "c")), job(body_of({}, {})))

    assert rows.scores is None
    assert rows.probabilities.tolist() == answer["probabilities"]


def test_a_regression_answers_values_only(load):
    ((answer,), (rows,)) = batch(load(task="regression"), job(body_of({}, {})))

    assert answer == {"predictions": rows.scores}
    assert rows.scores == pytest.approx([361.0, 361.0])


def test_many_rows_are_encoded_as_few_are(load):
    served = load()
    many = batch(served, job(body_of(*[{"distance": float(n)} for n in range(500)])))[0][0]
    few = [batch(served, job(body_of({"distance": float(n)})))[0][0] for n in (0, 250, 499)]

    np.testing.assert_allclose([many["probabilities"][n] for n in (0, 250, 499)], [a["probabilities"][0] for a in few], atol=1e-9)
