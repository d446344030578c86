import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.ensemble import (
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
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier

from windvane.bundle import Bundle, write_bundle
from windvane.errors import BundleError, DataError, ModelCodeError
from windvane.model_code import load_model_code
from windvane.predictor import Predictions, load_predictor, make_features, predict_features
from windvane.signature import arrays_of, conform, describe_columns, frame_of
from windvane.skops_predictor import untrusted_types

RANDOM = np.random.default_rng(0)
X = pd.DataFrame({"a": RANDOM.normal(size=80), "b": RANDOM.normal(size=80), "c": RANDOM.choice(list("xyz"), 80)})
Y = (X["a"] > 0).astype(int)


def prepare():
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include="number")),
            ("texts", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["c"]),
            ("same", FunctionTransformer(np.abs), ["a"]),
        ]
    )


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingClassifier(max_iter=3),
        HistGradientBoostingClassifier(max_iter=3, categorical_features=[2]),
        HistGradientBoostingClassifier(max_iter=3, early_stopping=True),
        HistGradientBoostingRegressor(max_iter=3, loss="quantile", quantile=0.5),
        RandomForestClassifier(3),
        RandomForestRegressor(3),
        GradientBoostingClassifier(n_estimators=3),
        GradientBoostingRegressor(n_estimators=3, loss="huber"),
        CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=3), cv=2),
        CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2),
        StackingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())], cv=2),
        KNeighborsClassifier(),
        MLPClassifier(hidden_layer_sizes=(2,), max_iter=300, tol=1),
        TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
        make_pipeline(SelectKBest(f_classif, k=2), LogisticRegression()),
        make_pipeline(QuantileTransformer(n_quantiles=5), SplineTransformer(), LogisticRegression()),
        make_pipeline(PowerTransformer(), KBinsDiscretizer(n_bins=2, quantile_method="averaged_inverted_cdf"), LogisticRegression()),
    ],
    ids=lambda model: str(model).split("(")[0],
)
@pytest.mark.filterwarnings("ignore:Bins whose width are too small")
def test_common_tabular_pipelines_load_with_the_platforms_list_alone(model):
    pipeline = Pipeline([("prepare", prepare()), ("model", model)]).fit(X, Y)
    data = skops.io.dumps(pipeline)
    assert untrusted_types(data, "churn") == []
    loaded = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    np.testing.assert_array_equal(loaded.predict(X), pipeline.predict(X))


def test_encoders_load_with_the_platforms_list_alone():
    encoders = [("target", TargetEncoder(cv=2), ["c"]), ("order", OrdinalEncoder(max_categories=2), ["c"])]
    pipeline = Pipeline([("prepare", ColumnTransformer(encoders)), ("model", LogisticRegression())]).fit(X, Y)
    assert untrusted_types(skops.io.dumps(pipeline), "churn") == []


def test_only_functions_of_the_own_model_file_are_trusted(tmp_path):
    path = tmp_path / "churn.py"
    path.write_text("def double(x):\n    return x * 2\n\ndef build_pipeline(params):\n    return None\n")
    code = load_model_code(path, "churn")
    data = skops.io.dumps(FunctionTransformer(code.module.double))
    assert untrusted_types(data, "churn") == []
    assert untrusted_types(data, "other") == ["windvane_model_churn.double"]
    assert untrusted_types(data, "chur") == ["windvane_model_churn.double"]


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(BundleError, match="not a skops file"):
        untrusted_types(b"PK\x03\x04 not really", "churn")


@pytest.mark.parametrize("body", ["return frame.head(1)", "raise KeyError('secret-value')"], ids=["fewer rows", "raises"])
def test_features_that_fail_or_drop_rows_are_named_without_data(tmp_path, body):
    path = tmp_path / "churn.py"
    path.write_text(f"def features(frame):\n    {body}\n\ndef build_pipeline(params):\n    return None\n")
    with pytest.raises(ModelCodeError, match=r"churn.py: features\(\)") as caught:
        make_features(load_model_code(path, "churn"), X)
    assert "secret-value" not in str(caught.value)


def test_features_may_not_change_the_callers_frame(tmp_path):
    path = tmp_path / "churn.py"
    path.write_text("def features(frame):\n    frame['a'] = 0.0\n    return frame\n\ndef build_pipeline(params):\n    return None\n")
    before = X.copy()
    make_features(load_model_code(path, "churn"), X)
    pd.testing.assert_frame_equal(X, before)


def test_labels_are_the_most_probable_class():
    pipeline = make_pipeline(LogisticRegression()).fit(X[["a"]], np.where(Y, "yes", "no"))
    found = predict_features(pipeline, X[["a"]], where="churn.py", classifier=True)
    assert found.values.tolist() == pipeline.predict(X[["a"]]).tolist()
    assert found.probabilities.shape == (80, 2)
    assert found[:3].values.tolist() == found.values[:3].tolist()


@pytest.mark.parametrize(("value", "finite"), [(0.5, True), (np.nan, False), (np.inf, False)])
def test_finite(value, finite):
    assert Predictions(np.array([1.0, value]), None).finite() is finite
    assert Predictions(np.array(["a", "b"]), np.array([[0.5, 0.5], [0.5, value]])).finite() is finite


HEAVY = ("pandas", "sklearn", "skops", "scipy", "joblib", "onnx", "skl2onnx", "pyarrow")


def loaded_after(code):
    found = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True).stdout
    return json.loads(found.splitlines()[-1])


@pytest.mark.parametrize("module", ["windvane.bundle", "windvane.predictor", "windvane.signature", "windvane.onnx_predictor"])
def test_importing_stays_light(module):
    assert loaded_after(f"import json, {module}; print(json.dumps(sorted({{*{HEAVY!r}, 'onnxruntime'}} & set(sys.modules))))") == []


