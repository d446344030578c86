import itertools
import logging
import re
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
)
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Lasso, LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from windvane.bundle import Bundle, open_bundle, write_bundle
from windvane.check_onnx import onnx_problem
from windvane.convert_onnx import TOLERANCE, convert_onnx
from windvane.errors import DataError
from windvane.model_code import load_model_code
from windvane.onnx_graph import NotConvertible
from windvane.onnx_predictor import OnnxPredictor
from windvane.predictor import golden_differences, load_predictor, predict_rows
from windvane.signature import conform, describe_columns
from windvane.skops_predictor import SkopsPredictor

NUMBERS, TEXTS = ["a", "b", "whole"], ["c", "d"]
CODE = """
def build_pipeline(params):
    return None
"""


def make_rows(seed, rows=1500):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "a": np.where(random.random(rows) < 0.1, np.nan, random.normal(size=rows)),
            "b": random.exponential(size=rows) * 1000,
            "whole": random.integers(0, 50, rows),
            "c": np.where(random.random(rows) < 0.1, None, random.choice(list("xyzuv"), rows)),
            "d": random.choice([f"k{i}" for i in range(150)], rows).astype(object),
        }
    )


X = make_rows(0)
NOISE = np.random.default_rng(1).random(len(X)) < 0.2
BINARY = pd.Series(((X["b"] > 500) ^ (X["c"] == "x") ^ NOISE).astype(float))
CLASSES = pd.Series(np.where(X["b"] < 300, "low", np.where(X["b"] < 1000, "mid", "high")))
NUMBER = X["b"] * 2 + X["whole"] * 100


def ordinal(**options):
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, **options)


def prepare(texts=None, numbers=None):
    numbers = numbers or make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer((numbers, NUMBERS), (texts or OneHotEncoder(handle_unknown="ignore"), TEXTS))


def boosted(model, **options):
    return make_pipeline(make_column_transformer((ordinal(**options), TEXTS), ("passthrough", NUMBERS)), model)


def linear(texts=None, numbers=None):
    return make_pipeline(prepare(texts, numbers), LogisticRegression(max_iter=500))


