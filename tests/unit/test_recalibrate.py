import json
import math

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression

from windvane.bundle import open_bundle, write_bundle
from windvane.check_onnx import onnx_problem
from windvane.convert_onnx import TOLERANCE, convert_onnx
from windvane.errors import DataError
from windvane.model_code import load_model_code
from windvane.predictor import golden_differences, load_predictor
from windvane.recalibrate import Recalibration, fit_recalibration, identity
from windvane.recalibrated_pipeline import is_recalibrated, recalibrate_pipeline, recalibration_of
from windvane.signature import describe_columns
from windvane.skops_predictor import SkopsPredictor

BINARY, CLASSES, NUMBER = "binary_classification", "multiclass_classification", "regression"


def expit(values):
    return 1 / (1 + np.exp(-values))


def softmax(values):
    raised = np.exp(values)
    return raised / raised.sum(axis=1, keepdims=True)


def binary(n, *, offset, slope, seed=0):
    random = np.random.default_rng(seed)
    odds = random.normal(0, 2, n)
    return (random.random(n) < expit(offset + slope * odds)).astype(float), expit(odds)


def test_binary_finds_the_offset_and_the_slope_of_the_log_odds():
    outcomes, chances = binary(40_000, offset=-1.5, slope=0.6)
    found = fit_recalibration(BINARY, outcomes, chances)
    assert found.slope == pytest.approx(0.6, abs=0.03)
    assert found.offsets[0] == pytest.approx(-1.5, abs=0.05)
    assert found.apply(chances).mean() == pytest.approx(outcomes.mean(), abs=0.001)


def test_multiclass_finds_the_offsets_up_to_a_constant():
    random = np.random.default_rng(1)
    logs = random.normal(size=(40_000, 3))
    true = softmax(0.7 * logs + [1.0, 0.0, -1.0])
    outcomes = (true.cumsum(axis=1) < random.random((40_000, 1))).sum(axis=1)
    found = fit_recalibration(CLASSES, outcomes, softmax(logs))
    assert found.slope == pytest.approx(0.7, abs=0.03)
    assert np.asarray(found.offsets) - found.offsets[1] == pytest.approx([1.0, 0.0, -1.0], abs=0.06)
    assert np.abs(found.apply(softmax(logs)) - true).max() < 0.02


def test_a_regression_keeps_the_slope_unless_another_is_surely_better():
    random = np.random.default_rng(2)
    values, noise = random.normal(size=(2, 1000))
    noise -= noise.mean()
    shifted = fit_recalibration(NUMBER, values + 2 + noise, values)
    assert (shifted.slope, shifted.offsets[0]) == (1.0, pytest.approx(2 * 1000 / 1010))
    turned = fit_recalibration(NUMBER, 0.5 * values - 1 + noise, values)
    assert (turned.slope, turned.offsets[0]) == (pytest.approx(0.5, abs=0.1), pytest.approx(-1, abs=0.1))


def test_the_order_of_scores_stays_even_if_the_outcomes_are_the_other_way_round():
    outcomes, chances = binary(5000, offset=0, slope=-2)
    found = fit_recalibration(BINARY, outcomes, chances)
    assert found.slope > 0
    assert (np.diff(found.apply(np.sort(chances))) >= 0).all()
    values = np.linspace(-1, 1, 500)
    assert fit_recalibration(NUMBER, -values + np.random.default_rng(0).normal(0, 0.1, 500), values).slope > 0


def test_few_rows_move_little():
    many, chances = binary(10_000, offset=-2, slope=1)
    of_many = fit_recalibration(BINARY, many, chances).offsets[0]
    of_few = fit_recalibration(BINARY, many[:25], chances[:25]).offsets[0]
    assert abs(of_few) < 0.7 * abs(of_many)
    assert fit_recalibration(BINARY, many[:19], chances[:19]) == identity(BINARY)
    line = fit_recalibration(NUMBER, np.ones(20), np.zeros(20))
    assert line.offsets[0] == pytest.approx(20 / 30)