ROWS = pd.DataFrame(
    {
        "text": RANDOM.choice(["a", "b", None], 80),
        "number": np.where(RANDOM.random(80) < 0.2, np.nan, RANDOM.normal(size=80)),
        "whole": RANDOM.integers(0, 9, 80),
        "flag": RANDOM.random(80) < 0.5,
        "perhaps": RANDOM.choice([True, False, None], 80),
        "at": pd.date_range("2024-03-09", periods=80, freq="h", tz="UTC"),
        "maybe": pd.Series(pd.date_range("2024-01-01", periods=80, freq="D", tz="UTC")).where(RANDOM.random(80) < 0.8),
    }
)
MODEL_FILE = """
def features(frame):
    local = frame["at"].dt.tz_convert("America/New_York")
    hours = (frame["at"] - frame["maybe"]).dt.total_seconds() / 3600
    made = frame.assign(hour=local.dt.hour, hours=hours.fillna(-1.0), known=frame["perhaps"].notna())
    return made.drop(columns=["at", "maybe", "perhaps"])


def build_pipeline(params):
    return None
"""


def every_kind_of_column(root, *, runtime=None):
    """A bundle with each type of column, and what scikit-learn says of its rows."""
    path = root / "churn.py"
    path.write_text(MODEL_FILE)
    code = load_model_code(path, "churn")
    columns = describe_columns(ROWS, exclude=())
    made = code.features(conform(ROWS, columns))
    texts = OneHotEncoder(handle_unknown="ignore")
    prepare = ColumnTransformer(
        [("texts", texts, ["text"]), ("numbers", SimpleImputer(), ["number", "whole", "flag", "hour", "hours", "known"])]
    )
    pipeline = make_pipeline(prepare, RandomForestClassifier(5, random_state=0)).fit(made, np.where(ROWS["flag"], "yes", "no"))
    manifest = {
        "model": "churn",
        "training_key": "a" * 64,
        "signature": [c.as_json() for c in columns],
        "classes": ["no", "yes"],
    }
    bundle = write_bundle(root / "bundles", pipeline=pipeline, code=code, golden=ROWS, reference=ROWS, manifest=manifest)
    assert bundle.manifest["runtime"]["format"] == "onnx"
    assert bundle.manifest["runtime"]["features"] is not None
    if runtime == "skops":
        bundle = Bundle(bundle.digest, bundle.path, {name: value for name, value in bundle.manifest.items() if name != "runtime"})
    return bundle, pipeline.predict_proba(made)


@pytest.mark.parametrize("runtime", ["onnx", "skops"])
def test_a_frame_and_its_columns_are_predicted_alike(tmp_path, runtime):
    bundle, wanted = every_kind_of_column(tmp_path, runtime=runtime)
    predictor = load_predictor(bundle)
    assert predictor.runtime == runtime
    assert predictor.classes == ("no", "yes")
    columns = arrays_of(conform(ROWS, predictor.signature), predictor.signature)
    for found in (predictor.predict(ROWS.iloc[:, ::-1]), predictor.predict_columns(columns)):
        np.testing.assert_allclose(found.probabilities, wanted, atol=1e-7)
        assert found.values.tolist() == np.array(["no", "yes"])[wanted.argmax(axis=1)].tolist()
    one = predictor.predict_columns({name: values[7:8] for name, values in columns.items()})
    np.testing.assert_allclose(one.probabilities, wanted[7:8], atol=1e-7)
    many = predictor.predict_columns({name: np.tile(values, 20) for name, values in columns.items()})
    np.testing.assert_allclose(many.probabilities, np.tile(wanted, (20, 1)), atol=1e-7)
    with pytest.raises(DataError, match="number"):
        predictor.predict_columns({name: values for name, values in columns.items() if name != "number"})


def test_the_arrays_of_a_frame_make_the_frame_again():
    columns = describe_columns(ROWS, exclude=())
    rows = conform(ROWS, columns)
    arrays = arrays_of(rows, columns)
    assert {name: str(values.dtype) for name, values in arrays.items()} == {
        "text": "object",
        "number": "float64",
        "whole": "int64",
        "flag": "bool",
        "perhaps": "float64",
        "at": "datetime64[us]",
        "maybe": "datetime64[us]",
    }
    pd.testing.assert_frame_equal(frame_of(arrays, columns), rows)


def test_onnx_is_served_without_pandas_and_scikit_learn(tmp_path):
    bundle, _ = every_kind_of_column(tmp_path)
    code = f"""
import json
import numpy as np
from pathlib import Path
from windvane.bundle import open_bundle
from windvane.predictor import load_predictor
predictor = load_predictor(open_bundle(Path({str(bundle.path.parent)!r}), {bundle.digest!r}))
moment = np.array(["2024-07-01T12:00:00"], "datetime64[us]")
columns = {{"text": np.array([None]), "number": np.array([np.nan]), "whole": np.array([3]), "flag": np.array([True]),
    "perhaps": np.array([np.nan]), "at": moment, "maybe": moment}}
assert predictor.predict_columns(columns).finite()
print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))
"""
    assert loaded_after(code) == []


def test_the_code_of_an_onnx_model_is_imported_only_when_asked_for(tmp_path):
    bundle, _ = every_kind_of_column(tmp_path)
    sys.modules.pop("windvane_model_churn")
    predictor = load_predictor(bundle)
    assert "windvane_model_churn" not in sys.modules
    assert predictor.code.sha256 == bundle.manifest["files"]["model.py"]


def test_nothing_is_reported_to_the_maker_of_the_runtime():
    told = "import os, windvane.onnx_predictor; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", told], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
