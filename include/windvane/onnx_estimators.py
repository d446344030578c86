"""The estimators of scikit-learn that are written in ONNX here and not by skl2onnx, which loses precision or meaning with them.

Encoders and imputers keep what they make of missing and unknown values; trees keep double thresholds, categories and the way of
missing values. What scikit-learn would refuse with an error (an unknown category without `handle_unknown`) is not converted: ONNX
has no way to refuse.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from windvane.onnx_graph import Graph
from windvane.onnx_transformers import write_encoder, write_function, write_imputer, write_scaler
from windvane.onnx_tree_models import write_forest, write_gradient_boosting, write_hist_gradient_boosting


def converters() -> dict[type, tuple[Callable[[Any], None], Callable[[Any, Any, Any], None]]]:
    """Estimator type to its (shape calculator, converter) in the form that skl2onnx wants."""
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        GradientBoostingClassifier,
        GradientBoostingRegressor,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    forests = (RandomForestClassifier, ExtraTreesClassifier, RandomForestRegressor, ExtraTreesRegressor)
    table: dict[type, Callable[[Graph], None]] = {
        OrdinalEncoder: write_encoder,
        OneHotEncoder: write_encoder,
        SimpleImputer: write_imputer,
        StandardScaler: write_scaler,
        FunctionTransformer: write_function,
        HistGradientBoostingClassifier: write_hist_gradient_boosting,
        HistGradientBoostingRegressor: write_hist_gradient_boosting,
        GradientBoostingClassifier: write_gradient_boosting,
        GradientBoostingRegressor: write_gradient_boosting,
        **dict.fromkeys((*forests, DecisionTreeClassifier, DecisionTreeRegressor), write_forest),
    }
    return {kind: (_shapes, _converter(write)) for kind, write in table.items()}


def _converter(write: Callable[[Graph], None]) -> Callable[[Any, Any, Any], None]:
    return lambda scope, operator, container: write(Graph(scope, operator, container))


def _shapes(operator: Any) -> None:
    """Declare doubles, or the texts that an imputer passes on; a classifier's label comes first."""
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType

    estimator = operator.raw_operator
    rows = operator.inputs[0].get_first_dimension()
    texts = isinstance(operator.inputs[0].type, StringTensorType)
    if hasattr(estimator, "classes_"):
        label = Int64TensorType if np.asarray(estimator.classes_).dtype.kind in "biuf" else StringTensorType
        operator.outputs[0].type = label([rows])
        operator.outputs[1].type = DoubleTensorType([rows, len(estimator.classes_)])
    elif hasattr(estimator, "predict"):
        operator.outputs[0].type = DoubleTensorType([rows, 1])
    else:
        keeps_texts = texts and (hasattr(estimator, "statistics_") or hasattr(estimator, "func"))
        columns = sum(variable.type.shape[1] or 0 for variable in operator.inputs)
        width = len(estimator.get_feature_names_out()) if hasattr(estimator, "categories_") else columns or None
        operator.outputs[0].type = (StringTensorType if keeps_texts else DoubleTensorType)([rows, width])