def test_what_tells_nothing_changes_nothing():
    chances = np.linspace(0.1, 0.9, 100)
    assert fit_recalibration(BINARY, np.ones(100), chances).is_identity
    assert fit_recalibration(BINARY, np.full(100, np.nan), chances).is_identity
    assert identity(CLASSES, 3).apply(np.eye(3)).tolist() == np.eye(3).tolist()


def test_sure_scores_stay_probabilities():
    found = Recalibration(BINARY, 0.5, (-1.0,))
    moved = found.apply(np.array([0.0, 0.5, 1.0]))
    assert moved[1] == pytest.approx(expit(-1.0))
    assert 0 < moved[0] < moved[1] < moved[2] < 1
    several = Recalibration(CLASSES, 2.0, (1.0, 0.0)).apply(np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert several.sum(axis=1) == pytest.approx([1, 1])
    assert several[1, 0] == pytest.approx(expit(1.0))


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=0, max_size=60),
    seed=st.integers(0, 99),
    task=st.sampled_from([BINARY, NUMBER]),
)
def test_odd_scores_give_a_finite_map(scores, seed, task):
    outcomes = np.random.default_rng(seed).integers(0, 2, len(scores)).astype(float)
    found = fit_recalibration(task, outcomes, np.asarray(scores, dtype=float))
    assert math.isfinite(found.slope)
    assert found.slope > 0
    assert all(map(math.isfinite, found.offsets))


def test_one_map_after_another_is_one_map():
    scores = np.linspace(0.01, 0.99, 50)
    first, second = Recalibration(BINARY, 0.5, (-1.0,)), Recalibration(BINARY, 2.0, (0.3,))
    assert second.after(first).apply(scores) == pytest.approx(second.apply(first.apply(scores)), abs=1e-12)
    several = np.random.default_rng(0).dirichlet([1, 1, 1], 50)
    first, second = Recalibration(CLASSES, 0.5, (-1.0, 0.2, 0.0)), Recalibration(CLASSES, 2.0, (0.3, 0.0, 1.0))
    assert second.after(first).apply(several) == pytest.approx(second.apply(first.apply(several)), abs=1e-9)
    first, second = Recalibration(NUMBER, 0.5, (-1.0,)), Recalibration(NUMBER, 2.0, (3.0,))
    assert (second.after(first).slope, second.after(first).offsets) == (1.0, (1.0,))


def test_json_round_trip_and_what_is_refused():
    found = Recalibration(CLASSES, 0.5, (-1.0, 1.0), 77)
    assert Recalibration.from_json(json.loads(json.dumps(found.as_json()))) == found
    for odd in ({"slope": 0}, {"slope": math.nan}, {"offsets": []}, {"offsets": [math.inf]}, {"offsets": None}, {"slope": "x"}):
        with pytest.raises(DataError, match="recalibration"):
            Recalibration.from_json({**found.as_json(), **odd})
    with pytest.raises(DataError, match="shape"):
        found.apply(np.zeros((4, 3)))
    with pytest.raises(DataError, match="as many"):
        fit_recalibration(BINARY, np.zeros(30), np.zeros(31))


ROWS = pd.DataFrame(np.random.default_rng(3).normal(size=(600, 3)), columns=["a", "b", "c"])
SIGNAL = ROWS["a"] + ROWS["b"] ** 2
LABELS = {BINARY: (SIGNAL > 1).astype(int), CLASSES: pd.Series(np.digitize(SIGNAL, [0, 2])).map({0: "x", 1: "y", 2: "z"}), NUMBER: SIGNAL}
MAPS = {
    BINARY: Recalibration(BINARY, 0.6, (-0.8,)),
    CLASSES: Recalibration(CLASSES, 1.4, (0.5, -0.2, 0.1)),
    NUMBER: Recalibration(NUMBER, 0.9, (3.0,)),
}
MODELS = [
    (BINARY, HistGradientBoostingClassifier(max_iter=10)),
    (BINARY, LogisticRegression()),
    (CLASSES, HistGradientBoostingClassifier(max_iter=10)),
    (NUMBER, HistGradientBoostingRegressor(max_iter=10)),
    (NUMBER, LinearRegression()),
]