CATEGORIES = {"categorical_features": [0, 1], "max_iter": 30}
CONVERTIBLE = {
    "boosting on categories": (boosted(HistGradientBoostingClassifier(**CATEGORIES), max_categories=200), BINARY),
    "boosting on frequent categories": (boosted(HistGradientBoostingClassifier(**CATEGORIES), max_categories=60), BINARY),
    "boosting on encoded nulls": (boosted(HistGradientBoostingClassifier(**CATEGORIES), encoded_missing_value=-2), BINARY),
    "boosting on numbers": (boosted(HistGradientBoostingClassifier(max_iter=30)), BINARY),
    "boosting of classes": (boosted(HistGradientBoostingClassifier(**CATEGORIES)), CLASSES),
    "boosting of numbers": (boosted(HistGradientBoostingRegressor(**CATEGORIES)), NUMBER),
    "boosting of counts": (boosted(HistGradientBoostingRegressor(**CATEGORIES, loss="poisson")), NUMBER),
    "gradient boosting": (make_pipeline(prepare(), GradientBoostingClassifier(n_estimators=10)), BINARY),
    "gradient boosting, exponential": (make_pipeline(prepare(), GradientBoostingClassifier(n_estimators=10, loss="exponential")), BINARY),
    "gradient boosting of classes": (make_pipeline(prepare(), GradientBoostingClassifier(n_estimators=5)), CLASSES),
    "gradient boosting of numbers": (make_pipeline(prepare(), GradientBoostingRegressor(n_estimators=20)), NUMBER),
    "forest": (make_pipeline(prepare(), RandomForestClassifier(10, random_state=0)), BINARY),
    "forest with missing values": (make_pipeline(prepare(ordinal(), "passthrough"), RandomForestClassifier(10, random_state=0)), CLASSES),
    "forest of numbers": (make_pipeline(prepare(), RandomForestRegressor(5, random_state=0)), NUMBER),
    "extra trees": (make_pipeline(prepare(), ExtraTreesClassifier(5, random_state=0)), CLASSES),
    "one tree": (make_pipeline(prepare(), DecisionTreeClassifier(max_depth=5)), BINARY),
    "one tree of numbers": (make_pipeline(prepare(), DecisionTreeRegressor(max_depth=5)), NUMBER),
    "logistic regression": (linear(), BINARY),
    "logistic regression of classes": (linear(), CLASSES),
    "columns by type": (
        make_pipeline(
            make_column_transformer(
                (make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include="number")),
                (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include=object)),
            ),
            LogisticRegression(max_iter=500),
        ),
        BINARY,
    ),
    "one category dropped": (linear(OneHotEncoder(handle_unknown="ignore", drop="first")), BINARY),
    "rare categories": (linear(OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=12)), BINARY),
    "texts filled": (
        linear(
            make_pipeline(SimpleImputer(missing_values=None, strategy="constant", fill_value="?"), OneHotEncoder(handle_unknown="ignore"))
        ),
        BINARY,
    ),
    "scaled by range": (linear(numbers=make_pipeline(SimpleImputer(strategy="median"), MinMaxScaler())), BINARY),
    "ridge": (make_pipeline(prepare(), Ridge()), NUMBER),
    "lasso": (make_pipeline(prepare(numbers=make_pipeline(SimpleImputer(), RobustScaler())), Lasso()), NUMBER),
    "logarithm": (
        make_pipeline(make_column_transformer((FunctionTransformer(np.log1p), ["b"]), ("passthrough", ["whole"])), Ridge()),
        NUMBER,
    ),
    "calibrated": (make_pipeline(prepare(), CalibratedClassifierCV(LogisticRegression(max_iter=500), cv=2)), BINARY),
    "selected": (make_pipeline(prepare(), SelectKBest(f_classif, k=5), LogisticRegression()), BINARY),
    "network": (make_pipeline(prepare(), MLPClassifier((3,), max_iter=500, tol=1)), BINARY),
    "stack": (
        make_pipeline(
            prepare(), StackingClassifier([("a", LogisticRegression(max_iter=500)), ("b", DecisionTreeClassifier(max_depth=3))], cv=2)
        ),
        BINARY,
    ),
}
NUMERIC = {
    "bare": (Pipeline([("model", LogisticRegression(max_iter=5000))]), BINARY),
    "scaled": (make_pipeline(StandardScaler(), LogisticRegression()), BINARY),
    "boosting": (make_pipeline(HistGradientBoostingClassifier(max_iter=10)), BINARY),
    "bayes": (make_pipeline(StandardScaler(), GaussianNB()), CLASSES),
}


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "churn.py"
    path.write_text(CODE)
    return load_model_code(path, "churn")


def write(root, code, pipeline, label, rows=X, **options):
    classes = pipeline.classes_.tolist() if hasattr(pipeline, "classes_") else None
    manifest = {
        "model": "churn",
        "training_key": "a" * 64,
        "signature": [c.as_json() for c in describe_columns(rows, exclude=())],
        "classes": classes,
    }
    return write_bundle(root, pipeline=pipeline, code=code, golden=rows.head(20), reference=rows, manifest=manifest, **options)


