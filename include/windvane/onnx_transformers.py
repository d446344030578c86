"""Writes scikit-learn's encoders, imputers and scalers in ONNX.

Encoders are asked what they make of every category, of a missing value and of an unknown one, and ONNX gets that table.
"""

import math
import warnings
from typing import Any

import numpy as np

from windvane.onnx_graph import Graph, NotConvertible
from windvane.onnx_predictor import NULL

_UNKNOWN_TEXT = "\x00unknown"


def write_encoder(graph: Graph) -> None:
    """An OrdinalEncoder or OneHotEncoder."""
    columns = graph.columns(len(graph.estimator.categories_))
    graph.finish(graph.concat([_look_up(graph, i, name, text=text) for i, (name, text) in enumerate(columns)]))


def _look_up(graph: Graph, column: int, name: str, *, text: bool) -> str:
    """Each value of a column by the encoder's own table, shape (n, width)."""
    encoder = graph.estimator
    if encoder.handle_unknown == "error":
        raise NotConvertible(
            f"{type(encoder).__name__} refuses unknown categories, which ONNX cannot; set handle_unknown to "
            f"{'ignore' if hasattr(encoder, 'drop_idx_') else 'use_encoded_value'!r}"
        )
    known = list(encoder.categories_[column])
    keys = [_key(value, text=text) for value in known]
    missing, unknown = (NULL, _UNKNOWN_TEXT) if text else (math.nan, _unknown_number(known))
    table = _ask(encoder, column, [*known, None if text else math.nan, unknown])
    if missing not in keys and not (not text and any(key != key for key in keys)):
        keys.append(missing)
    else:
        table = np.delete(table, len(known), axis=0)
    if len({repr(key) for key in keys}) != len(keys):
        raise NotConvertible(f"{type(encoder).__name__} tells None from NaN, which ONNX cannot; leave one of them in the data")
    if table.shape[1] == 1:
        return map_values(graph, name, keys, table[:-1, 0], default=table[-1, 0], text=text)
    place = map_values(graph, name, keys, np.arange(len(keys)), default=len(keys), text=text)
    return graph.add("Gather", graph.constant(table), graph.add("Reshape", place, graph.constant([-1])), axis=0)


def map_values(graph: Graph, name: str, keys: list[Any], values: np.ndarray, *, default: Any, text: bool) -> str:
    """Replace each key by its value, all else by the default; keys are texts or doubles."""
    from onnx import numpy_helper

    kind = np.asarray(values).dtype
    attributes: dict[str, Any] = {
        "values_tensor": numpy_helper.from_array(np.asarray(values), "values"),
        "default_tensor": numpy_helper.from_array(np.asarray([default], dtype=kind), "default"),
    }
    if text:
        attributes["keys_strings"] = [key.encode() for key in keys]
    else:
        attributes["keys_tensor"] = numpy_helper.from_array(np.asarray(keys, dtype=float), "keys")
    return graph.add("LabelEncoder", name, version=3, **attributes)


def _key(value: Any, *, text: bool) -> Any:
    if not text:
        return float(value)
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return NULL
    raise NotConvertible(f"a category of a text column is no text but {type(value).__name__}")


def _unknown_number(known: list[Any]) -> float:
    finite = [float(value) for value in known if value == value]
    return float(np.floor(max(finite, default=0.0)) + 7.0)


def _ask(encoder: Any, column: int, values: list[Any]) -> np.ndarray:
    """What the encoder makes of some values of one of its columns, shape (values, width) in doubles."""
    import pandas as pd

    frame = {}
    for i, known in enumerate(encoder.categories_):
        kind = object if known.dtype.kind in "OUS" else float
        frame[i] = pd.Series(values if i == column else [known[0]] * len(values), dtype=kind)
    rows = pd.DataFrame(frame)
    named = hasattr(encoder, "feature_names_in_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = encoder.transform(rows.set_axis(encoder.feature_names_in_, axis=1) if named else rows.to_numpy(dtype=object))
    dense = np.asarray(made.todense() if hasattr(made, "todense") else made, dtype=float)
    if not hasattr(encoder, "drop_idx_"):
        return dense[:, [column]]
    widths = [len(encoder._compute_transformed_categories(i)) for i in range(len(encoder.categories_))]
    begin = sum(widths[:column])
    return dense[:, begin : begin + widths[column]]


def write_imputer(graph: Graph) -> None:
    """A SimpleImputer."""
    imputer = graph.estimator
    if imputer.indicator_ is not None or len(imputer.get_feature_names_out()) != imputer.n_features_in_:
        raise NotConvertible("SimpleImputer adds or drops columns; leave add_indicator off and drop columns without any value")
    made = [_fill(graph, i, name, text=text) for i, (name, text) in enumerate(graph.columns(imputer.n_features_in_))]
    graph.finish(graph.concat(made))


def _fill(graph: Graph, column: int, name: str, *, text: bool) -> str:
    imputer = graph.estimator
    fill = imputer.statistics_[column]
    if text:
        if imputer.missing_values is not None:
            raise NotConvertible("SimpleImputer of a text column looks for NaN, but a missing text is None; set missing_values=None")
        return graph.add("Where", graph.add("Equal", name, graph.constant([NULL])), graph.constant([str(fill)]), name)
    if not (isinstance(imputer.missing_values, float) and math.isnan(imputer.missing_values)):
        raise NotConvertible(f"SimpleImputer of a number looks for {imputer.missing_values!r}; only NaN is supported")
    return graph.add("Where", graph.add("IsNaN", name), graph.constant([float(fill)]), name)


def write_scaler(graph: Graph) -> None:
    """A StandardScaler."""
    scaler, made = graph.estimator, graph.matrix()
    if scaler.with_mean:
        made = graph.add("Sub", made, graph.constant(scaler.mean_))
    if scaler.with_std:
        made = graph.add("Div", made, graph.constant(scaler.scale_))
    graph.finish(made)


def write_function(graph: Graph) -> None:
    """The identity, which also joins columns, and NumPy's functions that ONNX has too; another function needs its own code."""
    function = graph.estimator.func
    steps = {None: (), np.abs: ("Abs",), np.exp: ("Exp",), np.log: ("Log",), np.sqrt: ("Sqrt",), np.log1p: ("+1", "Log")}
    if function not in steps or graph.estimator.kw_args:
        raise NotConvertible(f"FunctionTransformer with the function {getattr(function, '__name__', '?')}; do it in features() instead")
    made = graph.joined() if function is None else graph.matrix()
    for step in steps[function]:
        made = graph.add("Add", made, graph.constant([1.0])) if step == "+1" else graph.add(step, made)
    graph.finish(made)
