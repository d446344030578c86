"""The two models that any challenger must hold its own against: one that ignores its input, and a linear one."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from windvane.config import ModelConfig
from windvane.model_code import ModelCode
from windvane.predictor import Predictions, make_features
from windvane.signature import Column, conform, describe_columns

_MOST_CATEGORIES = 50
_MOST_ROWS = 50_000


def fit_baselines(
    config: ModelConfig, code: ModelCode, columns: tuple[Column, ...], *, train: pd.DataFrame, holdout: pd.DataFrame
) -> Mapping[str, tuple[Predictions, list[Any] | None]]:
    """Fit both on the rows that the challenger was trained on and predict the holdout.

    Args:
        columns: The challenger's signature; the baselines see its features, times left out.

    Returns:
        `dummy` and `linear`, each with its predictions and its classes.
    """
    step = -(-len(train) // _MOST_ROWS)
    train = train.iloc[::step]
    made, newer = make_features(code, conform(train, columns)), make_features(code, conform(holdout, columns))
    inputs = [c for c in describe_columns(made, exclude=()) if c.type != "datetime"]
    made, newer = _plain(made, inputs), _plain(newer, inputs)
    found = {}
    for name, pipeline in (("dummy", _dummy(config)), ("linear", _linear(config, inputs))):
        pipeline.fit(made, train[config.data.label])
        if config.is_classifier:
            chances = pipeline.predict_proba(newer)
            found[name] = (Predictions(pipeline.classes_[chances.argmax(axis=1)], chances), pipeline.classes_.tolist())
        else:
            found[name] = (Predictions(pipeline.predict(newer), None), None)
    return found


def _plain(made: pd.DataFrame, inputs: list[Column]) -> pd.DataFrame:
    """Text as text and everything else as numbers, with NaN for what is missing."""
    columns = [Column(c.name, "string" if c.type == "string" else "double", nullable=True) for c in inputs]
    frame = conform(made, columns)
    texts = {c.name: frame[c.name].fillna("(missing)") for c in columns if c.type == "string"}
    return frame.assign(**texts).replace([float("inf"), float("-inf")], float("nan"))


def _dummy(config: ModelConfig) -> Any:
    from sklearn.dummy import DummyClassifier, DummyRegressor

    return DummyClassifier(strategy="prior") if config.is_classifier else DummyRegressor()


def _linear(config: ModelConfig, inputs: list[Column]) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    texts = [c.name for c in inputs if c.type == "string"]
    numbers = [c.name for c in inputs if c.type != "string"]
    columns = ColumnTransformer(
        [
            ("texts", OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=_MOST_CATEGORIES), texts),
            ("numbers", make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()), numbers),
        ]
    )
    return make_pipeline(columns, LogisticRegression(max_iter=200, tol=1e-3) if config.is_classifier else Ridge())