def odd_rows():
    """Rows of another draw, with unknown categories, nulls and numbers at the edges."""
    rows = make_rows(7, 4000)
    rows.loc[:200, "d"] = "never seen"
    rows.loc[200:400, "c"] = "never seen"
    rows.loc[400:600, "c"] = None
    rows.loc[600:700, "a"] = np.nan
    rows.loc[700:800, "whole"] = 10**6
    rows.loc[800:1000, "b"] = X["b"].to_numpy()[:201]
    return rows


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize(("pipeline", "label"), CONVERTIBLE.values(), ids=CONVERTIBLE)
def test_the_usual_pipelines_are_served_in_onnx_and_say_what_scikit_learn_says(tmp_path, code, pipeline, label):
    pipeline.fit(X, label)
    bundle = write(tmp_path / "bundles", code, pipeline, label, sample=X)
    assert bundle.manifest["runtime"]["format"] == "onnx", bundle.manifest["runtime"]["reason"]
    assert bundle.manifest["runtime"]["rows"] == len(X)
    assert bundle.manifest["runtime"]["max_difference"] <= TOLERANCE
    predictor = load_predictor(open_bundle(tmp_path / "bundles", bundle.digest))
    assert predictor.runtime == "onnx"
    rows = odd_rows()
    wanted = predict_rows(pipeline, code, conform(rows, predictor.signature), classifier=predictor.classes is not None)
    found = predictor.predict(rows)
    assert found.values.tolist() == wanted.values.tolist() or predictor.classes is None
    if predictor.classes is None:
        np.testing.assert_allclose(found.values, wanted.values, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)
    assert golden_differences(predictor, tolerance=0.0) == []


@pytest.mark.parametrize(("pipeline", "label"), NUMERIC.values(), ids=NUMERIC)
def test_pipelines_without_a_column_transformer_are_converted(tmp_path, code, pipeline, label):
    rows = X[["b", "whole"]]
    pipeline.fit(rows, label)
    bundle = write(tmp_path, code, pipeline, label, rows=rows)
    assert bundle.manifest["runtime"]["format"] == "onnx", bundle.manifest["runtime"]["reason"]
    np.testing.assert_allclose(load_predictor(bundle).predict(rows).probabilities, pipeline.predict_proba(rows), atol=1e-6)


NOT_CONVERTIBLE = {
    "handle_unknown to 'ignore'": linear(OneHotEncoder()),
    "handle_unknown to 'use_encoded_value'": linear(OrdinalEncoder(encoded_missing_value=-1)),
    "set missing_values=None": linear(make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))),
    "adds or drops columns": linear(numbers=make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())),
    "function square": linear(numbers=make_pipeline(SimpleImputer(), FunctionTransformer(np.square))),
    "no predict_proba": make_pipeline(prepare(), RidgeClassifier()),
    "^model.onnx: cannot be loaded: Fail": make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=500)),
    "PowerTransformer|Conflicted": linear(numbers=make_pipeline(SimpleImputer(), PowerTransformer())),
}


@pytest.mark.parametrize(("pipeline", "reason"), zip(NOT_CONVERTIBLE.values(), NOT_CONVERTIBLE, strict=True), ids=NOT_CONVERTIBLE)
def test_what_does_not_convert_stays_with_skops_and_says_why(tmp_path, code, pipeline, reason):
    rows = X[["b", "whole"]] if isinstance(pipeline[0], StandardScaler) else X
    bundle = write(tmp_path, code, pipeline.fit(rows, BINARY), BINARY, rows=rows)
    assert bundle.manifest["runtime"]["format"] == "skops"
    assert re.search(reason, bundle.manifest["runtime"]["reason"])
    assert "model.onnx" not in bundle.files
    assert load_predictor(bundle).runtime == "skops"


@pytest.mark.parametrize(
    ("shift", "reason"),
    [(0.01, r"differs by up to 0\.01|another label"), (1e-4, "differs by up to 0.0001|another label"), (np.nan, "another label")],
)
def test_a_conversion_that_says_something_else_is_not_served(tmp_path, code, monkeypatch, shift, reason):
    real = OnnxPredictor._run
    monkeypatch.setattr(OnnxPredictor, "_run", lambda self, feed: real(self, feed) + np.array([[shift, -shift]]))
    bundle = write(tmp_path, code, linear().fit(X, BINARY), BINARY)
    assert bundle.manifest["runtime"]["format"] == "skops"
    assert re.search(reason, bundle.manifest["runtime"]["reason"])
    assert load_predictor(bundle).runtime == "skops"


