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

from windvane.errors import BundleError, ModelCodeError
from windvane.model_code import load_model_code
from windvane.predictor import Predictions, make_features, predict_features, untrusted_types

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