@pytest.mark.parametrize(("task", "model"), MODELS, ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_a_recalibrated_pipeline_is_stored_and_serves_on_onnx_as_with_scikit_learn(tmp_path, task, model):
    path = tmp_path / "model.py"
    path.write_text("def features(frame):\n    return frame[['a', 'b', 'c']]\ndef build_pipeline(params):\n    return None\n")
    fitted = model.fit(ROWS, LABELS[task])
    bundle = write_bundle(
        tmp_path / "bundles",
        pipeline=recalibrate_pipeline(fitted, MAPS[task]),
        code=load_model_code(path, "churn"),
        golden=ROWS.head(50),
        reference=ROWS.head(10),
        manifest={
            "model": "churn",
            "task": task,
            "training_key": "0" * 64,
            "signature": [column.as_json() for column in describe_columns(ROWS, exclude=())],
            "classes": None if task == NUMBER else fitted.classes_.tolist(),
        },
        sample=ROWS,
    )
    assert bundle.manifest["runtime"]["format"] == "onnx", bundle.manifest["runtime"]
    assert bundle.manifest["runtime"]["max_difference"] <= TOLERANCE
    assert onnx_problem((bundle.path / "model.onnx").read_bytes()) is None
    onnx.checker.check_model(onnx.load(bundle.path / "model.onnx"), full_check=True)
    bundle = open_bundle(tmp_path / "bundles", bundle.digest)
    assert golden_differences(load_predictor(bundle)) == []
    loaded = SkopsPredictor(bundle)
    assert golden_differences(loaded) == []
    assert is_recalibrated(loaded.pipeline)
    if task == NUMBER:
        assert loaded.predict(ROWS).values == pytest.approx(3 + 0.9 * fitted.predict(ROWS), abs=1e-12)
    else:
        chances = fitted.predict_proba(ROWS)
        wanted = MAPS[task].apply(chances[:, 1] if task == BINARY else chances)
        got = loaded.predict(ROWS)
        assert (got.probabilities[:, 1] if task == BINARY else got.probabilities) == pytest.approx(wanted, abs=1e-12)
        assert (got.values == loaded.pipeline.predict(ROWS)).all()


def test_a_second_calibration_does_not_pile_up():
    fitted = LinearRegression().fit(ROWS, SIGNAL)
    twice = recalibrate_pipeline(recalibrate_pipeline(fitted, MAPS[NUMBER]), Recalibration(NUMBER, 2.0, (1.0,)))
    assert twice.pipeline is fitted
    assert (recalibration_of(twice).slope, recalibration_of(twice).offsets) == (1.8, (7.0,))
    with pytest.raises(NotImplementedError):
        twice.fit(ROWS, SIGNAL)


def test_a_recalibrated_sure_probability_is_the_same_in_onnx():
    fitted = LogisticRegression(C=1e9, max_iter=2000).fit(pd.DataFrame({"a": [-40.0, -30.0, 30.0, 40.0]}), [0, 0, 1, 1])
    pipeline, rows = recalibrate_pipeline(fitted, MAPS[BINARY]), pd.DataFrame({"a": np.linspace(-500, 500, 41)})
    from windvane.onnx_predictor import open_session

    session = open_session(convert_onnx(pipeline, rows, classifier=True))
    found = session.run(None, {"a": rows[["a"]].to_numpy()})[0]
    assert np.abs(found - pipeline.predict_proba(rows)).max() < 1e-9
    assert found[0, 1] > 0