def test_ties_of_a_forest_go_to_the_class_of_scikit_learn(tmp_path, code):
    rows = pd.DataFrame({"a": np.arange(400) % 20.0})
    label = pd.Series(np.random.default_rng(0).integers(0, 2, 400))
    pipeline = make_pipeline(RandomForestClassifier(10, random_state=0, max_features=1)).fit(rows, label)
    odd = pd.DataFrame({"a": np.arange(0, 20, 0.25)})
    predictor = load_predictor(write(tmp_path, code, pipeline, label, rows=rows))
    assert predictor.runtime == "onnx"
    assert predictor.predict(odd).values.tolist() == pipeline.predict(odd).tolist()


def test_thresholds_are_kept_to_the_last_bit(tmp_path, code):
    edge = 1.0 + 1e-12
    rows = pd.DataFrame({"a": np.repeat([edge, np.nextafter(edge, 2) + 1e-12], 100)})
    label = pd.Series(np.repeat([0, 1], 100))
    pipeline = make_pipeline(HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=5)).fit(rows, label)
    found = load_predictor(write(tmp_path, code, pipeline, label, rows=rows)).predict(rows)
    assert found.values.tolist() == label.tolist()


def test_a_split_on_missing_values_alone_is_kept(tmp_path, code):
    rows = pd.DataFrame({"a": np.where(np.arange(400) % 2, np.nan, np.arange(400.0))})
    label = pd.Series(np.arange(400) % 2)
    for number, model in enumerate((HistGradientBoostingClassifier(max_iter=3), RandomForestClassifier(3), DecisionTreeClassifier())):
        pipeline = make_pipeline(model).fit(rows, label)
        predictor = load_predictor(write(tmp_path / str(number), code, pipeline, label, rows=rows))
        assert predictor.runtime == "onnx"
        probe = pd.DataFrame({"a": [np.nan, 1e30, -1e30, 5.0]})
        np.testing.assert_allclose(predictor.predict(probe).probabilities, pipeline.predict_proba(probe), atol=1e-7)


def test_what_scikit_learn_refuses_gets_no_finite_answer(tmp_path, code):
    rows = X[["b", "whole"]]
    for number, model in enumerate((GradientBoostingClassifier(n_estimators=3), LogisticRegression(max_iter=500))):
        pipeline = make_pipeline(StandardScaler(), model).fit(rows, BINARY)
        predictor = load_predictor(write(tmp_path / str(number), code, pipeline, BINARY, rows=rows))
        assert predictor.runtime == "onnx"
        probe = pd.DataFrame({"b": [1.0, np.nan, 1e300 if number == 0 else np.nan], "whole": [1, 1, 1]})
        assert [predictor.predict(probe)[row : row + 1].finite() for row in range(3)] == [True, False, False]


def test_the_model_is_plain_onnx_with_one_output_of_doubles():
    data = convert_onnx(boosted(HistGradientBoostingClassifier(**CATEGORIES)).fit(X, BINARY), X, classifier=True)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model)
    assert onnx_problem(data) is None
    assert {opset.domain for opset in model.opset_import} == {"", "ai.onnx.ml"}
    assert [item.name for item in model.graph.input] == ["a", "b", "whole", "c", "d"]
    assert [item.type.tensor_type.elem_type for item in model.graph.output] == [onnx.TensorProto.DOUBLE]


def test_columns_that_the_pipeline_drops_are_no_inputs():
    rows = X.assign(seen=pd.Timestamp("2024-01-01", tz="UTC"))
    data = convert_onnx(linear().fit(rows, BINARY), rows, classifier=True)
    assert [item.name for item in onnx.load_from_string(data).graph.input] == ["a", "b", "whole", "c", "d"]


def test_a_giant_forest_is_not_converted(monkeypatch):
    monkeypatch.setattr("windvane.onnx_trees._MAX_NODES", 100)
    pipeline = make_pipeline(RandomForestClassifier(5)).fit(X[["b", "whole"]], BINARY)
    with pytest.raises(NotConvertible, match="at most 100"):
        convert_onnx(pipeline, X[["b", "whole"]], classifier=True)


UNTRACEABLE = """
import pandas as pd

def features(frame):
    return frame.assign(b=pd.to_numeric(frame["b"]) * 2, c=frame["c"].apply(lambda text: text))

def build_pipeline(params):
    return None
"""


def test_features_that_cannot_be_traced_run_on_pandas_in_front_of_onnx(tmp_path, caplog):
    path = tmp_path / "churn.py"
    path.write_text(UNTRACEABLE)
    code = load_model_code(path, "churn")
    pipeline = linear().fit(code.features(X), BINARY)
    with caplog.at_level(logging.INFO):
        bundle = write(tmp_path / "bundles", code, pipeline, BINARY, sample=X)
    assert "features() runs on pandas when serving" in caplog.text
    assert bundle.manifest["runtime"]["format"] == "onnx"
    assert bundle.manifest["runtime"]["features"] is None
    rows = odd_rows()
    found = load_predictor(bundle).predict(rows)
    np.testing.assert_allclose(found.probabilities, pipeline.predict_proba(code.features(rows)), atol=1e-9)


def test_a_trace_that_gives_something_else_than_pandas_is_not_used(tmp_path):
    path = tmp_path / "churn.py"
    path.write_text("calls = []\ndef features(frame):\n    calls.append(1)\n    return frame.assign(b=frame['b'] * len(calls))\n" + CODE)
    code = load_model_code(path, "churn")
    pipeline = linear().fit(X, BINARY)
    runtime = write(tmp_path / "bundles", code, pipeline, BINARY).manifest["runtime"]
    assert runtime["format"] == "skops" or runtime["features"] is None


def test_both_runtimes_read_the_same_columns(tmp_path, code):
    bundle = write(tmp_path, code, boosted(HistGradientBoostingClassifier(**CATEGORIES)).fit(X, BINARY), BINARY)
    with_skops = Bundle(bundle.digest, bundle.path, {**bundle.manifest, "runtime": {"format": "skops"}})
    columns = {
        "a": np.array([np.nan, 0.5]),
        "b": np.array([1.0, 2.0]),
        "whole": np.array([1, 2]),
        "c": np.array([None, "x"], dtype=object),
        "d": np.array(["k1", "?"], dtype=object),
    }
    predictors = [OnnxPredictor(bundle), SkopsPredictor(with_skops)]
    first, second = (predictor.predict_columns(columns) for predictor in predictors)
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-7)
    for predictor, name in itertools.product(predictors, columns):
        with pytest.raises(DataError, match=name):
            predictor.predict_columns({key: values for key, values in columns.items() if key != name})


def test_the_model_of_the_flights_is_traced_and_converted(tmp_path):
    code = load_model_code(Path(__file__).parents[2] / "include" / "models" / "flight_delay.py", "flight_delay")
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "scheduled_departure": pd.to_datetime(random.integers(1_357_000_000, 1_388_500_000, 3000), unit="s", utc=True),
            "carrier": random.choice(["UA", "AA", "B6"], 3000),
            "origin": random.choice(["JFK", "LGA", "EWR"], 3000),
            "dest": random.choice([f"D{i:02}" for i in range(105)], 3000),
            "distance": random.integers(100, 5000, 3000).astype(float),
        }
    )
    made = code.features(rows)
    late = ((made["minute_of_day"] > 800) ^ (random.random(3000) < 0.2)).astype(float)
    pipeline = code.build_pipeline({"max_iter": 20}).fit(made, late)
    manifest = {
        "model": "flight_delay",
        "training_key": "a" * 64,
        "signature": [c.as_json() for c in describe_columns(rows, exclude=())],
        "classes": [0.0, 1.0],
    }
    bundle = write_bundle(tmp_path, pipeline=pipeline, code=code, golden=rows.head(50), reference=rows, manifest=manifest, sample=rows)
    assert bundle.manifest["runtime"]["format"] == "onnx"
    assert bundle.manifest["runtime"]["features"]["columns"].keys() == set(made.columns)
    rows.loc[:100, "dest"] = "unknown"
    found = load_predictor(bundle).predict(rows).probabilities
    np.testing.assert_allclose(found, pipeline.predict_proba(code.features(rows)), atol=1e-7)
